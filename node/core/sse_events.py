"""Server-sent events on their way through: whole ones at once, a torn one never; and what a whole one holds.

Knows nothing of what the events say. The bytes that come out are the bytes that went in, in order and at the moment in
which the event that they belong to is complete, so that another event can follow at any time without being glued to
half of one. Comments (keep-alives) end in an empty line as well and are treated alike.
"""

import re

from node.core.prompt import Headers

HELD_BYTES = 1024 * 1024  # an event larger than this is passed on in pieces; then a break can only be cut off
DONE = b"data: [DONE]\n\n"  # how OpenAI's dialect ends a stream
_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")
LONGEST_END = 4
_DATA = re.compile(rb"(?:^|[\r\n])data:[ ]?([^\r\n]*)")
_QUIET = (b":", b"event:", b"id:", b"retry:")  # how lines of events begin that say nothing


def is_event_stream(headers: Headers) -> bool:
    """Tell whether an answer with these headers (names in lower case) is a stream of events."""
    return any(name == b"content-type" and value.lower().startswith(b"text/event-stream") for name, value in headers)


class EventHolder:
    """Bytes in, whole events out. However small the pieces, each byte is looked at a few times and no more."""

    __slots__ = ("_held", "_most", "_torn")

    def __init__(self, *, most: int = HELD_BYTES) -> None:
        """Begin. `most`: bytes of an event that is waited for."""
        self._most = most
        self._held = bytearray()
        self._torn = False

    @property
    def torn(self) -> bool:
        """Whether part of an event has gone out without its end."""
        return self._torn

    @property
    def held(self) -> int:
        """How many bytes wait for the end of their event."""
        return len(self._held)

    def feed(self, data: bytes) -> bytes:
        """Return what can go out now; may be empty."""
        held = self._held
        if not held and not self._torn and data.endswith(b"\n\n"):
            return data  # how every engine writes: one or more whole events at a time
        start = max(len(held) - LONGEST_END + 1, 0)  # an end may have begun in what came before
        held += data
        cut = max(at + len(end) if (at := held.rfind(end, start)) >= 0 else 0 for end in _ENDS)
        if cut == 0 and (self._torn or len(held) > self._most):
            self._torn = True
            return self.rest()
        if cut == 0:
            return b""
        self._torn = False
        out = bytes(held[:cut])
        del held[:cut]
        return out

    def rest(self) -> bytes:
        """Return what is held when the stream has ended in order: the engine's own words, however they end."""
        out = bytes(self._held)
        self._held.clear()
        return out


def events_of(block: bytes) -> list[bytes]:
    """Return the whole events of a block, each with its end. What follows the last end is none."""
    events: list[bytes] = []
    at = 0
    nexts = [block.find(end) for end in _ENDS]
    while True:
        found = [(where, end) for where, end in zip(nexts, _ENDS, strict=True) if where >= 0]
        if not found:
            return events
        where, end = min(found)
        events.append(block[at : where + len(end)])
        at = where + len(end)
        nexts = [
            each if each < 0 or each >= at else block.find(one, at) for each, one in zip(nexts, _ENDS, strict=True)
        ]


def data_of(event: bytes) -> bytes | None:
    """Return what an event says; None of one that says nothing, as a comment."""
    lines = _DATA.findall(event)
    return b"\n".join(lines) if lines else None


def is_quiet(event: bytes) -> bool:
    """Whether an event that says nothing is one: comments and fields of the standard. Anything else is garbage."""
    return all(line.startswith(_QUIET) for line in event.splitlines() if line)
