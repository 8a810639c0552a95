"""At which relays this node may be called: two of them, renewed at half time, another in place of one that fails."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from node.core.reservations import FIRST_DELAY, LONGEST_DELAY, RELAYS, WANTED, Reservations
from protocol.ids import PeerId

TTL = 600.0


def relay(number: int) -> PeerId:
    return PeerId((8 * number + 9).to_bytes(32, "little"))


THREE = [relay(1), relay(2), relay(3)]


def holding(now: float = 0.0) -> Reservations:
    kept = Reservations()
    for each in kept.plan(THREE, now):
        kept.granted(each, TTL, now)
    return kept


def test_two_are_asked_and_no_third() -> None:
    kept = Reservations()
    assert kept.plan(THREE, 0.0) == (relay(1), relay(2))
    assert kept.plan(THREE, 0.0) == ()  # they are being asked
    for each in THREE[:2]:
        kept.granted(each, TTL, 0.0)
    assert kept.plan(THREE, 1.0) == ()
    assert set(kept.held(1.0)) == {relay(1), relay(2)}


def test_each_is_renewed_at_half_of_its_time() -> None:
    kept = holding()
    assert kept.wake_at(0.0) == TTL / 2
    assert kept.plan(THREE, TTL / 2 - 1) == ()
    assert kept.plan(THREE, TTL / 2) == (relay(1), relay(2))


def test_a_renewal_that_fails_leaves_what_was_granted_and_is_tried_again() -> None:
    kept = holding()
    assert kept.plan(THREE[:2], TTL / 2) == (relay(1), relay(2))
    kept.refused(relay(1), TTL / 2, luck=0.5)
    kept.granted(relay(2), TTL, TTL / 2)
    assert set(kept.held(TTL / 2)) == {relay(1), relay(2)}
    assert kept.plan(THREE[:2], TTL / 2 + 1) == ()  # not at once: it would spin
    assert kept.plan(THREE[:2], TTL / 2 + FIRST_DELAY) == (relay(1),)


def test_one_that_is_lost_is_replaced_at_once() -> None:
    kept = holding()
    kept.lost(relay(1))
    assert kept.plan(THREE[1:], 1.0) == (relay(3),)


def test_who_refuses_is_left_alone_for_longer_and_longer_and_another_is_asked() -> None:
    kept, now, waits = Reservations(), 0.0, []
    for _ in range(10):
        assert kept.plan([relay(1)], now) == (relay(1),)
        kept.refused(relay(1), now, luck=0.5)
        again = kept.wake_at(now)
        assert again is not None
        waits.append(again - now)
        now = again
    assert waits[0] == 0.75 * FIRST_DELAY
    assert waits[-1] == 0.75 * LONGEST_DELAY
    assert waits == sorted(waits)
    kept.refused(relay(1), now, luck=0.5)
    assert kept.plan(THREE, now) == (relay(2), relay(3))


def test_what_ran_out_is_held_no_more() -> None:
    kept = holding()
    assert kept.held(TTL) == {}
    assert kept.plan(THREE, TTL) == (relay(1), relay(2))


def test_what_we_broke_off_says_nothing_of_the_relay() -> None:
    kept = Reservations()
    kept.plan([relay(1)], 0.0)
    kept.gave_up(relay(1))
    assert kept.plan([relay(1)], 0.0) == (relay(1),)


class AnyLife(RuleBasedStateMachine):
    """Whatever relays do: never more than are wanted, never one asked twice at a time, little kept."""

    def __init__(self) -> None:
        super().__init__()
        self.kept, self.now = Reservations(), 0.0
        self.asking: list[PeerId] = []

    @rule(candidates=st.lists(st.integers(0, 200).map(relay), max_size=20, unique=True), later=st.floats(0, 400))
    def look(self, candidates: list[PeerId], later: float) -> None:
        self.now += later
        asked = self.kept.plan(candidates, self.now)
        assert not set(asked) & set(self.asking)
        assert len(set(asked)) == len(asked)
        self.asking += asked

    @rule(fate=st.sampled_from(["granted", "refused", "gave_up"]), seconds=st.floats(30, 3600), luck=st.floats(0, 0.99))
    def answer(self, fate: str, seconds: float, luck: float) -> None:
        if not self.asking:
            return
        each = self.asking.pop()
        if fate == "granted":
            self.kept.granted(each, seconds, self.now)
        elif fate == "refused":
            self.kept.refused(each, self.now, luck)
        else:
            self.kept.gave_up(each)

    @rule(number=st.integers(0, 200))
    def lose(self, number: int) -> None:
        self.kept.lost(relay(number))

    @invariant()
    def few(self) -> None:
        assert len(self.kept.held(self.now)) <= WANTED
        assert len(self.kept._failed) <= RELAYS
        wake = self.kept.wake_at(self.now)
        assert wake is None or wake > self.now


TestAnyLife = AnyLife.TestCase
TestAnyLife.settings = settings(max_examples=50, stateful_step_count=40)
