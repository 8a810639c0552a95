"""The bytes of one upstream connection, plain or under TLS.

Knows no HTTP. Both kinds close at once and without a farewell: what is closed here is either idle or no longer wanted.
"""

import socket
from contextlib import suppress
from math import inf
from typing import Protocol

import trio

from node.adapters.upstream.timekeeper import Timekeeper

YIELD_EVERY = 16  # reads that never had to wait, after which the other tasks get their turn


class Wire(Protocol):
    """A connected byte stream with one reader and one writer."""

    async def send(self, data: bytes, *, stall: float) -> None:
        """Send all; raises trio.TooSlowError when `stall` seconds pass without progress, OSError when broken."""
        ...

    async def receive(self, size: int, *, until: float) -> bytes:
        """Return the next bytes, b"" at the end; raises trio.TooSlowError where none come until that loop's time."""
        ...

    def has_input(self) -> bool:
        """Tell, without waiting, whether bytes or the end of the stream are ready to be read."""
        ...

    def close(self) -> None:
        """Close at once; safe to repeat."""
        ...


class PlainWire:
    """TCP. Asks the kernel where something may be there, else waits: each needless step costs what a read costs."""

    __slots__ = ("_due", "_late", "_reads", "_ready", "_sock", "_timekeeper")

    def __init__(self, stream: trio.SocketStream, timekeeper: Timekeeper) -> None:
        # A socket object of its own over the same open file: trio's keeps its non-blocking one to itself.
        self._sock = socket.socket(fileno=stream.socket.detach())
        self._sock.setblocking(False)
        self._timekeeper = timekeeper
        self._reads = 0
        self._ready = False  # the last read left something in the kernel
        self._due = inf  # when a wait is given up
        self._late = False  # and it was
        timekeeper.add(self)

    async def send(self, data: bytes, *, stall: float) -> None:
        """See `Wire`."""
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent == len(data):
            return
        view = memoryview(data)[sent:]
        while view:
            with trio.fail_after(stall):
                await trio.lowlevel.wait_writable(self._sock)
            with suppress(BlockingIOError):
                view = view[self._sock.send(view) :]

    async def receive(self, size: int, *, until: float) -> bytes:
        """See `Wire`."""
        while True:
            if not self._ready:
                await self._readable(until)
            else:
                self._reads += 1
                if self._reads % YIELD_EVERY == 0:
                    await trio.lowlevel.checkpoint()
            try:
                data = self._sock.recv(size)
            except BlockingIOError:
                self._ready = False
                continue
            self._ready = len(data) == size
            return data

    async def _readable(self, until: float) -> None:
        if not self._timekeeper.keeping:
            with trio.fail_at(until):
                await trio.lowlevel.wait_readable(self._sock)
            return
        self._due = until
        try:
            await trio.lowlevel.wait_readable(self._sock)
        except trio.ClosedResourceError:
            if self._late:
                raise trio.TooSlowError from None
            raise
        finally:
            self._due = inf

    def look(self, now: float) -> None:
        """See `Timekeeper`."""
        if now >= self._due:
            self._late = True
            trio.lowlevel.notify_closing(self._sock)

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
            self._timekeeper.discard(self)
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

    async def receive(self, size: int, *, until: float) -> bytes:
        """See `Wire`."""
        with trio.fail_at(until):
            return bytes(await self._stream.receive_some(size))

    def has_input(self) -> bool:
        """See `Wire`. A session ticket that came late counts as well: then the connection is not used again."""
        return self._stream.transport_stream.socket.is_readable()

    def close(self) -> None:
        """See `Wire`."""
        self._stream.transport_stream.socket.close()
