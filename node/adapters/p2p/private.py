"""The handshake of a private swarm: Noise XX with the swarm's pre-shared key, and a host that waits for greetings.

One of the twelve files that import libp2p. `Noise_XXpsk0` is Noise's own (revision 34, section 9): the key is mixed in
before anything is said, so whoever has another key, or none, cannot read the first message, is told nothing, not even
who answers, and learns nothing by trying. Why not libp2p's private networks: docs/decisions/private-swarms.md.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from cryptography.exceptions import InvalidTag
from libp2p.abc import INetStream, IRawConnection, ISecureConn
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.host.basic_host import BasicHost
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import IOException
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from libp2p.security.exceptions import HandshakeFailure
from libp2p.security.noise.patterns import IPattern, PatternXX
from libp2p.security.noise.transport import Transport
from noise.connection import NoiseConnection

from node.adapters.p2p.negotiate import NotOffered
from node.errors import OtherSwarm, WhyNot
from protocol.hello import PROTOCOL_ID as HELLO

log = structlog.get_logger(__name__)

# The name says the handshake and no swarm: to a stranger all private swarms look alike.
PRIVATE_NOISE: Final = TProtocol("/metainf/noise-xxpsk0/1")
_PATTERN: Final = b"Noise_XXpsk0_25519_ChaChaPoly_SHA256"
_PROLOGUE: Final = b"metainf/swarm/1\0"  # and the swarm's id after it

OTHER_KEY: Final = (
    "it hung up at the handshake of this private swarm: most likely its key is another one, or was rotated"
)
IS_PRIVATE: Final = "it does not speak to nodes of the public swarm: most likely it belongs to a private one"
IS_PUBLIC: Final = "it does not speak to nodes of private swarms: most likely it belongs to the public one"

Met = Callable[[ID], Awaitable[bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmKey:
    """A private swarm as its handshake knows it: `key` has 32 bytes."""

    swarm: str
    key: bytes = field(repr=False)


class _KeyMismatch(HandshakeFailure):
    """The other end does not have our key, as far as can be seen."""


class _Pattern(PatternXX):
    """libp2p's XX, under another pattern's name and with what that asks for."""

    def __init__(self, *parts: Any, private: SwarmKey) -> None:  # noqa: ANN401 -- libp2p's own arguments
        super().__init__(*parts)
        self.protocol_name = _PATTERN
        self._key = private.key
        self.prologue = _PROLOGUE + private.swarm.encode()

    def create_noise_state(self, prologue: bytes | None = None) -> NoiseConnection:
        """Return the state before the first message."""
        state = super().create_noise_state(prologue)
        state.set_psks(self._key)
        return state

    async def handshake_outbound(self, conn: IRawConnection, remote_peer: ID | None) -> ISecureConn:
        """Shake hands with whom we have dialled."""
        try:
            return await super().handshake_outbound(conn, remote_peer)
        except (InvalidTag, IOException) as error:
            # It ended the connection instead of its first word, or its first word was not sealed as ours.
            raise _KeyMismatch(OTHER_KEY) from error

    async def handshake_inbound(self, conn: IRawConnection) -> ISecureConn:
        """Shake hands with who has dialled us."""
        try:
            return await super().handshake_inbound(conn)
        except InvalidTag as error:
            raise _KeyMismatch("it has another key") from error


class PrivateNoise(Transport):
    """libp2p's security transport, for the nodes of one private swarm alone."""

    def __init__(self, *keys: Any, private: SwarmKey) -> None:  # noqa: ANN401 -- likewise
        super().__init__(*keys)
        self._private = private

    def get_pattern(self) -> IPattern:
        """Return a handshake to be done."""
        return _Pattern(
            self.local_peer, self.libp2p_privkey, self.noise_privkey, self.early_data, private=self._private
        )


class Strangers:
    """Counts handshakes that others began with another key than ours."""

    def __init__(self) -> None:
        self.count = 0

    def note(self, error: BaseException, stream: ReadWriteCloser) -> None:
        """Look whether an inbound handshake failed for that; the log tells of the first alone, for they try again."""
        if not any(isinstance(each, _KeyMismatch) for each in _causes(error)):
            return
        self.count += 1
        if self.count == 1:
            remote = stream.get_remote_address()
            log.warning(
                "p2p.other_key",
                origin=None if remote is None else remote[0],
                likely_cause="a node there has another swarm's key, or one from before a rotation",
            )


def unlike(error: BaseException, *, private: bool) -> OtherSwarm | None:
    """Return in words what a failed dial most likely means, where it looks like two swarms; None where it does not."""
    for cause in _causes(error):
        if isinstance(cause, _KeyMismatch):
            remedy = "ask the swarm's administrator for a token: metainf swarm join TOKEN"
            return OtherSwarm(OTHER_KEY, remedy=remedy, why=WhyNot.WRONG_KEY)
        if isinstance(cause, NotOffered):
            return OtherSwarm(
                IS_PUBLIC if private else IS_PRIVATE,
                remedy="check the address; a private swarm is joined with a token: metainf swarm join TOKEN",
                why=WhyNot.WRONG_SWARM,
            )
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


class WaitingHost(BasicHost):
    """A host that does nothing with a peer but greet until the peer was met, and then everything.

    libp2p's own protocols (identify, gossip, the directory) begin with the connection: in a private swarm a peer that
    has the key and no certificate would be told of everybody before it is sent away.
    """

    def __init__(self, *args: Any, **more: Any) -> None:  # noqa: ANN401 -- likewise
        super().__init__(*args, **more)
        self.met: Met = _nobody
        for protocol, handler in list(self.multiselect.handlers.items()):
            if protocol is not None and handler is not None:
                self.multiselect.add_handler(protocol, self._waiting(handler))

    def set_stream_handler(self, protocol_id: TProtocol, stream_handler: StreamHandlerFn) -> None:
        """Have streams of a protocol handled, once their peers were met."""
        waits = protocol_id != HELLO
        super().set_stream_handler(protocol_id, self._waiting(stream_handler) if waits else stream_handler)

    async def new_stream(self, peer_id: ID, protocol_ids: Sequence[TProtocol]) -> INetStream:
        """Open a stream for a part of libp2p's; raises SwarmException where the peer was not met."""
        if not await self.met(peer_id):
            raise SwarmException("the peer has not greeted")
        return await super().new_stream(peer_id, protocol_ids)

    def _waiting(self, handler: StreamHandlerFn) -> StreamHandlerFn:
        async def handle(stream: INetStream) -> None:
            if await self.met(stream.muxed_conn.peer_id):
                await handler(stream)
                return
            try:
                await stream.reset()
            except BaseLibp2pError:
                return  # its connection is gone already

        return handle


async def _nobody(_: ID) -> bool:
    return False
