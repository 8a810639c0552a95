"""Prompts to one peer on the fake network: many at once, no more than there is room for, and a queue is no fault."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from node.core.peerbook import Peerbook
from node.core.prompt import OWNER, Prompt
from node.core.standings import Standings
from node.services.ask_lanes import Lanes
from node.services.ask_peer import AskPatience, Flight, PeerAsker
from node.services.ask_talk import OutOfTime
from node.services.watch_load import LoadWatch
from tests.fakes.network import FakeNetwork, FakeNode, Weather
from tests.fakes.peer_server import Answering, PeerServer
from tests.fakes.stranger import id_of, key_of

US, THEM = id_of(key_of("us")), id_of(key_of("them"))
ANSWER_S = 1.0


def a_prompt(deadline: float | None = None) -> Prompt:
    return Prompt(
        request_id="r-1",
        method="POST",
        target="/v1/completions",
        headers=(),
        body=b'{"model": "m"}',
        model="m",
        stream=False,
        requester=OWNER,
        deadline=deadline,
    )


class Stage:
    """One node that asks another."""

    def __init__(self, us: FakeNode, them: FakeNode, lanes: Lanes | None) -> None:
        self.server = PeerServer(them, Answering(pieces=(b"answer",), prefill=ANSWER_S, gap=0.0))
        self.standings = Standings()
        self.asker = PeerAsker(
            streams=us,
            swarm=us,
            book=Peerbook(US),
            standings=self.standings,
            watch=LoadWatch(streams=us, swarm=us, standings=self.standings),
            on_change=lambda _: None,
            patience=AskPatience(),
            clock=trio.current_time,
            lanes=lanes,
        )

    async def ask(self, deadline: float | None = None) -> bytes:
        flight = Flight(self.standings, THEM, trio.current_time())
        try:
            async with self.asker.answer(THEM, a_prompt(deadline), attempt=1, flight=flight) as answer:
                whole = b""
                while piece := await answer.receive():
                    whole += piece
                return whole
        finally:
            flight.end()


@asynccontextmanager
async def staged(lanes: Lanes | None = None) -> AsyncIterator[Stage]:
    network = FakeNetwork(Weather(latency=0.001))
    async with network.node(US) as us, network.node(THEM) as them:
        us.learn(THEM, them.addresses())
        await us.connect(THEM)
        yield Stage(us, them, lanes)
        assert not them.failures


async def test_many_prompts_go_to_one_peer_at_once_and_the_rest_follow_as_there_is_room(
    autojump_clock: MockClock,
) -> None:
    answers: list[bytes] = []
    async with staged(Lanes(5)) as stage:

        async def ask() -> None:
            answers.append(await stage.ask())

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(ask)
            await trio.sleep(ANSWER_S / 2)
            assert stage.server.running == 5
            assert stage.standings.standing(THEM, trio.current_time()).in_flight == 12  # new prompts see the queue
        assert answers == [b"answer"] * 12
        assert stage.server.most == 5
        assert trio.current_time() - began == pytest.approx(3 * ANSWER_S, abs=0.2)


async def test_a_prompt_whose_time_is_over_while_it_waits_for_room_is_not_held_against_the_peer(
    autojump_clock: MockClock,
) -> None:
    async with staged(Lanes(1)) as stage, trio.open_nursery() as nursery:
        nursery.start_soon(stage.ask)
        await trio.sleep(0.1)
        with pytest.raises(OutOfTime):
            await stage.ask(trio.current_time() + ANSWER_S / 2)
        assert stage.standings.standing(THEM, trio.current_time()).closed == ""
        assert await stage.ask(trio.current_time() + 3 * ANSWER_S) == b"answer"  # and it has lost no place
    assert stage.server.whole == 2


async def test_one_who_leaves_while_its_prompt_waits_is_never_asked_for(autojump_clock: MockClock) -> None:
    async with staged(Lanes(1)) as stage, trio.open_nursery() as nursery:
        nursery.start_soon(stage.ask)
        await trio.sleep(0.1)
        with trio.move_on_after(0.1):
            await stage.ask()
        assert await stage.ask() == b"answer"
    assert len(stage.server.asked) == 2


async def test_two_hundred_and_fifty_six_prompts_find_room_at_once(autojump_clock: MockClock) -> None:
    async with staged() as stage, trio.open_nursery() as nursery:
        for _ in range(300):
            nursery.start_soon(stage.ask)
        await trio.sleep(ANSWER_S / 2)
        assert stage.server.running == 256
    assert stage.server.whole == 300
