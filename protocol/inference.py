"""The inference exchange `/metainf/infer/1`: who may say what when. Specification: docs/protocol/inference.md.

Knows no stream, no engine and no clock: bytes and events go in, events and bytes come out, and every wait, with
its deadline, is the caller's. One stream carries one exchange after another.

The table is the whole truth; the specification's table and diagram are generated from it. Both ends hold the same
table, but not always the same state: what one sends is under way while the other speaks. Steps that exist only
for such crossings may be received and never sent.

A `Cancel` is what crosses most: the server may have ended meanwhile. So every Cancel is answered by exactly one
`Cancelled`, even when the answer's end was already said, and the asker takes the stream for free at `Cancelled`
and not before. A late Cancel can then never hit the next prompt.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from protocol import inference_events, limits
from protocol.errors import Flaw, LocalProtocolError, Reason, RemoteProtocolError, blame_peer, blame_us
from protocol.framing import Framer, frame
from protocol.inference_events import (
    Ask,
    Body,
    Cancel,
    Cancelled,
    Data,
    End,
    Event,
    Fail,
    Head,
    Refuse,
)

PROTOCOL_ID: Final = "/metainf/infer/1"


class Role(Enum):
    """The ends of a stream: who opened it asks, the other serves."""

    ASKER = "asker"
    SERVER = "server"


class State(Enum):
    """How far the exchange is, as one end sees it."""

    IDLE = "idle"  # nothing was asked yet, or the last prompt was cancelled and that is acknowledged
    ASKING = "asking"  # the prompt's body is not whole
    ASKED = "asked"  # the prompt is whole, the server has said nothing
    ANSWERING = "answering"  # the head was said
    REFUSED_EARLY = "refused early"  # refused before the prompt's body was whole
    DONE = "done"  # all was said by both: the next prompt may follow
    CANCELLED_ASKING = "cancelled asking"  # cancelled while ASKING: Cancelled is owed; and so on
    CANCELLED_ASKED = "cancelled asked"
    CANCELLED_ANSWERING = "cancelled answering"
    CANCELLED_DONE = "cancelled done"


class Move(Enum):
    """A message as far as the table tells them apart."""

    ASK = "Ask, body to follow"
    ASK_WHOLE = "Ask without body"
    BODY = "Body, more to follow"
    BODY_LAST = "Body, the last"
    CANCEL = "Cancel"
    REFUSE = "Refuse"
    HEAD = "Head"
    DATA = "Data"
    END = "End"
    FAIL = "Fail"
    CANCELLED = "Cancelled"


@dataclass(frozen=True, slots=True)
class Step:
    """Where a move leads. `crossing`: legal only for its receiver, because the sender could not yet know."""

    to: State
    crossing: bool = False


def _crossing(to: State) -> Step:
    return Step(to, crossing=True)


S, M = State, Move
TABLE: Final[Mapping[State, Mapping[Move, Step]]] = {
    S.IDLE: {
        M.ASK: Step(S.ASKING),
        M.ASK_WHOLE: Step(S.ASKED),
    },
    S.ASKING: {
        M.BODY: Step(S.ASKING),
        M.BODY_LAST: Step(S.ASKED),
        M.CANCEL: Step(S.CANCELLED_ASKING),
        M.REFUSE: Step(S.REFUSED_EARLY),
    },
    S.ASKED: {
        M.CANCEL: Step(S.CANCELLED_ASKED),
        M.REFUSE: Step(S.DONE),
        M.HEAD: Step(S.ANSWERING),
        M.FAIL: Step(S.DONE),
    },
    S.ANSWERING: {
        M.CANCEL: Step(S.CANCELLED_ANSWERING),
        M.DATA: Step(S.ANSWERING),
        M.END: Step(S.DONE),
        M.FAIL: Step(S.DONE),
    },
    S.REFUSED_EARLY: {
        M.BODY: _crossing(S.REFUSED_EARLY),
        M.BODY_LAST: _crossing(S.DONE),
        M.CANCEL: Step(S.CANCELLED_DONE),
    },
    S.DONE: {
        M.ASK: Step(S.ASKING),
        M.ASK_WHOLE: Step(S.ASKED),
        M.CANCEL: _crossing(S.CANCELLED_DONE),
    },
    S.CANCELLED_ASKING: {
        M.REFUSE: _crossing(S.CANCELLED_DONE),
        M.CANCELLED: Step(S.IDLE),
    },
    S.CANCELLED_ASKED: {
        M.REFUSE: _crossing(S.CANCELLED_DONE),
        M.HEAD: _crossing(S.CANCELLED_ANSWERING),
        M.FAIL: _crossing(S.CANCELLED_DONE),
        M.CANCELLED: Step(S.IDLE),
    },
    S.CANCELLED_ANSWERING: {
        M.DATA: _crossing(S.CANCELLED_ANSWERING),
        M.END: _crossing(S.CANCELLED_DONE),
        M.FAIL: _crossing(S.CANCELLED_DONE),
        M.CANCELLED: Step(S.IDLE),
    },
    S.CANCELLED_DONE: {
        M.CANCELLED: Step(S.IDLE),
    },
}

SENDER: Final[Mapping[Move, Role]] = {
    move: Role.ASKER if move in {M.ASK, M.ASK_WHOLE, M.BODY, M.BODY_LAST, M.CANCEL} else Role.SERVER for move in Move
}
FREE: Final = frozenset({State.IDLE, State.DONE})

_MOVES: Final[Mapping[type[Event], Move]] = {
    Cancel: M.CANCEL,
    Refuse: M.REFUSE,
    Head: M.HEAD,
    Data: M.DATA,
    End: M.END,
    Fail: M.FAIL,
    Cancelled: M.CANCELLED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where one end stands: its state, bytes of the prompt's body still to come, bytes of the answer so far."""

    state: State = State.IDLE
    body_left: int = 0
    data_size: int = 0


def advance(position: Position, event: Event, *, by: Role, us: Role) -> Position:
    """Return the position after `event`, said `by` one of the ends, as the end `us` sees it.

    Raises:
        Flaw: out of turn, or sizes that do not add up.
    """
    move = _move(position, event)
    step = TABLE[position.state].get(move)
    if step is None or SENDER[move] is not by or (step.crossing and by is us):
        raise Flaw(Reason.OUT_OF_TURN, f"{move.value} by the {by.value} while {position.state.value}")
    return _count(position, event, step.to)


def _move(position: Position, event: Event) -> Move:
    if isinstance(event, Ask):
        return Move.ASK if event.body_size else Move.ASK_WHOLE
    if isinstance(event, Body):
        return Move.BODY if len(event.data) < position.body_left else Move.BODY_LAST
    return _MOVES[type(event)]


def _count(position: Position, event: Event, to: State) -> Position:
    """Return the position with its new state, and keep the sums that the messages must agree with."""
    left, size = position.body_left, position.data_size
    if isinstance(event, Ask):
        left, size = event.body_size, 0
    elif isinstance(event, Body):
        left -= len(event.data)
        if left < 0:
            raise Flaw(Reason.SIZE_MISMATCH, f"{len(event.data)} bytes where {position.body_left} are left", "data")
    elif isinstance(event, Data):
        size += len(event.data)
        if size > limits.ANSWER_BYTES:
            raise Flaw(Reason.TOO_LARGE, f"an answer above {limits.ANSWER_BYTES} bytes", "data")
    elif isinstance(event, End) and event.data_size != size:
        raise Flaw(Reason.SIZE_MISMATCH, f"{event.data_size} said, {size} came", "data_size")
    return Position(state=to, body_left=left, data_size=size)


class Exchange:
    """One end of a stream.

    Feed what comes, take events until None, send what `send` returns in one write, in order. After a
    `RemoteProtocolError` reset the stream: nothing more is understood or may be sent on it.

    The server must be ready for a `Cancel` even when it has ended the answer, and answer it with `Cancelled`.
    The asker, having sent `Cancel`, takes events until `Cancelled`; what comes before it is of no use.
    """

    __slots__ = ("_broken", "_framer", "_position", "_their_role", "our_role")

    def __init__(self, our_role: Role) -> None:
        self.our_role: Final = our_role
        self._their_role: Final = Role.SERVER if our_role is Role.ASKER else Role.ASKER
        self._framer = Framer()
        self._position = Position()
        self._broken: RemoteProtocolError | None = None

    @property
    def state(self) -> State:
        """How far the exchange is, as this end sees it."""
        return self._position.state

    @property
    def is_free(self) -> bool:
        """Whether the next `Ask` may be sent: a pooled stream may be given to somebody else."""
        return self._broken is None and self._position.state in FREE

    def say(self, event: Event) -> bytes:
        """Return the payload that says `event`, for a stream that carries frames of its own.

        Raises:
            LocalProtocolError: not our turn, a field out of bounds, or the stream is broken; the state is as before.
        """
        if self._broken is not None:
            raise LocalProtocolError("the peer broke the protocol: reset the stream")
        try:
            position = advance(self._position, event, by=self.our_role, us=self.our_role)
        except Flaw as flaw:
            raise blame_us(flaw) from None
        payload = inference_events.encode(event)
        self._position = position
        return payload

    def hear(self, payload: bytes) -> Event:
        """Return what the peer has said in one payload, from a stream that carries frames of its own.

        Raises:
            RemoteProtocolError: it said what it must not. Raised again at every later call.
        """
        if self._broken is not None:
            raise self._broken.with_traceback(None)
        try:
            event = inference_events.decode(payload)
            self._position = advance(self._position, event, by=self._their_role, us=self.our_role)
        except Flaw as flaw:
            self._broken = blame_peer(flaw)
        except RemoteProtocolError as error:
            self._broken = error
        else:
            return event
        raise self._broken

    def send(self, event: Event) -> bytes:
        """Return the bytes that say `event`: one frame. They must be written, whole, before any later ones.

        Raises: as `say`.
        """
        return frame(self.say(event))

    def feed(self, data: bytes) -> None:
        """Take bytes as they came, at most a frame's worth, after `next_event` has returned None."""
        self._framer.feed(data)

    def next_event(self) -> Event | None:
        """Return what the peer said next; None where more bytes are needed.

        Raises:
            RemoteProtocolError: it said what it must not. Raised again at every later call.
        """
        if self._broken is not None:
            raise self._broken.with_traceback(None)
        try:
            payload = self._framer.next_frame()
        except RemoteProtocolError as error:
            self._broken = error
            raise
        return None if payload is None else self.hear(payload)

    def end(self) -> None:
        """Say that the peer has closed its side; call after the last `next_event`.

        Raises:
            RemoteProtocolError: it did so in the middle of an exchange. For a server that is a cancellation.
        """
        self._framer.end()
        if not self.is_free:
            raise blame_peer(Flaw(Reason.TRUNCATED, f"the stream ended while {self.state.value}"))
