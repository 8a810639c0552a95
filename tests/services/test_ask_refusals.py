"""Prompts too long for some or for all, over the fake network: who is asked, and what the client hears."""

import json
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from node.core.explanation import explain
from node.errors import Refused
from protocol.advert import ModelOffer
from protocol.inference_events import Refuse
from tests.fakes.peer_server import Answering
from tests.protocol import samples, swarm_samples
from tests.services.test_ask import KEYS, MODEL, PEERS, WHOLE, Stage, prompt, rest_of, stage

JSON = ((b"content-type", b"application/json"),)
TOO_LONG = json.dumps(
    {
        "error": {
            "message": "This model's maximum context length is 512 tokens. However, your prompt contains 600 tokens.",
            "type": "BadRequestError",
            "param": "input_tokens",
            "code": 400,
        }
    }
).encode()


def holds(it: Stage, *contexts: int) -> None:
    """Have peers say how much they hold, the first of them the best choice otherwise; those of 512 tokens refuse."""
    for index, context in enumerate(contexts):
        offer = ModelOffer(name=MODEL, max_length=context)
        advert = swarm_samples.advert(KEYS[index], seq=2, models=(offer,), expiry=samples.NOW + 10**10)
        it.book.hear(advert, via=None, now=trio.current_time(), now_us=samples.NOW)
        it.seems(index, 20 * index)
        if context == 512:
            it.servers[index].how = Answering(status=400, headers=JSON, pieces=[TOO_LONG])


def asked(it: Stage) -> list[int]:
    return [len(server.asked) for server in it.servers]


async def test_who_cannot_hold_a_prompt_sends_it_to_somebody_who_can(autojump_clock: MockClock) -> None:
    async with stage(3) as it:
        holds(it, 512, 512, 8192)
        async with it.replica.answer(prompt()) as answer:
            assert await rest_of(answer) == WHOLE
        assert (answer.served.node, answer.served.attempts) == (str(PEERS[2]), 2)
        assert asked(it) == [1, 0, 1]  # the other one of 512 tokens would say the same
        assert it.standings.standing(PEERS[0], 0.0).closed == ""  # nothing speaks against who says so


async def test_where_nobody_holds_more_the_engines_words_pass_untouched(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        holds(it, 512, 512)
        async with it.replica.answer(prompt()) as answer:
            assert answer.status == 400
            assert await rest_of(answer) == TOO_LONG
        assert asked(it) == [1, 0]


async def test_where_who_holds_more_is_busy_the_client_is_told_when_to_come_back(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        holds(it, 512, 8192)
        it.servers[1].how = Answering(
            refuse=Refuse(status=429, type="overloaded", message="full", code="queue_full", retry_after=7)
        )
        with pytest.raises(Refused) as caught:
            await it.ask()
        assert (caught.value.refusal.status, caught.value.refusal.retry_after) == (429, 7)


async def test_a_prompt_that_nobody_can_hold_is_sent_to_nobody(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        holds(it, 512, 1024)
        body = json.dumps({"model": MODEL, "prompt": [7] * 2000}).encode()
        with pytest.raises(Refused) as caught:
            await it.ask(replace(prompt(), target="/v1/completions", body=body))
        assert caught.value.refusal.code == "context_length_exceeded"
        assert asked(it) == [0, 0]
        assert it.replica.counts().refused == 1
        with pytest.raises(Refused):
            await it.ask(replace(prompt("nobody"), request_id="r-2"))
        accounts = [it.replica.accounts.get(each) for each in ("r-1", "r-2")]
        assert [explain(each)["refused"] for each in accounts if each] == ["context_length_exceeded", "NotFoundError"]
