"""Whose fault a broken rule of the wire is: ours, or the peer's.

Knows no rule itself. A rule that is broken by bytes from outside becomes `RemoteProtocolError`: evidence against
one peer, never a reason to stop. The same rule broken by what we are about to send becomes `LocalProtocolError`:
a bug of ours. The code that holds a rule raises `Flaw` and leaves the blame to whoever knows the direction.
"""

from enum import StrEnum

from protocol import limits


class Reason(StrEnum):
    """Stable codes of what a peer did wrong: counted in metrics, shown to people, never shown in other words.

    Their meanings are in docs/protocol/README.md. A code is never given a new meaning; new ones may be added.
    """

    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"
    TOO_MANY = "too_many"
    TRUNCATED = "truncated"
    TRAILING = "trailing"
    FORBIDDEN_TYPE = "forbidden_type"
    BAD_TEXT = "bad_text"
    MAP_ORDER = "map_order"
    NOT_MINIMAL = "not_minimal"
    EMPTY_FRAME = "empty_frame"
    MISSING_FIELD = "missing_field"
    WRONG_TYPE = "wrong_type"
    OUT_OF_BOUNDS = "out_of_bounds"
    MALFORMED = "malformed"
    WRONG_KIND = "wrong_kind"
    WRONG_VERSION = "wrong_version"
    WRONG_SWARM = "wrong_swarm"
    FROM_THE_FUTURE = "from_the_future"
    EXPIRED = "expired"
    BAD_SIGNATURE = "bad_signature"
    UNKNOWN_MESSAGE = "unknown_message"
    OUT_OF_TURN = "out_of_turn"
    SIZE_MISMATCH = "size_mismatch"
    WRONG_SENDER = "wrong_sender"
    WRONG_KEY = "wrong_key"
    NOT_A_MEMBER = "not_a_member"


class Flaw(Exception):
    """A broken rule whose culprit is not known yet. Never leaves `protocol/`.

    `path` names the field, innermost last, joined by dots; empty where no field is meant. Whoever holds a field
    adds its name on the way out (`under`), so that the good case pays nothing for it.
    """

    def __init__(self, reason: Reason, detail: str, path: str = "") -> None:
        super().__init__(reason, detail, path)
        self.reason = reason
        self.detail = detail
        self.path = path

    def under(self, name: str) -> "Flaw":
        """Return the same flaw as the holder of the field `name` sees it."""
        return Flaw(self.reason, self.detail, f"{name}.{self.path}" if self.path else name)


class LocalProtocolError(Exception):
    """We broke a rule: a bug here, to be fixed here. What had been asked for was not done."""


class RemoteProtocolError(Exception):
    """The peer broke a rule. End this exchange, hold it against the peer, go on.

    Attributes:
        reason: the stable code.
        detail: for a person: printable ASCII of at most `limits.ERROR_DETAIL_CHARS`, whatever the peer had sent.
        path: the field meant, under the same bound; empty where no field is.
    """

    def __init__(self, reason: Reason, detail: str = "", *, path: str = "") -> None:
        self.reason = reason
        self.detail = _harmless(detail)
        self.path = _harmless(path)
        where = f" at {self.path}" if self.path else ""
        super().__init__(f"{reason.value}{where}: {self.detail}" if self.detail else f"{reason.value}{where}")


def blame_peer(flaw: Flaw) -> RemoteProtocolError:
    """Return the flaw as the peer's fault: it came from outside."""
    return RemoteProtocolError(flaw.reason, flaw.detail, path=flaw.path)


def blame_us(flaw: Flaw) -> LocalProtocolError:
    """Return the flaw as ours: it would have gone out."""
    return LocalProtocolError(f"{flaw.reason.value} at {flaw.path or 'the top'}: {flaw.detail}")


def _harmless(text: str) -> str:
    """Escape what a terminal or a log might act on; cut the rest. Cut first: the peer chose the length."""
    return ascii(text[: limits.ERROR_DETAIL_CHARS])[1:-1][: limits.ERROR_DETAIL_CHARS]
