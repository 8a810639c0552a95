"""A replica over a scripted upstream: no admission, no engine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from node.core.prompt import Prompt
from node.errors import Refused
from node.ports import Answer
from tests.fakes.upstream import FakeUpstream, Script


class FakeReplica:
    """Answers as its upstream does, or refuses with `refuse_with`."""

    def __init__(self, script: Script | None = None) -> None:
        self.upstream = FakeUpstream(script)
        self.prompts: list[Prompt] = []
        self.refuse_with: Refused | None = None

    @asynccontextmanager
    async def answer(self, prompt: Prompt) -> AsyncIterator[Answer]:
        self.prompts.append(prompt)
        if self.refuse_with is not None:
            raise self.refuse_with
        async with self.upstream.send(
            None, method=prompt.method, target=prompt.target, headers=prompt.headers, body=prompt.body
        ) as answer:
            yield answer
