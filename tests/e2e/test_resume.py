"""A real vLLM's streams, broken off and gone on with on the same engine: what the client gets is one answer."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import trio

from node.adapters.upstream.pool import UpstreamPool
from node.core.prompt import OWNER, Headers, Prompt
from node.errors import Broken
from node.ports import Answer, Endpoint, Served, ServedAnswer
from node.services.resume import ResumingReplica
from tests.e2e.engine import KEY, MODEL_NAME, Engine
from tests.e2e.tiny_model import CONTEXT
from tests.fakes.token_engine import Heard, heard

pytestmark = [pytest.mark.slow, pytest.mark.engine]

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
TOKENS = 40
WITHIN_S = 60.0


class _Cut:
    """An answer that breaks off after so many bytes."""

    def __init__(self, answer: Answer, left: int) -> None:
        self.status = answer.status
        self.headers: Headers = answer.headers
        self.served = Served(node="n")
        self._answer = answer
        self._left = left

    async def receive(self) -> bytes:
        data = await self._answer.receive()
        if len(data) <= self._left:
            self._left -= len(data)
            return data
        if not self._left:
            raise Broken("The connection is cut.")
        data, self._left = data[: self._left], 0
        return data


class CutReplica:
    """The engine, whose first answers are cut; leaving one closes its connection."""

    def __init__(self, engine: Engine, cuts: Sequence[int]) -> None:
        host, _, port = engine.entry.url.removeprefix("http://").partition(":")
        self._endpoint = Endpoint(host=host, port=int(port), api_key=KEY)
        self._cuts = list(cuts)
        self._pool = UpstreamPool()
        self.asked: list[Prompt] = []

    @asynccontextmanager
    async def answer(self, prompt: Prompt) -> AsyncIterator[ServedAnswer]:
        self.asked.append(prompt)
        cut = self._cuts.pop(0) if self._cuts else 1 << 30
        async with self._pool.send(
            self._endpoint, method=prompt.method, target=prompt.target, headers=prompt.headers, body=prompt.body
        ) as answer:
            yield _Cut(answer, cut)

    async def aclose(self) -> None:
        await self._pool.aclose()


def prompt(path: str, **fields: Any) -> Prompt:
    asked: dict[str, Any] = {"model": MODEL_NAME, "stream": True, "temperature": 0, "max_tokens": TOKENS, **fields}
    asked |= (
        {"messages": [{"role": "user", "content": "Tell of strings."}]} if path == CHAT else {"prompt": "A string is"}
    )
    return Prompt(
        request_id="resume",
        method="POST",
        target=path,
        headers=((b"content-type", b"application/json"),),
        body=json.dumps({"stream_options": {"include_usage": True}, **asked}).encode(),
        model=MODEL_NAME,
        stream=True,
        requester=OWNER,
    )


async def told(engine: Engine, one: Prompt, *cuts: int, followed: bool = True) -> tuple[bytes, int]:
    """Return what the client gets, and how often the engine was asked."""
    inner = CutReplica(engine, cuts)
    replica = ResumingReplica(inner, room=lambda _: CONTEXT) if followed else inner
    out = bytearray()
    with trio.fail_after(WITHIN_S):
        async with replica.answer(one) as answer:
            while data := await answer.receive():
                out += data
    await inner.aclose()
    return bytes(out), len(inner.asked)


def shapes(stream: bytes) -> set[str]:
    """Return what a stream's events look like, without what is of one request or one moment alone."""
    wholes = [json.loads(each[6:]) for each in stream.split(b"\n\n") if each.startswith(b"data: {")]
    return {json.dumps(shape(each)) for each in wholes}


def shape(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: shape(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value]
    varies = name in {"id", "created", "content", "text"} or name.endswith("_tokens")
    return type(value).__name__ if varies else value


KINDS = {
    "chat": prompt(CHAT, ignore_eos=True),
    "completion": prompt(COMPLETIONS, ignore_eos=True),
    "continuous usage": prompt(
        CHAT, ignore_eos=True, stream_options={"include_usage": True, "continuous_usage_stats": True}
    ),
    "drawn": prompt(CHAT, ignore_eos=True, temperature=1.0),
    "stop": prompt(CHAT, ignore_eos=True, stop=["never to be said"]),
}


@pytest.mark.parametrize("kind", ["chat", "completion", "continuous usage", "stop"])
async def test_a_followed_stream_looks_as_if_nobody_followed_it(engine: Engine, kind: str) -> None:
    # How many tokens come in an event is the moment's; everything else is compared as it stands.
    one = KINDS[kind]
    plain, _ = await told(engine, one, followed=False)
    followed, asked = await told(engine, one)
    assert asked == 1
    assert shapes(followed) == shapes(plain)
    assert replace(heard(followed), heads=frozenset()) == replace(heard(plain), heads=frozenset())


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stream_that_is_cut_twice_is_one_answer_of_as_many_tokens_as_were_asked_for(
    engine: Engine, kind: str
) -> None:
    one = KINDS[kind]
    whole = heard((await told(engine, one))[0])
    stream, asked = await told(engine, one, 3000, 2500)
    found = heard(stream)
    assert asked == 3
    assert found.announced == (1, 2)
    assert one_answer(found) == one_answer(whole)
    assert len(found.heads) == 1


def one_answer(said: Heard) -> tuple[object, ...]:
    usage = {key: value for key, value in json.loads(said.usages[-1]).items() if key != "prompt_tokens_details"}
    return said.roles, said.finishes, usage, said.ends, said.errors, said.ids


async def test_what_is_gone_on_with_is_what_the_engine_says_to_those_tokens(engine: Engine) -> None:
    one = KINDS["completion"]
    cut, _ = await told(engine, one, 4000)
    inner = CutReplica(engine, [4000])
    async with ResumingReplica(inner, room=lambda _: CONTEXT).answer(one) as answer:
        while await answer.receive():
            pass
    said = json.loads(inner.asked[1].body)
    first = json.loads(inner.asked[0].body)
    given = replace(one, body=json.dumps({**first, **said, "return_token_ids": False}).encode())
    rest, _ = await told(engine, given, followed=False)
    await inner.aclose()
    assert heard(cut).text.endswith(heard(rest).text)
    assert len(heard(cut).text) > len(heard(rest).text) > 0
