"""The bytes of one upstream connection, plain or under TLS.

Knows no HTTP. Both kinds close at once and without a farewell: what is closed here is either idle or no longer wanted.
"""

import socket
from typing import Protocol

import trio

YIELD_EVERY = 16  # reads that never had to wait, after which the other tasks get their turn


class Wire(Protocol):
    """A connected byte stream with one reader and one writer."""

    async def send(self, data: bytes, *, stall: float) -> None:
        """Send all; raises trio.TooSlowError when `stall` seconds pass without progress, OSError when broken."""
        ...

    async def receive(self, size: int) -> bytes:
        """Return the next bytes, b"" at the end."""
        ...

    def has_input(self) -> bool:
        """Tell, without waiting, whether bytes or the end of the stream are ready to be read."""
        ...

    def close(self) -> None:
        """Close at once; safe to repeat."""
        ...


class PlainWire:
    """TCP. Tries the kernel before it waits: trio's own calls yield after each success, which costs a third more."""

    def __init__(self, stream: trio.SocketStream) -> None:
        # A socket object of its own over the same open file: trio's keeps its non-blocking one to itself.
        self._sock = socket.socket(fileno=stream.socket.detach())
        self._sock.setblocking(False)
        self._reads = 0

    async def send(self, data: bytes, *, stall: float) -> None:
        """See `Wire`."""
        view = memoryview(data)
        while view:
            try:
                view = view[self._sock.send(view) :]
            except BlockingIOError:
                with trio.fail_after(stall):
                    await trio.lowlevel.wait_writable(self._sock)

    async def receive(self, size: int) -> bytes:
        """See `Wire`."""
        self._reads += 1
        if self._reads % YIELD_EVERY == 0:
            await trio.lowlevel.checkpoint()
        while True:
            try:
                return self._sock.recv(size)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._sock)

    def has_input(self) -> bool:
        """See `Wire`."""
        try:
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        """See `Wire`."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()


class TlsWire:
    """TLS over TCP, by trio."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self._stream = stream

    async def send(self, data: bytes, *, stall: float) -> None:
        """See `Wire`; progress is not visible through TLS, so `stall` bounds each record-sized piece."""
        view = memoryview(data)
        while view:
            with trio.fail_after(stall):
                await self._stream.send_all(view[:16384])
            view = view[16384:]

    async def receive(self, size: int) -> bytes:
        """See `Wire`."""
        return bytes(await self._stream.receive_some(size))

    def has_input(self) -> bool:
        """See `Wire`. A session ticket that came late counts as well: then the connection is not used again."""
        return self._stream.transport_stream.socket.is_readable()

    def close(self) -> None:
        """See `Wire`."""
        self._stream.transport_stream.socket.close()
