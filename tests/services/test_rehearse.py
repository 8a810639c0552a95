"""A rehearsal asks the same, one after another, and gives way to whoever asks."""

import json
from collections.abc import Sequence

import pytest

from node.core.answer_meter import Measured
from node.core.engine_state import EngineState
from node.errors import Broken, Unavailable
from node.ports import Endpoint
from node.services.rehearse import PROMPTS, Rehearsal
from tests.fakes.engine_board import FakeEngineBoard
from tests.fakes.upstream import EVENTS, FakeUpstream, Request, Script

TOKEN = b'data: {"choices":[{"text":"a"}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":16,"completion_tokens":2}}\n\ndata: [DONE]\n\n'


class Clock:
    """Moves on while an answer is waited for."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def tick(self) -> None:
        self.now += 0.1


def whole(_: Sequence[Measured]) -> bool:
    return False


def upstream(clock: Clock) -> FakeUpstream:
    pool = FakeUpstream()
    pool.answer_with = lambda _: Script([clock.tick, TOKEN, clock.tick, TOKEN, USAGE], headers=EVENTS)
    return pool


def prompts_of(requests: list[Request]) -> list[str]:
    return [json.loads(request.body)["prompt"] for request in requests]


async def test_every_rehearsal_asks_the_same_and_no_cache_knows_it() -> None:
    clock = Clock()
    pool = upstream(clock)
    rehearsal = Rehearsal(FakeEngineBoard(), pool, asked=lambda: 3, clock=clock)
    first, second = await rehearsal(whole), await rehearsal(whole)
    count = len(PROMPTS)
    assert len(first) == len(second) == count
    assert prompts_of(pool.requests[:count]) == prompts_of(pool.requests[count:])
    assert len(set(prompts_of(pool.requests[:count]))) == count
    salts = [json.loads(request.body)["cache_salt"] for request in pool.requests]
    assert len(set(salts)) == 2 * count
    assert all(each.latency > 0 and each.output_tokens == 2 for each in first)


async def test_it_ends_when_somebody_asks_and_leaves_out_what_shared_the_engine() -> None:
    clock = Clock()
    pool = upstream(clock)
    rehearsal = Rehearsal(FakeEngineBoard(), pool, asked=lambda: len(pool.requests) // 3, clock=clock)
    assert len(await rehearsal(whole)) == 2
    assert len(pool.requests) == 3


async def test_another_engine_than_the_one_that_serves_may_be_asked() -> None:
    clock = Clock()
    pool = upstream(clock)
    heir = Endpoint(host="127.0.0.1", port=2)
    board = FakeEngineBoard()
    found = await Rehearsal(board, pool, asked=lambda: 0, clock=clock)(whole, (heir, "theirs"))
    assert len(found) == len(PROMPTS)
    assert {request.endpoint for request in pool.requests} == {heir} != {board.endpoint()}
    assert {json.loads(request.body)["model"] for request in pool.requests} == {"theirs"}


async def test_it_ends_when_its_answers_are_enough() -> None:
    clock = Clock()
    pool = upstream(clock)
    rehearsal = Rehearsal(FakeEngineBoard(), pool, asked=lambda: 0, clock=clock)
    assert len(await rehearsal(lambda found: len(found) == 3)) == 3
    assert len(pool.requests) == 3


@pytest.mark.parametrize(
    "script",
    [
        Script([b'{"error": "no"}'], status=500),
        Script([TOKEN, Broken("gone")], headers=EVENTS),
        Script([], headers=EVENTS),
    ],
    ids=["refused", "broken off", "nothing said"],
)
async def test_an_answer_that_cannot_be_measured_is_said_so(script: Script) -> None:
    with pytest.raises(Unavailable):
        await Rehearsal(FakeEngineBoard(), FakeUpstream(script), asked=lambda: 0, clock=Clock())(whole)


async def test_an_engine_that_is_away_is_not_rehearsed() -> None:
    clock = Clock()
    board, pool = FakeEngineBoard(), upstream(clock)
    board.show_state(EngineState.STOPPED)
    with pytest.raises(Unavailable):
        await Rehearsal(board, pool, asked=lambda: 0, clock=clock)(whole)
    assert not pool.requests
