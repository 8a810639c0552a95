"""Who may come in, as a pure decision."""

import ipaddress
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from node.adapters.p2p.gate import FAIR, PARTY_TERMS, PEER_TERMS, Arrival, Gate, Refusal, Ticket
from node.adapters.p2p.limits import P2pLimits
from node.adapters.p2p.origin import Origin, Origins
from protocol.ids import PeerId

LIMITS = P2pLimits(inbound=6, handshakes=5, inbound_per_address=3, handshakes_per_address=3)
WIDE = P2pLimits(
    handshakes_per_second=1e6,
    handshakes_per_second_subnet=1e6,
    handshakes_per_second_address=1e6,
    handshakes_per_second_suspects=1e6,
)
NOW = 1000.0
FAILURES = 12  # that bring a refusal of an address
PEER = PeerId.from_public_key(Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw())


def at(party: str, subnet: str | None = None) -> Origin:
    return Origin(party=party, subnet=subnet)


def enter(gate: Gate, origin: Origin, now: float = NOW) -> Ticket | None:
    """Come and shake hands; the ticket if all went well."""
    ticket = gate.arrive(origin, now).ticket
    return None if ticket is None else gate.establish(ticket, PEER, now).ticket


def test_a_handshake_that_dawdles_makes_room_for_a_newcomer_of_its_party() -> None:
    gate = Gate(LIMITS)
    first, second, third = (gate.arrive(at("a"), NOW).ticket for _ in range(3))
    arrival = gate.arrive(at("a"), NOW)
    assert arrival.ticket is not None
    assert arrival.displaced == first
    assert first is not None
    assert gate.establish(first, PEER, NOW).ticket is None
    assert second is not None
    assert third is not None
    assert gate.establish(second, PEER, NOW).ticket == second


def test_where_all_places_are_taken_the_party_with_most_gives_one_up() -> None:
    gate = Gate(LIMITS)
    crowd = [gate.arrive(at("crowd"), NOW).ticket for _ in range(3)]
    assert gate.arrive(at("b"), NOW).displaced is None
    assert gate.arrive(at("c"), NOW).displaced is None
    assert gate.arrive(at("honest"), NOW).displaced == crowd[0]


def test_one_address_has_so_many_places_and_no_more() -> None:
    gate = Gate(LIMITS)
    assert all(enter(gate, at("a")) for _ in range(3))
    assert gate.arrive(at("a"), NOW) == Arrival(None)
    assert gate.refusals[Refusal.FULL] == 1
    assert enter(gate, at("b"))


def test_one_subnet_has_so_many_places_however_many_addresses_it_has() -> None:
    gate = Gate(replace(WIDE, inbound_per_subnet=10))
    assert all(enter(gate, at(str(number), "net")) for number in range(10))
    assert enter(gate, at("another", "net")) is None
    assert enter(gate, at("a", "elsewhere"))


def test_a_trusted_network_is_not_counted_by_address() -> None:
    gate = Gate(LIMITS)
    proxy = Origin(party="proxy", trusted=True)
    assert all(enter(gate, proxy) for _ in range(6))


def test_where_all_are_in_a_newcomer_takes_the_place_of_the_youngest_of_the_largest_crowd() -> None:
    gate = Gate(replace(WIDE, inbound=20))
    old = [enter(gate, at(f"old {number}", f"net {number}")) for number in range(4)]
    crowd = [enter(gate, at(str(number), "crowd")) for number in range(16)]
    ticket = gate.arrive(at("honest", "home"), NOW).ticket
    assert ticket is not None
    arrival = gate.establish(ticket, PEER, NOW)
    assert arrival == Arrival(ticket, crowd[-1])
    assert gate.inside == 20
    assert enter(gate, at("one more", "crowd")) is None
    for each in (*old, *crowd[:-1]):
        assert each is not None
        assert each.number in gate._inside


def test_nobody_gives_way_where_no_crowd_is_in() -> None:
    gate = Gate(replace(WIDE, inbound=3 * FAIR))
    for net in "abc":
        assert all(enter(gate, at(f"{net}{number}", net)) for number in range(FAIR))
    assert gate.arrive(at("honest", "home"), NOW) == Arrival(None)


def test_handshakes_that_fail_again_and_again_have_their_address_refused_for_a_while() -> None:
    gate, attempts = Gate(WIDE), 0
    while (ticket := gate.arrive(at("bad"), NOW).ticket) is not None:
        gate.leave(ticket, NOW)
        attempts += 1
    assert attempts == FAILURES
    assert gate.refusals == {Refusal.FAILED: attempts, Refusal.PARTY_BANNED: 1}
    assert enter(gate, at("good"))
    assert gate.banned(NOW)[0][0].who == "bad"
    assert enter(gate, at("bad"), NOW + PARTY_TERMS.first)  # an honest one that shares the address waited 5 s


def test_of_an_address_with_somebody_inside_four_times_as_much_is_borne() -> None:
    gate, attempts = Gate(WIDE), 0
    kept = enter(gate, at("shared"))
    while (ticket := gate.arrive(at("shared"), NOW).ticket) is not None:
        gate.leave(ticket, NOW)
        attempts += 1
    assert attempts == 46  # a quarter each
    assert kept is not None
    assert kept.number in gate._inside


@pytest.mark.parametrize("spared", [Origin(party="127.0.0.1", local=True), Origin(party="proxy", trusted=True)])
def test_this_machine_and_trusted_networks_are_never_refused(spared: Origin) -> None:
    gate = Gate(P2pLimits())
    for _ in range(1000):
        ticket = gate.arrive(spared, NOW).ticket
        assert ticket is not None
        gate.leave(ticket, NOW)


def test_five_hundred_bad_handshakes_a_second_from_three_addresses_cost_a_few_a_second() -> None:
    gate, begun, honest = Gate(P2pLimits()), 0, 0
    for tick in range(500 * 60):
        now = NOW + tick / 500
        ticket = gate.arrive(at(f"bad {tick % 3}", "net"), now).ticket
        if ticket is not None:
            begun += 1
            gate.leave(ticket, now)
        if tick % 500 == 0:  # each second somebody new comes, from elsewhere
            visitor = enter(gate, at(f"honest {tick}"), now)
            assert visitor is not None
            gate.leave(visitor, now)
            honest += 1
    assert honest == 60
    assert begun <= 3 * (FAILURES + 1) * 4  # refused for 5, 10, 20 and 40 s


def test_many_addresses_with_a_failure_each_share_what_suspects_may_begin() -> None:
    limits = P2pLimits(handshakes_per_second_suspects=1.0)
    gate, begun = Gate(limits), 0
    for tick in range(3000):
        ticket = gate.arrive(at(str(tick % 50)), NOW + tick / 100).ticket
        if ticket is not None:
            begun += 1
            gate.leave(ticket, NOW + tick / 100)
    assert begun <= 50 + 4 + 30 + 1  # one each, a burst of four, one a second
    assert enter(gate, at("honest"), NOW + 30)


def test_one_address_and_one_subnet_are_paced() -> None:
    gate = Gate(P2pLimits(inbound=1000, inbound_per_address=1000, inbound_per_subnet=1000))
    assert sum(enter(gate, at("a")) is not None for _ in range(100)) == 32
    assert gate.refusals[Refusal.PACED] == 68
    assert sum(enter(gate, at(f"b {number}", "net")) is not None for number in range(200)) == 96


def test_a_peer_that_says_what_no_honest_one_says_is_refused_wherever_it_comes_from() -> None:
    gate = Gate(WIDE)
    told = [gate.complain(PEER, at("here"), NOW) for _ in range(4)]
    assert told == [False] * 3 + [True]
    assert enter(gate, at("there")) is None
    assert gate.refusals[Refusal.PEER_BANNED] == 1
    assert enter(gate, at("there"), NOW + PEER_TERMS.first)


def test_new_keys_from_one_address_are_blamed_on_the_address() -> None:
    gate = Gate(WIDE)
    for number in range(FAILURES):
        key = Ed25519PrivateKey.from_private_bytes(bytes([number] * 32)).public_key().public_bytes_raw()
        gate.complain(PeerId.from_public_key(key), at("here"), NOW)
    assert gate.arrive(at("here"), NOW) == Arrival(None)


def test_a_place_that_was_left_can_be_taken() -> None:
    gate = Gate(WIDE)
    for _ in range(100):
        ticket = enter(gate, at("a"))
        assert ticket is not None
        gate.leave(ticket, NOW)
        gate.leave(ticket, NOW)
    assert (gate.shaking, gate.inside) == (0, 0)
    assert not gate.refusals


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 2), st.integers(0, 50)), max_size=200))
def test_the_bounds_hold_whatever_comes(steps: list[tuple[str, int, int]]) -> None:
    gate, tickets, now = Gate(LIMITS), list[Ticket](), NOW
    for party, action, which in steps:
        now += which / 100
        if action == 0:
            arrival = gate.arrive(at(party, "abc" if party in "abc" else None), now)
            if arrival.ticket is not None:
                tickets.append(arrival.ticket)
        elif tickets and action == 1:
            gate.establish(tickets[which % len(tickets)], PEER, now)
        elif tickets:
            gate.leave(tickets.pop(which % len(tickets)), now)
        assert gate.shaking <= LIMITS.handshakes
        assert gate.inside <= LIMITS.inbound
    for ticket in tickets:
        gate.leave(ticket, now)
    assert (gate.shaking, gate.inside) == (0, 0)
    assert gate._shaking_from == gate._inside_from == gate._inside_subnet == {}


@pytest.mark.parametrize(
    ("host", "party", "subnet"),
    [
        ("8.8.4.4", "8.8.4.4", "8.8.4.0/24"),
        ("::ffff:8.8.4.4", "8.8.4.4", "8.8.4.0/24"),
        ("192.168.1.7", "192.168.1.7", None),
        ("2a00:1450:1:2:3:4:5:6", "2a00:1450:1:2::/64", "2a00:1450:1::/48"),
        ("fe80::1%eth0", "fe80::/64", None),
    ],
)
def test_an_origin_is_an_address_or_the_network_of_one_customer(host: str, party: str, subnet: str | None) -> None:
    assert Origins().of(host) == Origin(party=party, subnet=subnet)


def test_this_machine_and_what_the_operator_trusts_are_known() -> None:
    origins = Origins([ipaddress.ip_network("10.1.0.0/16")])
    assert origins.of("127.0.0.2").local
    assert origins.of("::1").spared
    assert origins.of("10.1.2.3").trusted
    assert not origins.of("10.2.2.3").spared
