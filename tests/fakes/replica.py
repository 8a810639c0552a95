"""A replica over a scripted upstream: no admission, no engine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from node.core.prompt import Headers, Prompt
from node.errors import Refused
from node.ports import Answer, Served, ServedAnswer
from tests.fakes.upstream import FakeUpstream, Script


class _Answer:
    def __init__(self, answer: Answer, served: Served) -> None:
        self.served = served
        self.receive = answer.receive
        self._answer = answer

    @property
    def status(self) -> int:
        return self._answer.status

    @property
    def headers(self) -> Headers:
        return self._answer.headers


class FakeReplica:
    """Answers as its upstream does, or refuses with `refuse_with`."""

    def __init__(self, script: Script | None = None) -> None:
        self.upstream = FakeUpstream(script)
        self.prompts: list[Prompt] = []
        self.refuse_with: Refused | None = None
        self.served = Served(node="node-under-test", model="m", strategy="default")

    @asynccontextmanager
    async def answer(self, prompt: Prompt) -> AsyncIterator[ServedAnswer]:
        self.prompts.append(prompt)
        if self.refuse_with is not None:
            raise self.refuse_with
        async with self.upstream.send(
            None, method=prompt.method, target=prompt.target, headers=prompt.headers, body=prompt.body
        ) as answer:
            yield _Answer(answer, self.served)
