"""The first routing policy by its rules."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.router import EXPLORE, LeastOutstanding, Option, Route
from node.core.standings import Standing, Standings
from protocol.ids import PeerId
from protocol.load import Load

PEERS = [PeerId((8 * number + 9).to_bytes(32, "little")) for number in range(8)]
NEVER = 0.999  # luck that explores nothing


def option(
    peer: int, work: float = 0.0, *, slots: int = 0, closed: str = "", local: bool = False, connected: bool = True
) -> Option:
    standing = Standing(
        work=work, in_flight=0, slots=slots, known=True, fresh=True, closed=closed, closed_until=7.2 if closed else 0.0
    )
    return Option(replica=PEERS[peer], standing=standing, local=local, connected=connected)


def order(*options: Option, luck: float = NEVER, prefer_local: bool = True) -> list[int]:
    route = LeastOutstanding(prefer_local=prefer_local).order(options, now=0.0, luck=lambda: luck)
    return [PEERS.index(choice.replica) for choice in route.choices]


def test_the_least_busy_comes_first_and_the_others_follow() -> None:
    assert order(option(0, 9), option(1, 3), option(2, 30)) == [1, 0, 2]


def test_what_would_wait_comes_after_what_would_run() -> None:
    assert order(option(0, 4, slots=4), option(1, 20, slots=64)) == [1, 0]


def test_the_own_engine_comes_first_while_it_is_free() -> None:
    assert order(option(0, 0), option(1, 3, slots=4, local=True))[0] == 1
    assert order(option(0, 0), option(1, 4, slots=4, local=True))[0] == 0
    assert order(option(0, 0), option(1, 3, slots=4, local=True), prefer_local=False)[0] == 0


def test_who_must_be_dialled_first_is_no_equal_of_who_is_connected() -> None:
    for luck in (0.02, 0.5, NEVER):
        assert order(option(0, 2, connected=False), option(1, 2), luck=luck) == [1, 0]


def test_the_closed_are_not_asked_and_the_reason_is_told() -> None:
    assert order(option(0, closed="hung"), option(1)) == [1]
    route = LeastOutstanding().order([option(0, closed="draining")], now=0.0, luck=lambda: 0.5)
    assert route == Route(choices=(), reason="draining", retry_after=8)
    assert LeastOutstanding().order([], now=0.0, luck=lambda: 0.5) == Route(choices=(), reason="no_replica")


def test_near_equals_share_the_prompts_the_lighter_the_more() -> None:
    luck, first = Random(1), Counter[int]()  # noqa: S311 -- seeded: the same every time
    policy = LeastOutstanding()
    for _ in range(4_000):
        route = policy.order([option(0, 0.0), option(1, 1.0), option(2, 9.0)], now=0.0, luck=luck.random)
        first[PEERS.index(route.choices[0].replica)] += 1
    assert first[0] == pytest.approx(2 * first[1], rel=0.15)
    assert 0 < first[2] < 4_000 * EXPLORE


def test_nodes_that_see_the_same_figures_do_not_bury_one_peer_together() -> None:
    """A hundred askers with one reading of four idle replicas: without luck all would take the first."""
    luck, chosen = Random(2), Counter[PeerId]()  # noqa: S311 -- seeded: the same every time
    for _ in range(100):
        route = LeastOutstanding().order([option(peer) for peer in range(4)], now=0.0, luck=luck.random)
        chosen[route.choices[0].replica] += 1
    assert max(chosen.values()) < 45


def test_own_prompts_spread_over_replicas_before_any_reading_comes() -> None:
    standings, luck = Standings(), Random(3)  # noqa: S311 -- seeded: the same every time
    for peer in PEERS[:4]:
        standings.read(peer, Load(running=0, waiting=0), 0.0)
    for _ in range(64):
        options = [Option(replica=peer, standing=standings.standing(peer, 0.1)) for peer in PEERS[:4]]
        route = LeastOutstanding().order(options, now=0.1, luck=luck.random)
        standings.began(route.choices[0].replica, 0.1)
    for peer in PEERS[:4]:
        assert 10 <= standings.standing(peer, 0.1).in_flight <= 22


@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.integers(0, 64), st.sampled_from(["", "", "hung"]), st.booleans()), max_size=8
    ),
    st.randoms(),
)
def test_everybody_open_is_tried_once_and_nobody_else(facts: list[tuple[float, int, str, bool]], luck: Random) -> None:
    options = [
        option(peer, work, slots=slots, closed=closed, connected=connected)
        for peer, (work, slots, closed, connected) in enumerate(facts)
    ]
    route = LeastOutstanding().order(options, now=0.0, luck=luck.random)
    tried = [choice.replica for choice in route.choices]
    assert sorted(tried) == sorted(each.replica for each in options if not each.standing.closed)
    assert bool(tried) != bool(route.reason)
