"""The control socket's page of trials: lines as they come, the report last, and an end for whoever leaves."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from node.errors import NodeError
from node.http.asgi import Message
from node.http.control import control_app
from node.http.trials import LINES, Trials

Tell = Callable[[Mapping[str, Any]], None]


class Client:
    """One request to /trials."""

    def __init__(self, trials: Trials | None, body: bytes) -> None:
        self._app = control_app(
            api=_nothing, status=dict, peers=dict, stop=_ignore, restart_engine=_ignore, trials=trials
        )
        self._body = [body]
        self.gone = trio.Event()
        self.slow = trio.Event()
        self.slow.set()
        self.status = 0
        self.received = b""
        self.ended = False

    async def run(self) -> None:
        scope = {
            "type": "http", "method": "POST", "path": "/trials", "raw_path": b"/trials", "query_string": b"",
            "root_path": "", "headers": [], "client": None,
        }  # fmt: skip
        await self._app(scope, self._receive, self._send)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.received.splitlines()]

    async def _receive(self) -> Message:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self.slow.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.received += message["body"]
            self.ended = not message.get("more_body", False)


async def _nothing(*_: object) -> None:
    raise AssertionError("the API was asked")


def _ignore(_: str) -> None:
    pass


async def test_what_is_told_comes_line_by_line_and_the_report_last(autojump_clock: MockClock) -> None:
    asked: list[object] = []

    async def trials(wish: object, tell: Tell) -> Mapping[str, Any]:
        asked.append(wish)
        tell({"event": "doing", "text": "a"})
        await trio.sleep(10)
        assert client.lines == [{"event": "doing", "text": "a"}]
        return {"cells": []}

    client = Client(trials, b'{"budget": 2}')
    await client.run()
    assert asked == [{"budget": 2}]
    assert client.lines[-1] == {"event": "report", "report": {"cells": []}}
    assert (client.status, client.ended) == (200, True)


async def test_a_client_that_leaves_breaks_the_trials_off(autojump_clock: MockClock) -> None:
    ended: list[float] = []

    @asynccontextmanager
    async def noting() -> AsyncIterator[None]:
        try:
            yield
        finally:
            ended.append(trio.current_time())

    async def trials(wish: object, tell: Tell) -> Mapping[str, Any]:
        del wish, tell
        async with noting():
            await trio.sleep_forever()
        return {}

    client = Client(trials, b"{}")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        await trio.sleep(5)
        client.gone.set()
    assert ended == [5.0]


async def test_a_client_that_does_not_read_misses_lines_but_not_the_last(autojump_clock: MockClock) -> None:
    async def trials(wish: object, tell: Tell) -> Mapping[str, Any]:
        del wish
        for number in range(3 * LINES):
            tell({"event": "answered", "number": number})
        client.slow.set()
        return {}

    client = Client(trials, b"{}")
    client.slow = trio.Event()
    client.slow.set()
    await client.run()
    assert len(client.lines) == LINES + 1
    assert client.lines[-1]["event"] == "report"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [(b"{", 400, "no JSON"), (b"[" * 100_000, 413, "large"), (b"{}", 200, "run already")],
)
async def test_what_cannot_be_tried_is_said(body: bytes, status: int, words: str, autojump_clock: MockClock) -> None:
    async def trials(wish: object, tell: Tell) -> Mapping[str, Any]:
        del wish, tell
        raise NodeError("trials run already", remedy="wait")

    client = Client(trials, body)
    await client.run()
    assert client.status == status
    assert words in client.received.decode()


async def test_a_node_without_an_engine_says_so(autojump_clock: MockClock) -> None:
    client = Client(None, b"{}")
    await client.run()
    assert client.lines[0]["event"] == "error"
    assert "no engine" in client.lines[0]["message"]
