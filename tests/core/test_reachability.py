"""Whether others reach this node: each address is one voice, the most decide, the world counts before the house."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.reachability import AGAIN, EVERY, FRESH, PEERS, WANTED, Reachability, Sight, Verdict
from protocol.ids import PeerId

PORT = 47470
US = "44.44.0.11"


def peer(number: int) -> PeerId:
    return PeerId((8 * number + 9).to_bytes(32, "little"))


def sight(*, reached: bool, host: str = US) -> Sight:
    return Sight(host=host, tried=(PORT,), reached=(PORT,) if reached else ())


def heard(*voices: tuple[str, bool], host: str = US) -> Reachability:
    """Return what is known when so many have spoken, each from its address."""
    known = Reachability()
    for number, (at, reached) in enumerate(voices):
        known.note(peer(number), at, sight(reached=reached, host=host), 0.0)
    return known


def test_nobody_knows_until_somebody_says_so() -> None:
    known = Reachability()
    assert (known.verdict(0.0), known.external(0.0), known.seen_from(0.0)) == (Verdict.UNKNOWN, (), ())


def test_the_first_voice_decides_and_then_the_most() -> None:
    assert heard(("1.1.1.1", True)).verdict(0.0) is Verdict.PUBLIC
    assert heard(("1.1.1.1", False)).verdict(0.0) is Verdict.PRIVATE
    assert heard(("1.1.1.1", True), ("1.1.1.2", False)).verdict(0.0) is Verdict.PRIVATE
    assert heard(("1.1.1.1", True), ("1.1.1.2", False), ("1.1.1.3", True)).verdict(0.0) is Verdict.PUBLIC


def test_many_behind_one_address_are_one_voice() -> None:
    known = heard(*[("1.1.1.1", True)] * 10, ("1.1.1.2", False), ("1.1.1.3", False))
    assert known.verdict(0.0) is Verdict.PRIVATE
    assert len(known.seen_from(0.0)) == 1
    known = heard(*[(f"2606:4700::{number}", True) for number in range(1, 10)], ("1.1.1.2", False), ("1.1.1.3", False))
    assert known.verdict(0.0) is Verdict.PRIVATE


def test_what_neighbours_reach_says_nothing_of_the_world() -> None:
    known = heard(("192.168.1.3", True), ("192.168.1.4", True), host="192.168.1.2")
    assert (known.verdict(0.0), known.worldwide(0.0)) == (Verdict.PUBLIC, False)
    known.note(peer(9), "1.1.1.1", sight(reached=False), 0.0)
    assert (known.verdict(0.0), known.worldwide(0.0)) == (Verdict.PRIVATE, True)
    assert known.unseen_from(0.0) == (peer(9),)


def test_where_it_was_reached_is_told_by_the_most_voices_first() -> None:
    known = heard(("1.1.1.1", True), ("1.1.1.2", True))
    known.note(peer(5), "1.1.1.3", sight(reached=True, host="44.44.0.99"), 0.0)
    assert [each.host for each in known.external(0.0)] == [US, "44.44.0.99"]
    assert heard(("1.1.1.1", False)).external(0.0) == ()


def test_where_it_would_be_reached_if_the_router_kept_ports_is_guessed() -> None:
    assert [str(each) for each in heard(("1.1.1.1", False)).guessed((PORT,), 0.0)] == [f"/ip4/{US}/tcp/{PORT}"]


def test_a_voice_grows_old() -> None:
    known = heard(("1.1.1.1", True))
    assert known.verdict(FRESH - 1) is Verdict.PUBLIC
    assert known.verdict(FRESH) is Verdict.UNKNOWN


def test_who_tried_nothing_says_nothing_and_takes_back_what_it_said() -> None:
    known = heard(("1.1.1.1", True))
    known.note(peer(0), "1.1.1.1", Sight(host=US, tried=(), reached=()), 1.0)
    assert known.verdict(1.0) is Verdict.UNKNOWN


def test_as_many_are_asked_as_are_wanted_then_one_now_and_then() -> None:
    known, everybody = Reachability(), [peer(number) for number in range(20)]
    assert known.whom_to_ask(everybody, 0.0) == tuple(everybody[:WANTED])
    for each in everybody[:WANTED]:
        known.note(each, f"1.1.1.{everybody.index(each)}", sight(reached=True), 0.0)
    assert known.whom_to_ask(everybody, 1.0) == ()
    assert known.whom_to_ask(everybody, EVERY) == (everybody[WANTED],)
    assert known.whom_to_ask(everybody, EVERY + 1) == ()


def test_nobody_is_asked_twice_soon() -> None:
    known = Reachability()
    assert known.whom_to_ask([peer(1)], 0.0) == (peer(1),)
    assert known.whom_to_ask([peer(1)], AGAIN - 1) == ()
    assert known.whom_to_ask([peer(1)], AGAIN) == (peer(1),)


def test_on_another_network_all_begins_anew() -> None:
    known = heard(("1.1.1.1", False))
    known.whom_to_ask([peer(0)], 0.0)
    known.forget()
    assert known.verdict(0.0) is Verdict.UNKNOWN
    assert known.whom_to_ask([peer(0)], 0.0) == (peer(0),)


@pytest.mark.parametrize("host", ["", "example.org", "0.0.0.0", "1.2.3", "224.0.0.1"])
def test_a_host_that_is_none_is_no_voice(host: str) -> None:
    assert heard(("1.1.1.1", True), host=host).verdict(0.0) is Verdict.UNKNOWN


@given(st.lists(st.tuples(st.integers(0, 300), st.booleans(), st.floats(0, 10 * FRESH)), max_size=300))
def test_whatever_is_said_little_is_kept(said: list[tuple[int, bool, float]]) -> None:
    known, now = Reachability(), 0.0
    for number, reached, at in sorted(said, key=lambda each: each[2]):
        now = at
        known.whom_to_ask([peer(number)], now)
        known.note(peer(number), f"1.1.{number % 7}.{number % 250}", sight(reached=reached), now)
    assert len(known.seen_from(now)) + len(known.unseen_from(now)) <= PEERS
    assert (known.verdict(now) is Verdict.PUBLIC) == bool(known.external(now))
