"""What a node says to hold is all that it holds, and what it takes in is what it asked for."""

import trio
from trio.testing import MockClock

from node.services.replicate_intake import Intake
from tests.fakes.history import FakeHistory
from tests.protocol.samples import NOTE
from tests.services.members import START_US, peer_of, wall
from tests.services.replicas import Swarm, a_record, key_of, replica
from tests.services.test_replicate import holder_of, neighbour

AUTHORS = 300


async def a_history() -> FakeHistory:
    history = FakeHistory(NOTE, now_us=wall)
    sealed = [a_record(key_of(seed), 0) for seed in range(1, AUTHORS + 1)]
    for at in range(0, AUTHORS, 50):
        await history.admit(sealed[at : at + 50], via=None)
    return history


async def test_whoever_asks_while_a_node_still_looks_at_what_it_holds_is_told_all_of_it(
    autojump_clock: MockClock,
) -> None:
    """A node that has just begun is asked by a neighbour while it compares with another itself."""
    intake = Intake(await a_history(), blame=lambda *_: None, forked=lambda *_: None)
    told: list[int] = []

    async def ask() -> None:
        told.append(len(await intake.ledger()))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(ask)
    assert told == [AUTHORS] * 3


async def test_a_look_that_was_cut_off_is_taken_again(autojump_clock: MockClock) -> None:
    intake = Intake(await a_history(), blame=lambda *_: None, forked=lambda *_: None)
    with trio.CancelScope() as scope:
        scope.cancel()
        await intake.ledger()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(intake.ledger)
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert len(await intake.ledger()) == AUTHORS


async def test_what_came_while_the_disk_refused_to_be_read_is_told_once_it_answers(autojump_clock: MockClock) -> None:
    history = await a_history()
    intake = Intake(history, blame=lambda *_: None, forked=lambda *_: None)
    await intake.ledger()
    me = key_of(AUTHORS + 1)
    await history.admit([a_record(me, 0)], via=None)
    history.refusing = True
    await intake.own_came(peer_of(me))
    history.refusing = False
    await trio.sleep(60)
    assert len(await intake.ledger()) == AUTHORS + 1


async def test_good_records_that_nobody_asked_for_are_held_against_whoever_sends_them(
    autojump_clock: MockClock,
) -> None:
    swarm, promised, sent = Swarm(), peer_of(key_of(77)), key_of(78)
    async with replica(swarm, 1) as node:
        unasked = holder_of([a_record(sent, 0, time=START_US)], author=promised)
        async with neighbour(swarm, 2, unasked) as pusher:
            await trio.sleep(60)
            assert node.blamed == [(pusher, "unasked")]
            assert [name.author for name in node.history.records] == [peer_of(sent)]  # it is as good as any
