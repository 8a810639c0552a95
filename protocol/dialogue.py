"""Short dialogues in which the ends take turns, as tables: a greeting, a question and its answer.

Knows no message by name, no stream and no clock: payloads and messages go in, messages and payloads come out, and
every wait, with its deadline, is the caller's. Here nothing crosses: in each state one end alone may speak, or nobody.
The inference exchange, in which a cancellation may cross everything, has its own machine (`protocol.inference`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, TypeVar

from protocol.errors import Flaw, LocalProtocolError, Reason, RemoteProtocolError, blame_peer, blame_us
from protocol.messages import M, Vocabulary

S = TypeVar("S", bound=Enum)


class Role(Enum):
    """The ends of a stream: who opened it, and who answers."""

    OPENER = "opener"
    ANSWERER = "answerer"

    @property
    def other(self) -> "Role":
        """The role at the far end."""
        return Role.ANSWERER if self is Role.OPENER else Role.OPENER


@dataclass(frozen=True, slots=True)
class Turn(Generic[S]):
    """Who may say a message in a state, and where it leads."""

    by: Role
    to: S


@dataclass(frozen=True, slots=True, kw_only=True)
class Script(Generic[S, M]):
    """A protocol of this sort.

    Attributes:
        table: per state, the messages that may be said; all others are refused as out of turn.
        rests: states in which the stream may end.
        limit: bytes of one frame's payload: what a stream of this protocol need hold.
    """

    table: Mapping[S, Mapping[type[M], Turn[S]]]
    start: S
    rests: frozenset[S]
    vocabulary: Vocabulary[M]
    limit: int


class Dialogue(Generic[S, M]):
    """One end of a stream that carries frames, each payload whole. Send what `say` returns, in order.

    After a `RemoteProtocolError` reset the stream: nothing more is understood or may be sent on it.
    """

    __slots__ = ("_broken", "_script", "_state", "our_role")

    def __init__(self, script: Script[S, M], our_role: Role) -> None:
        self.our_role: Final = our_role
        self._script = script
        self._state = script.start
        self._broken: RemoteProtocolError | None = None

    @property
    def state(self) -> S:
        """How far the dialogue is."""
        return self._state

    def say(self, message: M) -> bytes:
        """Return the payload that says `message`.

        Raises:
            LocalProtocolError: not our turn, a field out of bounds, or the stream is broken; the state is as before.
        """
        if self._broken is not None:
            raise LocalProtocolError("the peer broke the protocol: reset the stream")
        try:
            state = self._after(message, self.our_role)
        except Flaw as flaw:
            raise blame_us(flaw) from None
        payload = self._script.vocabulary.encode(message)
        self._state = state
        return payload

    def hear(self, payload: bytes) -> M:
        """Return what the peer has said.

        Raises:
            RemoteProtocolError: it said what it must not. Raised again at every later call.
        """
        if self._broken is not None:
            raise self._broken.with_traceback(None)
        try:
            message = self._script.vocabulary.decode(payload)
            self._state = self._after(message, self.our_role.other)
        except Flaw as flaw:
            self._broken = blame_peer(flaw)
        except RemoteProtocolError as error:
            self._broken = error
        else:
            return message
        raise self._broken

    def end(self) -> None:
        """Say that the peer has closed its side.

        Raises:
            RemoteProtocolError: something was still to be said.
        """
        if self._state not in self._script.rests:
            raise blame_peer(Flaw(Reason.TRUNCATED, f"the stream ended while {self._state.value}"))

    def _after(self, message: M, by: Role) -> S:
        turn = self._script.table[self._state].get(type(message))
        if turn is None or turn.by is not by:
            said = type(message).__name__
            raise Flaw(Reason.OUT_OF_TURN, f"{said} by the {by.value} while {self._state.value}")
        return turn.to
