"""The messages of a protocol as frame payloads: maps of their fields and `kind`. Specification: docs/protocol/wire.md.

Knows no particular message and no order: who may say what when is a table elsewhere (`protocol.inference`,
`protocol.dialogue`).
"""

from collections.abc import Mapping
from typing import Final, Generic, TypeVar

from protocol import schema, wire
from protocol.errors import Reason, RemoteProtocolError
from protocol.limits import Bounds
from protocol.schema import Record

KIND: Final = "kind"

M = TypeVar("M", bound=Record)


class Vocabulary(Generic[M]):
    """The kinds of message that a protocol has, by name."""

    __slots__ = ("_bounds", "_kind_of", "kinds")

    def __init__(self, kinds: Mapping[str, type[M]], bounds: Bounds) -> None:
        self.kinds: Final = kinds
        self._bounds = bounds
        self._kind_of = {cls: kind for kind, cls in kinds.items()}

    def encode(self, message: M) -> bytes:
        """Return the message as the payload of one frame.

        Raises:
            LocalProtocolError: a field breaks its rule.
        """
        fields = schema.write(message)
        fields[KIND] = self._kind_of[type(message)]
        return wire.encode(fields, self._bounds)

    def decode(self, payload: bytes) -> M:
        """Read the payload of one frame.

        Raises:
            RemoteProtocolError: it is no message of this protocol.
        """
        fields = wire.decode(payload, self._bounds)
        if type(fields) is not dict:
            raise RemoteProtocolError(Reason.WRONG_TYPE, "a message is a map")
        kind = fields.pop(KIND, None)
        if type(kind) is not str:
            raise RemoteProtocolError(Reason.MISSING_FIELD, "a message says its kind in text", path=KIND)
        cls = self.kinds.get(kind)
        if cls is None:
            raise RemoteProtocolError(Reason.UNKNOWN_MESSAGE, kind, path=KIND)
        return schema.read(cls, fields)
