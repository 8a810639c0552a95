"""Server-sent events on their way through: whole ones at once, a torn one never.

Knows nothing of what the events say. The bytes that come out are the bytes that went in, in order and at the moment in
which the event that they belong to is complete, so that an error event can follow at any time without being
glued to half of another. Comments (keep-alives) end in an empty line as well and are treated alike.
"""

HELD_BYTES = 1024 * 1024  # an event larger than this is passed on in pieces; then a break can only be cut off
_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")


class EventHolder:
    """Bytes in, whole events out."""

    def __init__(self) -> None:
        self._held = b""
        self._torn = False

    @property
    def torn(self) -> bool:
        """Whether part of an event has gone out without its end."""
        return self._torn

    def feed(self, data: bytes) -> bytes:
        """Return what can go out now; may be empty."""
        if not self._held and not self._torn and data.endswith(b"\n\n"):
            return data  # how every engine writes: one or more whole events at a time
        held = self._held + data
        cut = max(held.rfind(end) + len(end) if end in held else 0 for end in _ENDS)
        if cut == 0 and (self._torn or len(held) > HELD_BYTES):
            self._held, self._torn = b"", True
            return held
        self._held = held[cut:]
        if cut:
            self._torn = False
        return held[:cut]

    def rest(self) -> bytes:
        """Return what is held when the stream has ended in order: the engine's own words, however they end."""
        held, self._held = self._held, b""
        return held
