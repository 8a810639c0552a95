"""What asker and server say to each other in `/metainf/infer/1`: one frozen dataclass per message.

Specification: docs/protocol/inference.md. Knows nothing of the order in which they may come: that is
`protocol.inference`. On the wire each is a map of its fields and `kind`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, TypeAlias

from protocol import headers, limits
from protocol.messages import Vocabulary
from protocol.schema import Blob, Int, Named, Opaque, Text, Unknown, no_unknown
from protocol.wire import Value

Load = Mapping[str, int]

_CODE: Final = Text(limits.CODE_CHARS, r"[A-Za-z0-9_.:/\[\]-]*")
_LOAD: Final = Named(Int(0, limits.EXACT_INT_MAX), limits.LOAD_ITEMS)
_SLO: Final = Int(1, limits.SLO_MAX_MS)
_REQUEST_HEADERS: Final = headers.HeaderList(headers.REQUEST)
_ANSWER_HEADERS: Final = headers.HeaderList(headers.ANSWER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A prompt, all but its body.

    Attributes:
        target: path and query as the client sent them. Which paths are served is the server's decision.
        body_size: bytes of the `Body` parts that follow; 0 for none.
        time_left_us: how long an answer is of use, from the moment this is read; absent for no limit. Relative,
            because clocks differ.
        attempt: how many nodes have been tried with this prompt, this one included.
        session, slo_ttft_ms, slo_tpot_ms, objective: what the client wished for; they bind nobody.
        resume: reserved for continuing an answer that another server began. Only to be sent to a server that
            announced the feature: others would begin anew.
    """

    request_id: Annotated[str, Text(limits.REQUEST_ID_CHARS, r"[!-~]+")]
    method: Annotated[str, Text(4, r"GET|POST")]
    target: Annotated[str, Text(limits.TARGET_CHARS, r"/(?!/)[!$-;=?-\[\]_a-z~]*")]
    headers: Annotated[headers.Headers, _REQUEST_HEADERS]
    body_size: Annotated[int, Int(0, limits.BODY_BYTES)]
    attempt: Annotated[int, Int(1, limits.ATTEMPT_MAX)]
    time_left_us: Annotated[int | None, Int(1, limits.TIME_LEFT_MAX_US)] = None
    session: Annotated[str | None, Text(limits.SESSION_CHARS, r"[!-~]+")] = None
    slo_ttft_ms: Annotated[int | None, _SLO] = None
    slo_tpot_ms: Annotated[int | None, _SLO] = None
    objective: Annotated[str | None, Text(limits.OBJECTIVE_CHARS, r"[a-z0-9_.,:]+")] = None
    resume: Annotated[Mapping[str, Value] | None, Opaque()] = None
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """The next bytes of the prompt's body."""

    data: Annotated[bytes, Blob(1, limits.PART_BYTES)]
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """The asker wants no more. Answered by exactly one `Cancelled`, whatever was under way."""

    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Nothing was done for the prompt; another server may be asked. The fields are those of the OpenAI error.

    Attributes:
        retry_after: whole seconds after which it is worth asking this server again.
    """

    status: Annotated[int, Int(400, 599)]
    type: Annotated[str, _CODE]
    message: Annotated[str, Text(limits.MESSAGE_BYTES)]
    code: Annotated[str | None, _CODE] = None
    param: Annotated[str | None, _CODE] = None
    retry_after: Annotated[int | None, Int(0, limits.RETRY_AFTER_MAX_S)] = None
    load: Annotated[Load | None, _LOAD] = None
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The engine answers: its status, errors included, and those of its headers that travel."""

    status: Annotated[int, Int(200, 599)]
    headers: Annotated[headers.Headers, _ANSWER_HEADERS]
    load: Annotated[Load | None, _LOAD] = None
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The next bytes of the answer's body, untouched. How they are cut means nothing."""

    data: Annotated[bytes, Blob(1, limits.PART_BYTES)]
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The answer is whole: `data_size` bytes of `Data` in all."""

    data_size: Annotated[int, Int(0, limits.ANSWER_BYTES)]
    load: Annotated[Load | None, _LOAD] = None
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """The answer will not come whole: something broke after work had begun."""

    code: Annotated[str, _CODE]
    message: Annotated[str, Text(limits.MESSAGE_BYTES)]
    load: Annotated[Load | None, _LOAD] = None
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """The server has stopped, and says nothing more of that prompt."""

    load: Annotated[Load | None, _LOAD] = None
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


AskerEvent: TypeAlias = Ask | Body | Cancel
ServerEvent: TypeAlias = Refuse | Head | Data | End | Fail | Cancelled
Event: TypeAlias = AskerEvent | ServerEvent

KINDS: Final[Mapping[str, type[Event]]] = {
    "ask": Ask,
    "body": Body,
    "cancel": Cancel,
    "refuse": Refuse,
    "head": Head,
    "data": Data,
    "end": End,
    "fail": Fail,
    "cancelled": Cancelled,
}
VOCABULARY: Final[Vocabulary[Event]] = Vocabulary(KINDS, limits.MESSAGE)


def encode(event: Event) -> bytes:
    """Return the message as the payload of one frame.

    Raises:
        LocalProtocolError: a field breaks its rule.
    """
    return VOCABULARY.encode(event)


def decode(payload: bytes) -> Event:
    """Read the payload of one frame.

    Raises:
        RemoteProtocolError: it is no message of this protocol.
    """
    return VOCABULARY.decode(payload)
