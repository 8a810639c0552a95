"""What the services need of the world, as capabilities: each adapter keeps one of these promises, so do the fakes.

Knows no implementation. A service asks for the least of these that does its work. The contract that a port's
words leave open is pinned by its suite in `tests/contracts/`, which runs against the adapter and the fake.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

import trio

from node.core.engine_state import EngineSnapshot
from node.core.prompt import Headers, Prompt
from node.core.strategy import Strategy
from protocol import limits
from protocol.addresses import Address
from protocol.ids import PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where an OpenAI server listens. `api_key` is never logged: `repr` hides it."""

    host: str
    port: int
    tls: bool = False
    base_path: str = ""  # what a server behind a gateway puts before /v1, without a trailing slash
    api_key: str | None = field(default=None, repr=False)


class Answer(Protocol):
    """The response to a prompt, while it is being received."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Headers:
        """Header names in lower case, hop-by-hop ones removed."""
        ...

    async def receive(self) -> bytes:
        """Return the body's next bytes as soon as there are any, untouched; b"" at its end.

        Raises:
            node.errors.Broken: the answer ended before its end; no more will come.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Who answers a prompt, and how that came about: what clients are told in headers.

    Attributes:
        node: peer id of the node whose engine answers.
        reason: why that one: `local`, or as the router says.
        attempts: nodes that were tried, this one included.
        model, strategy: what its engine runs, by their names; None where that is not known.
        foretold: seconds from asking it to the first token and to the last; None where nothing was foretold.
    """

    node: str
    reason: str = "local"
    attempts: int = 1
    model: str | None = None
    strategy: str | None = None
    foretold: tuple[float, float] | None = None


class ServedAnswer(Answer, Protocol):
    """An answer of which it is known who gives it."""

    @property
    def served(self) -> Served:
        """Who answers."""
        ...


class Replica(Protocol):
    """Something that can answer a prompt: this node's engine, a peer, or whichever of them is best."""

    def answer(self, prompt: Prompt) -> AbstractAsyncContextManager[ServedAnswer]:
        """Enter once the response's head is here. Leaving early cancels the work at its source.

        Raises:
            node.errors.Refused: nothing was done, and why; the client is told so politely.
            node.errors.Broken: it failed before its first byte.
        """
        ...


class Upstream(Protocol):
    """A pool of connections to OpenAI servers."""

    def send(
        self, endpoint: Endpoint, *, method: str, target: str, headers: Headers, body: bytes
    ) -> AbstractAsyncContextManager[Answer]:
        """Send one request; enter with the response's head. Leaving early closes the connection.

        Raises:
            node.errors.Unreached: could not connect; nothing was done.
            node.errors.Broken: the connection ended before a whole head.
        """
        ...

    async def aclose(self) -> None:
        """Close what the pool holds idle."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchPlan:
    """Everything that decides how an engine is started. Equal plans start equal engines.

    Attributes:
        model: a local folder, or a hub id that the engine downloads when the machine can.
        served_name: the name that clients use.
        max_model_len: tokens of prompt and output together; None leaves it to the engine.
        kv_cache_bytes: size of the KV cache; None leaves it to the engine.
        extra_arguments: the operator's own flags, last on the command line.
    """

    model: str
    served_name: str
    strategy: Strategy
    max_model_len: int | None = None
    kv_cache_bytes: int | None = None
    dtype: str | None = None
    extra_arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineExit:
    """How an engine ended. One of `code` and `signal` is set."""

    code: int | None
    signal: int | None
    log_tail: tuple[str, ...]  # its last lines, oldest first, each cut to a bounded length


class EngineProcess(Protocol):
    """A started engine: the leader of a process group under a guardian."""

    @property
    def pid(self) -> int:
        """Process id of the engine itself."""
        ...

    @property
    def endpoint(self) -> Endpoint:
        """Where it will listen once it is up."""
        ...

    async def wait(self) -> EngineExit:
        """Return when the engine has ended and nothing of its process group is left. Any number may wait."""
        ...

    async def stop(self, *, grace: float) -> EngineExit:
        """SIGTERM, then SIGKILL after `grace` seconds; returns as `wait` does. Safe to repeat and to cancel."""
        ...

    def log_tail(self) -> tuple[str, ...]:
        """Its last lines so far."""
        ...


class EngineLauncher(Protocol):
    """Starts engines."""

    def launch(self, plan: LaunchPlan) -> AbstractAsyncContextManager[EngineProcess]:
        """Enter as soon as the process exists (it is not ready yet); leaving kills whatever is left of it.

        Raises:
            node.errors.EngineUnavailable: it cannot be started here, and what to do about it.
        """
        ...

    async def prepare(self, plan: LaunchPlan, *, tell: Callable[[str], None]) -> None:
        """Make ready what the plan needs (the embedded model unpacked), telling progress in words.

        May be cancelled: what was begun is begun anew next time. Raises as `launch` does.
        """
        ...


class EngineBoard(Protocol):
    """Where the engine's state can be read at any time."""

    def snapshot(self) -> EngineSnapshot:
        """Return what the engine is doing now, and why."""
        ...

    def endpoint(self) -> Endpoint | None:
        """Where prompts go; None unless the engine is ready or draining."""
        ...

    async def changed(self, than: EngineSnapshot) -> EngineSnapshot:
        """Wait until the snapshot differs from `than`; return the new one at once if it already does."""
        ...


class Machine(Protocol):
    """Facts of the operating system that the node's decisions need."""

    def disk_free(self, path: str) -> int:
        """Bytes free for this user on the file system that holds `path`."""
        ...

    def memory_total(self) -> int:
        """Bytes of RAM that this process may use (the control group's limit, where there is one)."""
        ...

    def memory_available(self) -> int:
        """Bytes of RAM that can be had without swapping."""
        ...

    def cpu_cores(self) -> int:
        """Cores that this process may run on."""
        ...


class PeerStream(Protocol):
    """One conversation with a peer: frames both ways, in order, each whole. One task sends, one receives."""

    @property
    def peer(self) -> PeerId:
        """Who is at the other end; the transport has proved it."""
        ...

    @property
    def fresh(self) -> bool:
        """Whether nobody used the stream before. Only a used one may turn out to have died while it was idle."""
        ...

    async def send(self, *payloads: bytes) -> None:
        """Send a frame for each, all in one write. Returns when they are on their way; a slow reader is waited for.

        Cancelled, it leaves the stream unusable: part of a frame may be on its way.

        Raises:
            node.errors.Broken: the other end reset the stream or took nothing for too long, or the connection died.
        """
        ...

    async def receive(self) -> bytes | None:
        """Return the next frame's payload; None once the other end has finished. Cancelled, it loses nothing.

        Raises:
            node.errors.Broken: the other end reset the stream (it cancelled), or the connection died.
            protocol.errors.RemoteProtocolError: what came is no frame, or ends inside one.
        """
        ...

    async def finish(self) -> None:
        """Send no more. The other end's `receive` then returns None. Safe to repeat.

        Raises:
            node.errors.Broken: as `send`.
        """
        ...

    def keep(self) -> None:
        """Say that the exchange came to an end that both sides know: the stream may carry another."""
        ...


StreamHandler = Callable[[PeerStream], Awaitable[None]]


class Streams(Protocol):
    """Conversations with peers."""

    def open(
        self, peer: PeerId, protocol: str, *, patience: float, frame_bytes: int = limits.FRAME_BYTES
    ) -> AbstractAsyncContextManager[PeerStream]:
        """Enter with a stream that nobody else uses: one that was kept, else a new one.

        Left after `keep()`, it waits for the next caller. Left when both sides have finished, it is closed. Left
        in any other way it is reset: the other end is told at once, and cancels.

        Args:
            protocol: the protocol's id, `/metainf/infer/1`.
            patience: seconds until it must be there.
            frame_bytes: of the longest payload that the peer may send; a longer one is its fault, read no further.

        Raises:
            node.errors.Unreachable: the peer is not connected and cannot be dialled, or does not answer in time.
            node.errors.NotSpoken: it does not know the protocol.
        """
        ...

    def serve(self, protocol: str, handler: StreamHandler, *, frame_bytes: int = limits.FRAME_BYTES) -> None:
        """Have `handler` called, in a task of its own, with every stream that peers open for the protocol.

        `frame_bytes` as in `open`. When it returns, the stream ends in order. When it raises, the stream is reset and
        the error reported; nothing else suffers.
        """
        ...


class Swarm(Protocol):
    """Connections with peers."""

    @property
    def me(self) -> PeerId:
        """The id of this node."""
        ...

    def addresses(self) -> tuple[Address, ...]:
        """Where this node listens, as others may dial it."""
        ...

    def connected(self) -> frozenset[PeerId]:
        """Return the peers that there is a connection with now."""
        ...

    async def changed(self, than: frozenset[PeerId]) -> frozenset[PeerId]:
        """Wait until the connected peers differ from `than`; return them at once if they already do."""
        ...

    def dialled(self, peer: PeerId) -> bool:
        """Tell whether a connection with the peer was opened by this node."""
        ...

    def learn(self, peer: PeerId, addresses: Sequence[Address]) -> None:
        """Note where a peer may be dialled, the likeliest first; replaces what was noted before."""
        ...

    async def connect(self, peer: PeerId) -> None:
        """Make sure that there is a connection, dialling all that is known of the peer at once.

        Raises:
            node.errors.Unreachable: no address answers, or somebody else does; says which and why.
        """
        ...

    async def dial(self, address: Address) -> None:
        """Make sure that there is a connection with `address.peer`, dialling this address and no other.

        Raises:
            node.errors.Unreachable: it does not answer, or somebody else does, or it names no peer.
        """
        ...

    async def disconnect(self, peer: PeerId) -> None:
        """Close every connection with the peer."""
        ...

    def round_trip(self, peer: PeerId) -> float | None:
        """Return the seconds that a message there and back last took; None if not measured yet."""
        ...


class Gossip(Protocol):
    """Messages to everybody who listens to a topic: fast, and never certain."""

    async def publish(self, topic: str, data: bytes) -> None:
        """Send to the neighbours, who pass it on. Says nothing of who gets it."""
        ...

    def subscribe(
        self, topic: str, judge: Callable[[bytes, PeerId | None], bool]
    ) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[bytes]]:
        """Enter with others' messages that `judge` accepts; the rest is neither delivered nor passed on.

        `judge` gets a message and the neighbour that brought it, None where that is not known.
        The channel holds a bounded number; what comes while it is full is lost, as gossip may be.
        """
        ...


class Directory(Protocol):
    """A table that the swarm keeps together: for finding, never the only copy of anything."""

    async def put(self, key: str, value: bytes) -> int:
        """Store a value with the nodes nearest to the key; return how many took it, this node not counted.

        Raises:
            ValueError: our bug: the rules of the key's namespace refuse the value.
        """
        ...

    async def get(self, key: str) -> bytes | None:
        """Return the best value that is found, never one from memory; None if there is none in time."""
        ...

    async def provide(self, key: str) -> None:
        """Let it be known that this node has what the key names."""
        ...

    async def providers(self, key: str) -> tuple[Address, ...]:
        """Return addresses of those who say that they have what the key names; unproven."""
        ...
