"""A TCP proxy that counts what passes, and can stop passing it on without closing anything."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from protocol.addresses import Address
from tests.places import at


class CountingProxy:
    """Stands before one address; `async with` it."""

    def __init__(self, target: Address) -> None:
        self.upwards = 0  # bytes from those who dial to the target
        self.downwards = 0
        self.address = target
        self._target = target
        self._flowing = trio.Event()
        self._flowing.set()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "CountingProxy":
        await self._stack.enter_async_context(self._running())
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    def freeze(self) -> None:
        self._flowing = trio.Event()

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            self.address = at("127.0.0.1", listeners[0].socket.getsockname()[1], self._target.peer)
            nursery.start_soon(trio.serve_listeners, self._serve, listeners)
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()

    async def _serve(self, near: trio.SocketStream) -> None:
        far = await trio.open_tcp_stream(self._target.host, self._target.port)
        async with near, far, trio.open_nursery() as nursery:
            nursery.start_soon(self._pass, near, far, True)
            await self._pass(far, near, False)
            nursery.cancel_scope.cancel()

    async def _pass(self, source: trio.SocketStream, sink: trio.SocketStream, up: bool) -> None:
        try:
            while data := await source.receive_some(65536):
                await self._flowing.wait()
                await sink.send_all(data)
                if up:
                    self.upwards += len(data)
                else:
                    self.downwards += len(data)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
