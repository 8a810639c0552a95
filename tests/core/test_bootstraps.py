"""What is told of the nodes to join through, and what names stand for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.bootstraps import ADDRESSES_OF_NAME, ANSWERS, Bootstraps, DnsAddr, parse_dnsaddr, read_answers, told
from node.errors import WhyNot
from protocol.addresses import Address, parse_address
from protocol.ids import PeerId
from tests.protocol import samples, swarm_samples

OURS, ANNE = samples.AUTHOR, swarm_samples.OTHER
NAME = DnsAddr("bootstrap.example.org")


def at(port: int, peer: PeerId = ANNE) -> Address:
    return Address("ip4", "192.0.2.1", port, peer)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("/dnsaddr/bootstrap.example.org", NAME),
        ("/dnsaddr/Bootstrap.Example.ORG.", NAME),
        (f"/dnsaddr/bootstrap.example.org/p2p/{ANNE}", DnsAddr("bootstrap.example.org", ANNE)),
    ],
)
def test_a_name_has_one_spelling(text: str, name: DnsAddr) -> None:
    assert parse_dnsaddr(text) == name
    assert parse_dnsaddr(str(name)) == name


@pytest.mark.parametrize(
    "text",
    [
        "/dnsaddr/",
        "/dnsaddr/a b",
        "/dnsaddr/a.example/tcp/1",
        "/dnsaddr/a.example/p2p/12D3KooWno",
        "/dnsaddr/a.example/p2p/",
        "/dns/a.example",
        "/dnsaddr/192.0.2.1",
        f"/dnsaddr/{'a' * 300}",
    ],
)
def test_what_is_no_such_name_is_none(text: str) -> None:
    assert parse_dnsaddr(text) is None


def test_answers_hold_addresses_and_further_names_and_the_rest_is_passed_over() -> None:
    answers = [
        f"dnsaddr={at(1)}",
        f"dnsaddr={at(1)}",
        "dnsaddr=/ip4/192.0.2.1/tcp/2",  # of nobody in particular
        f"dnsaddr=/ip4/192.0.2.1/udp/2/quic-v1/p2p/{ANNE}",
        "dnsaddr=/dnsaddr/other.example",
        "v=spf1 -all",
        "dnsaddr",
    ]
    assert read_answers(NAME, answers) == ((at(1),), (DnsAddr("other.example"),))


def test_of_a_name_that_means_one_peer_the_others_are_left_out() -> None:
    only_anne = DnsAddr(NAME.name, ANNE)
    answers = [f"dnsaddr={at(1)}", f"dnsaddr={at(2, OURS)}", "dnsaddr=/dnsaddr/other.example"]
    assert read_answers(only_anne, answers) == ((at(1),), ())


@given(st.lists(st.text(max_size=80) | st.text(max_size=40).map("dnsaddr=".__add__), max_size=ANSWERS + 5))
def test_whatever_a_name_server_says_nothing_breaks(answers: list[str]) -> None:
    addresses, names = read_answers(NAME, answers)
    assert all(address.peer is not None for address in addresses)
    assert len(addresses) + len(names) <= ANSWERS


def test_each_bootstrap_has_its_last_error_until_it_goes_well() -> None:
    book = Bootstraps(OURS, [at(1), at(2, OURS)])
    waiting, ourselves = book.facts((), 0.0)
    assert (waiting["state"], waiting["error"], waiting["tried_s_ago"]) == ("waiting", None, None)
    assert ourselves["state"] == "ourselves"
    book.ended(at(1), WhyNot.REFUSED, "refused: nobody listens", 1.0)
    book.ended(at(1), WhyNot.HANGING, "says nothing", 3.0)
    book.ended(at(9), WhyNot.REFUSED, "of another", 3.0)
    row = book.facts((), 5.0)[0]
    assert (row["state"], row["why"], row["error"], row["failures"], row["tried_s_ago"], row["well_s_ago"]) == (
        "failing",
        "hanging",
        "says nothing",
        2,
        2.0,
        None,
    )
    assert told(book.facts((), 5.0)) == "/ip4/192.0.2.1/tcp/1: says nothing"
    book.ended(at(1), None, "", 6.0)
    book.parted(ANNE, WhyNot.WRONG_SWARM, "it parted", 7.0)
    assert book.facts((), 8.0)[0]["why"] == "wrong_swarm"
    book.ended(at(1), None, "", 9.0)
    row = book.facts({ANNE}, 10.0)[0]
    assert (row["state"], row["why"], row["failures"], row["well_s_ago"]) == ("connected", None, 0, 1.0)
    assert told(book.facts({ANNE}, 10.0)) == ""


def test_a_name_is_told_with_what_it_stands_for() -> None:
    book = Bootstraps(OURS, [at(1)], [NAME])
    book.unresolved(NAME, WhyNot.NO_NAME, "no name server answered", 1.0)
    assert [(row["address"], row["state"]) for row in book.facts((), 1.0)] == [
        (str(at(1)), "waiting"),
        (str(NAME), "failing"),
    ]
    book.resolved(NAME, [at(1), at(2), *(at(port) for port in range(100, 200))], 2.0)
    rows = book.facts((), 2.0)
    assert len(rows) == 2 + ADDRESSES_OF_NAME - 1  # the first was given too, and is told once
    assert (rows[1]["state"], rows[2]["address"], rows[2]["by"]) == ("resolved", str(at(2)), str(NAME))
    book.ended(at(2), WhyNot.SILENT, "no answer", 3.0)
    book.resolved(NAME, [at(3)], 4.0)
    assert [row["address"] for row in book.facts((), 4.0)] == [str(at(1)), str(NAME), str(at(3))]
    book.unresolved(NAME, WhyNot.NO_NAME, "gone", 5.0)
    assert book.facts((), 5.0)[2]["address"] == str(at(3))  # what it last stood for still counts


def test_who_named_nobody_but_himself_named_nobody() -> None:
    assert told(Bootstraps(OURS, [at(1, OURS)]).facts((), 0.0)) == ""
    assert parse_address(str(at(1))) == at(1)
