"""Yamux's frames on a sealed connection: what is common is taken off, what is rare is left to libp2p's reader.

Knows no libp2p and no stream: data and credit are given to whoever keeps the streams. libp2p's reader asks for one
frame's head after the other, which costs turns of the loop and lines of its log for each. Nearly all frames are data or
credit for streams that are open; these never reach it.
"""

import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto
from math import inf
from typing import Final

import trio

from node.adapters.p2p.sealed import MOST, Gone, SealedSocket

HEAD: Final = struct.Struct("!BBHII")  # version, kind, flags, stream, length
DATA, CREDIT, PING = 0, 1, 2  # kinds of frames; credit is what yamux calls a window update
SYN = 1  # a flag: begins something
DATA_BYTES: Final = MOST - HEAD.size  # of one frame: with its head it fills a message of the cipher, and no second one
BODY_SECONDS = 60.0  # for the rest of a frame that has begun: libp2p's own patience
TURN = 256  # frames taken off in one go before the other tasks get theirs: some 0.3 ms


class Front(Enum):
    """What is at the front of the bytes that came, after the frames that are common."""

    NOTHING = auto()  # or the beginning of a head
    PART = auto()  # the beginning of a common frame
    RARE = auto()  # the head of a frame that libp2p's reader understands
    MORE = auto()  # common frames: the other tasks come first


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """What is done with common frames.

    Attributes:
        deliver: takes a stream's number and its next bytes. Raises where the stream may not hold them.
        credit: takes a stream's number and how many bytes more its peer takes.
        longest: bytes of data in a frame; a longer one is rare, and refused before its body comes.
    """

    deliver: Callable[[int, bytearray], None]
    credit: Callable[[int, int], None]
    longest: int

    def take(self, plain: bytearray) -> Front:
        """Take common frames off the front; say what is there now."""
        at = 0
        try:
            for _ in range(TURN):
                if len(plain) - at < HEAD.size:
                    return Front.NOTHING
                version, kind, flags, number, length = HEAD.unpack_from(plain, at)
                if version or flags or kind > CREDIT or (kind == DATA and length > self.longest):
                    return Front.RARE
                begin = at + HEAD.size
                if kind == CREDIT:
                    self.credit(number, length)
                    at = begin
                    continue
                if begin + length > len(plain):
                    return Front.PART
                at = begin + length  # before it is delivered: what that raises is said once
                self.deliver(number, plain[begin:at])
            return Front.MORE
        finally:
            del plain[:at]


class Line:
    """The connection as libp2p's reader, and its parts that close one, see it."""

    def __init__(
        self,
        sealed: SealedSocket,
        common: Common,
        *,
        dead: Callable[[str], Exception],
        close: Callable[[], Awaitable[None]],
    ) -> None:
        """Prepare.

        Args:
            dead: makes the error that says that the connection has ended.
            close: closes the socket.
        """
        self._sealed = sealed
        self._common = common
        self._dead = dead
        self._close = close

    async def read(self, n: int) -> bytes:
        """Return the `n` bytes of a rare frame's head.

        Raises:
            trio.TooSlowError: a common frame did not come whole in time, or its stream may not hold it.
        """
        plain, until = self._sealed.plain, inf
        while (front := self._common.take(plain)) is not Front.RARE:
            if front is Front.MORE:
                await trio.lowlevel.checkpoint()
                continue
            until = min(until, trio.current_time() + BODY_SECONDS) if front is Front.PART else inf
            await self._fill(until)
        return self._take(n)

    async def body(self, n: int) -> bytes:
        """Return the `n` bytes after a rare frame's head.

        Raises:
            trio.TooSlowError: they did not come in time.
        """
        until = trio.current_time() + BODY_SECONDS
        while len(self._sealed.plain) < n:
            await self._fill(until)
        return self._take(n)

    def _take(self, n: int) -> bytes:
        data = bytes(self._sealed.plain[:n])
        del self._sealed.plain[:n]
        return data

    async def _fill(self, until: float) -> None:
        try:
            if until == inf:
                await self._sealed.fill()
            else:
                with trio.fail_at(until):
                    await self._sealed.fill()
        except Gone as error:
            raise self._dead(f"connection closed: {error}") from error

    async def write(self, data: bytes) -> None:
        """Say frames, whole.

        Raises:
            trio.TooSlowError: the connection took nothing for too long, and is dead.
        """
        try:
            await self._sealed.write(data)
        except Gone as error:
            raise self._dead(f"connection closed: {error}") from error

    async def close(self) -> None:
        """Close the socket."""
        await self._close()
