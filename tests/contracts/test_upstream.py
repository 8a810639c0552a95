"""What every `Upstream` promises: the pool on a real socket, and the fake that stands in for it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from node.adapters.upstream.pool import UpstreamPool
from node.errors import Broken
from node.ports import Answer, Endpoint, Upstream
from tests.fakes.raw_http import eventually, playing, read_request
from tests.fakes.upstream import EVENTS, FakeUpstream, Script

pytestmark = pytest.mark.slow


@dataclass
class Stage:
    """An upstream, and what its far side saw."""

    upstream: Upstream
    endpoint: Endpoint
    left_early: Callable[[], int]


async def read_to_end(answer: Answer) -> list[bytes]:
    pieces: list[bytes] = []
    while piece := await answer.receive():
        pieces.append(piece)
    return pieces


@asynccontextmanager
async def with_fake(script: Script) -> AsyncIterator[Stage]:
    fake = FakeUpstream(script)
    yield Stage(upstream=fake, endpoint=Endpoint(host="h", port=1), left_early=lambda: fake.left_early)


class Player:
    """A server that plays a script on real sockets."""

    def __init__(self, script: Script) -> None:
        self.left = 0
        self._script = script

    async def play(self, stream: trio.SocketStream, number: int) -> None:
        del number
        head, _ = await read_request(stream)
        if not head:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.watch, stream)
            await self.speak(stream)
            nursery.cancel_scope.cancel()

    async def watch(self, stream: trio.SocketStream) -> None:
        try:
            gone = not await stream.receive_some()
        except trio.BrokenResourceError:
            gone = True
        self.left += gone

    async def speak(self, stream: trio.SocketStream) -> None:
        script = self._script
        if script.head is not None:
            await script.head()
        if script.no_head is not None:
            return
        lines = b"".join(b"%b: %b\r\n" % header for header in script.headers)
        await stream.send_all(
            b"HTTP/1.1 %d X\r\n%btransfer-encoding: chunked\r\nkeep-alive: 5\r\n\r\n" % (script.status, lines)
        )
        for piece in script.pieces:
            if isinstance(piece, Broken):
                return
            if isinstance(piece, bytes):
                await stream.send_all(b"%x\r\n%b\r\n" % (len(piece), piece))
            else:
                await piece()
        await stream.send_all(b"0\r\n\r\n")


@asynccontextmanager
async def with_pool(script: Script) -> AsyncIterator[Stage]:
    player = Player(script)
    async with playing(player.play) as port:
        pool = UpstreamPool()
        yield Stage(upstream=pool, endpoint=Endpoint(host="127.0.0.1", port=port), left_early=lambda: player.left)
        await pool.aclose()


Staging = Callable[[Script], AbstractAsyncContextManager[Stage]]
both = pytest.mark.parametrize("staging", [with_fake, with_pool])


@both
async def test_status_headers_and_bytes_arrive_as_they_were_sent(staging: Staging) -> None:
    async with staging(Script([b"one", b"two"], status=418, headers=EVENTS)) as stage:
        async with stage.upstream.send(
            stage.endpoint, method="POST", target="/v1/x?y=1", headers=((b"a", b"b"),), body=b"{}"
        ) as answer:
            assert (answer.status, answer.headers) == (418, EVENTS)
            assert b"".join(await read_to_end(answer)) == b"onetwo"
            assert await answer.receive() == b""
        assert stage.left_early() == 0


@both
async def test_a_piece_is_delivered_before_the_next_exists(staging: Staging) -> None:
    go, going = trio.open_memory_channel[None](1)
    async with (
        staging(Script([b"one", going.receive, b"two"])) as stage,
        stage.upstream.send(stage.endpoint, method="GET", target="/", headers=(), body=b"") as answer,
    ):
        assert await answer.receive() == b"one"
        await go.send(None)
        assert await answer.receive() == b"two"
        assert await answer.receive() == b""


@both
async def test_leaving_mid_answer_is_felt_at_the_far_side(staging: Staging) -> None:
    async with staging(Script([b"one", trio.sleep_forever])) as stage:
        async with stage.upstream.send(stage.endpoint, method="GET", target="/", headers=(), body=b"") as answer:
            assert await answer.receive() == b"one"
        await felt(stage)


@both
async def test_being_cancelled_before_the_head_is_felt_at_the_far_side(staging: Staging) -> None:
    started = trio.Event()

    async def prefill() -> None:
        started.set()
        await trio.sleep_forever()

    async def ask(stage: Stage) -> None:
        async with stage.upstream.send(stage.endpoint, method="GET", target="/", headers=(), body=b""):
            raise AssertionError("there is no head")

    async with staging(Script([], head=prefill)) as stage:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, stage)
            await started.wait()
            nursery.cancel_scope.cancel()
        await felt(stage)


async def felt(stage: Stage) -> None:
    await eventually(lambda: stage.left_early() == 1)


@both
async def test_a_far_side_that_ends_before_the_head_is_broken(staging: Staging) -> None:
    async with staging(Script([], no_head=Broken("gone"))) as stage:
        with pytest.raises(Broken):
            async with stage.upstream.send(stage.endpoint, method="GET", target="/", headers=(), body=b""):
                raise AssertionError("there is no head")


@both
async def test_what_came_before_a_break_is_delivered_and_the_break_stays_told(staging: Staging) -> None:
    async with (
        staging(Script([b"one", Broken("gone")])) as stage,
        stage.upstream.send(stage.endpoint, method="GET", target="/", headers=(), body=b"") as answer,
    ):
        assert await answer.receive() == b"one"
        for _ in range(2):
            with pytest.raises(Broken):
                await answer.receive()
