"""Length-prefixed frames on a byte stream, without a stream. Specification: docs/protocol/framing.md.

Knows neither what a frame says nor who sends it. Bytes are fed as they come, in whatever pieces; whole frames come
out. What comes out depends on the bytes alone, never on how they were cut.
"""

from typing import Final

from protocol import limits
from protocol.errors import LocalProtocolError, Reason, RemoteProtocolError

PREFIX: Final = limits.FRAME_PREFIX_BYTES


def frame(payload: bytes, *, limit: int = limits.FRAME_BYTES) -> bytes:
    """Return one frame, prefix included, to be written in one piece.

    Raises:
        LocalProtocolError: the payload is empty or exceeds `limit` bytes.
    """
    if not 0 < len(payload) <= limit:
        raise LocalProtocolError(f"a frame carries 1 to {limit} bytes, not {len(payload)}")
    return len(payload).to_bytes(PREFIX, "big") + payload


class Framer:
    """The receiving side of one stream.

    Holds at most two frames: whoever feeds takes out what is whole before feeding again, in pieces of at most one
    frame. Once it has raised `RemoteProtocolError` it raises the same for ever: the stream cannot be understood
    any more.
    """

    __slots__ = ("_broken", "_buffer", "_limit")

    def __init__(self, *, limit: int = limits.FRAME_BYTES) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._broken: RemoteProtocolError | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes from the stream, in order.

        Raises:
            LocalProtocolError: more than two frames' worth would be held; call `next_frame` until None first.
        """
        if self._broken is not None:
            return
        if len(self._buffer) + len(data) > 2 * (PREFIX + self._limit):
            raise LocalProtocolError("take out the frames before feeding more")
        self._buffer += data

    def next_frame(self) -> bytes | None:
        """Return the payload of the next whole frame; None where more bytes are needed.

        Raises:
            RemoteProtocolError: a frame is declared empty or above the limit. Frames before it came out first.
        """
        if self._broken is not None:
            raise self._broken.with_traceback(None)
        if len(self._buffer) < PREFIX:
            return None
        length = int.from_bytes(self._buffer[:PREFIX], "big")
        if length == 0:
            raise self._break(Reason.EMPTY_FRAME, "a frame of no bytes")
        if length > self._limit:
            raise self._break(Reason.TOO_LARGE, f"a frame of {length} bytes where {self._limit} are allowed")
        end = PREFIX + length
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[PREFIX:end])
        del self._buffer[:end]
        return payload

    def end(self) -> None:
        """Say that the stream has ended; call after the last `next_frame`.

        Raises:
            RemoteProtocolError: it ended inside a frame.
        """
        if self._broken is not None:
            raise self._broken.with_traceback(None)
        if self._buffer:
            raise self._break(Reason.TRUNCATED, f"the stream ended {len(self._buffer)} bytes into a frame")

    def _break(self, reason: Reason, detail: str) -> RemoteProtocolError:
        self._buffer.clear()
        self._broken = RemoteProtocolError(reason, detail)
        return self._broken
