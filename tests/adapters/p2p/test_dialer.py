"""Dialling all addresses of a peer at once, and keeping streams for their next use; in virtual time."""

from dataclasses import dataclass

import pytest
import trio
from trio.testing import MockClock

from node.adapters.p2p.dialer import HEAD_START, dial_any
from node.adapters.p2p.pool import StreamPool
from node.errors import Unreachable
from protocol.addresses import Address
from tests.contracts.test_streams import a_peer
from tests.places import at

FAST, SLOW, DEAD, REFUSED = (at("10.0.0.1", port) for port in (1, 2, 3, 4))
TAKES = {FAST: 0.1, SLOW: 3.0, DEAD: 60.0}


class Net:
    def __init__(self) -> None:
        self.begun: list[Address] = []
        self.cancelled: list[Address] = []

    async def dial(self, address: Address) -> Address:
        self.begun.append(address)
        if address == REFUSED:
            raise Unreachable("refused")
        try:
            await trio.sleep(TAKES[address])
        except trio.Cancelled:
            self.cancelled.append(address)
            raise
        return address


async def test_the_first_that_answers_wins_and_nobody_waits_for_the_slowest(autojump_clock: MockClock) -> None:
    net = Net()
    assert await dial_any([DEAD, REFUSED, SLOW, FAST], net.dial, patience=5, at_once=8) == FAST
    assert trio.current_time() == pytest.approx(0.1)
    assert set(net.cancelled) == {DEAD, SLOW}


async def test_each_address_has_its_own_deadline(autojump_clock: MockClock) -> None:
    with pytest.raises(Unreachable) as error:
        await dial_any([DEAD, REFUSED], Net().dial, patience=5, at_once=8)
    assert trio.current_time() == pytest.approx(5)
    assert "refused" in str(error.value)
    assert "no answer within 5 s" in str(error.value)


async def test_a_long_list_is_worked_off_a_few_at_a_time(autojump_clock: MockClock) -> None:
    net = Net()
    assert await dial_any([DEAD, DEAD, FAST], net.dial, patience=5, at_once=2) == FAST
    assert trio.current_time() == pytest.approx(5.1)


async def test_a_peer_without_addresses_is_unreachable(autojump_clock: MockClock) -> None:
    with pytest.raises(Unreachable):
        await dial_any([], Net().dial, patience=5, at_once=2)


@dataclass(eq=False)
class Kept:
    alive: bool = True


def test_the_pool_gives_back_the_latest_that_lives() -> None:
    pool: StreamPool[Kept] = StreamPool(most=3, seconds=60)
    key = (a_peer(), "/x/1")
    old, dead, new = Kept(), Kept(), Kept()
    for each in (old, new, dead):
        assert pool.give(key, each, 0.0) is None
    dead.alive = False
    assert pool.take(key) == (new, [dead])
    assert pool.take(key) == (old, [])
    assert pool.take(key) == (None, [])
    assert len(pool) == 0


def test_the_pool_keeps_few_and_none_for_long() -> None:
    pool: StreamPool[Kept] = StreamPool(most=2, seconds=60)
    key = (a_peer(), "/x/1")
    first, second, third = Kept(), Kept(), Kept()
    assert pool.give(key, first, 0.0) is None
    assert pool.give(key, second, 30.0) is None
    assert pool.give(key, third, 31.0) is first
    assert pool.expired(60.0) == []
    assert pool.expired(90.0) == [second]
    third.alive = False
    assert pool.expired(90.5) == [third]


BEHIND = at("10.0.0.9", 9, a_peer()).through(a_peer())
TAKES[BEHIND] = 1.0


async def test_a_relay_is_asked_a_moment_later_and_not_at_all_where_somebody_has_answered(
    autojump_clock: MockClock,
) -> None:
    net = Net()
    assert await dial_any([BEHIND, FAST], net.dial, patience=5, at_once=8) == FAST
    assert net.begun == [FAST]
    net = Net()
    began = trio.current_time()
    assert await dial_any([BEHIND, DEAD], net.dial, patience=5, at_once=8) == BEHIND
    assert trio.current_time() - began == pytest.approx(HEAD_START + 1.0)


async def test_where_nobody_else_could_answer_a_relay_is_asked_at_once(autojump_clock: MockClock) -> None:
    for others in ([], [REFUSED]):
        began = trio.current_time()
        assert await dial_any([BEHIND, *others], Net().dial, patience=0.6, at_once=8) == BEHIND
        assert trio.current_time() - began == pytest.approx(1.0)  # two steps have the patience of two
