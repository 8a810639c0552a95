"""What was received on a connection and nobody has read yet: bounded for each stream, and for all together.

Knows no libp2p. Credit says how much a peer may send; these bounds tell a peer that minds none from one that does.
"""

from typing import Any

import trio

SMALL = 64 * 1024  # unread bytes of one stream from which on those of all streams are counted


class FlowControlIgnored(trio.TooSlowError):
    """The one kind of error at which libp2p's reader ends the connection; at others it goes on."""


class Unread(dict[int, bytearray]):
    """Buffers by stream. The number of a stream tells who opened it: odd ones the end that dialled."""

    def __init__(self, *, dialled: bool, each: int, ours: int, theirs: int) -> None:
        """Prepare.

        Args:
            dialled: whether this node dialled.
            each: bytes that one stream may hold.
            ours, theirs: bytes that all streams which this node opened may hold together, and all which the peer did.
        """
        super().__init__()
        self._each = each
        self._all = (theirs, ours) if dialled else (ours, theirs)

    def __setitem__(self, number: int, buffer: bytearray) -> None:
        """Take a buffer in, bounded from now on."""
        super().__setitem__(number, _Bounded(buffer, number, self))

    def hold(self, number: int, size: int, more: int) -> None:
        """Let a stream's buffer have `more` bytes, after which it holds `size`.

        Raises:
            FlowControlIgnored: that is too much.
        """
        if size > self._each:
            raise FlowControlIgnored(f"{size} bytes unread where {self._each} are allowed")
        if size <= SMALL:
            return
        held = sum(len(buffer) for each, buffer in self.items() if each % 2 == number % 2) + more
        if held > self._all[number % 2]:
            raise FlowControlIgnored(f"{held} bytes unread of all streams where {self._all[number % 2]} are allowed")


class _Bounded(bytearray):
    def __init__(self, content: bytearray, number: int, table: Unread) -> None:
        super().__init__(content)
        self._number = number
        self._table = table

    def extend(self, data: Any) -> None:  # noqa: ANN401 -- bytearray's own signature
        self._table.hold(self._number, len(self) + len(data), len(data))
        super().extend(data)
