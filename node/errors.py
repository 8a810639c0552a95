"""Errors by whose fault they are, and with what a person should do about them.

Ours (a bug): any other exception; the node crashes and says where. A peer's: `RemoteProtocolError`.
The client's or the moment's: `Refused`. The world's (engine, disk, driver): the classes below, translated where
they arise. What a person sees says what happened, why it may have, and what to do now.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """Exit codes of the command line (conventions: sysexits where one fits)."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    RESTART_WANTED = 3
    UNAVAILABLE = 69
    TEMPORARY = 75
    CONFIG = 78
    INTERRUPTED = 130


class NodeError(Exception):
    """An error that is shown to a person."""

    exit_code = ExitCode.FAILURE

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class ConfigError(NodeError):
    """The configuration is wrong: nothing was started."""

    exit_code = ExitCode.CONFIG


class Unavailable(NodeError):
    """Something that the node needs is not to be had: a port, a file, a running node."""

    exit_code = ExitCode.UNAVAILABLE


class EngineUnavailable(NodeError):
    """The engine cannot be started. `permanent` when trying again without a change cannot help."""

    def __init__(self, message: str, *, remedy: str = "", permanent: bool = False) -> None:
        super().__init__(message, remedy=remedy)
        self.permanent = permanent


class Broken(NodeError):
    """An answer that had been promised will not come whole: its engine or connection died."""


class Unreached(Broken):
    """Nobody was asked: no connection could be had. Nothing was done, so asking again or elsewhere is safe."""


class WhyNot(StrEnum):
    """Why nothing comes of a peer, in words that scripts and `metainf doctor` rely on."""

    NO_ROUTE = "no_route"  # this machine knows no way to it
    NO_NAME = "no_name"  # its name stands for no address
    REFUSED = "refused"  # the machine is there, and nobody listens at the port
    SILENT = "silent"  # nothing comes back
    HANGING = "hanging"  # it accepts the connection and says nothing
    HUNG_UP = "hung_up"  # it accepts the connection and ends it
    GARBAGE = "garbage"  # what answers is no node
    OTHER_PEER = "other_peer"  # what answers is another node
    WRONG_KEY = "wrong_key"  # it is a node of a private swarm whose key is another one
    WRONG_SWARM = "wrong_swarm"  # it is a node of another swarm
    PARTED = "parted"  # it is a node that wants nothing of this one, or has no room
    OTHER = "other"


class Unreachable(NodeError):
    """A peer cannot be talked to: no address of it answers, or it is somebody else who does."""

    def __init__(self, message: str, *, remedy: str = "", why: WhyNot = WhyNot.OTHER) -> None:
        super().__init__(message, remedy=remedy)
        self.why = why


class OtherSwarm(Unreachable):
    """Somebody answers, and most likely belongs to another swarm (WRONG_SWARM), or has another key (WRONG_KEY)."""


class NotSpoken(Unreachable):
    """The peer is there, and does not speak the protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a prompt is not taken, in terms of the API.

    Attributes:
        status: the HTTP status.
        type: the `type` of the OpenAI error envelope, which clients switch on.
        code: the `code` of the envelope; None leaves it null.
        retry_after: whole seconds after which it is worth asking again; None where asking again will not help.
        as_engine: said in vLLM's stead and as vLLM says it: the envelope's code repeats the status.
    """

    status: int
    type: str
    message: str
    code: str | None = None
    param: str | None = None
    retry_after: int | None = None
    as_engine: bool = False


MODELS_NAMED = 16  # in one message: a swarm may serve hundreds


def unknown_model(model: str, served: Iterable[str]) -> Refusal:
    """Refuse a model that nobody serves, in vLLM's words, with what there is instead."""
    names = sorted(set(served))
    aliases = ", ".join(names[:MODELS_NAMED]) + (", ..." if len(names) > MODELS_NAMED else "")
    message = f"The model `{model}` does not exist." + (f" Valid aliases: {aliases}." if names else "")
    return Refusal(status=404, type="NotFoundError", param="model", message=message, as_engine=True)


class Refused(Exception):
    """A prompt was not taken; nothing was done for it."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal
