"""Agreement on a protocol with an end that is not known yet: no name is longer than a name may be.

One of the twelve files that import libp2p, whose own negotiation reads as many bytes as a stranger announces.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from libp2p.abc import IMultiselectCommunicator, IMuxedConn, ISecureConn
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.exceptions import ParseError
from libp2p.io.exceptions import IOException
from libp2p.peer.id import ID
from libp2p.protocol_muxer.exceptions import (
    MultiselectClientError,
    MultiselectCommunicatorError,
    ProtocolNotSupportedError,
)
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_client import (
    MULTISELECT_PROTOCOL_ID,
    PROTOCOL_NOT_FOUND_MSG,
    MultiselectClient,
)
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID, Yamux
from libp2p.utils import encode_delim
from libp2p.utils.varint import read_varint_prefixed_bytes_limited

from node.adapters.p2p.circuit_socket import CircuitSocket
from node.adapters.p2p.limits import DEFAULT_LIMITS, P2pLimits
from node.adapters.p2p.muxer import HardenedYamux, carrier_of
from node.adapters.p2p.origin import Origins
from node.adapters.p2p.pot import Pot
from node.adapters.p2p.workarounds import Workaround

NAME_BYTES = 1024  # of a protocol's id as a peer says it: no known one has 100, libp2p's own bound in Go is 1024


class BoundedTalk(MultiselectCommunicator):
    """Agreement on a protocol, in which no name is longer than a name may be: the other end is not known yet."""

    async def agree_on(self, protocol: str) -> None:
        """Ask for one protocol, in the breath that says hello: libp2p's own waits for an answer in between.

        Raises:
            ProtocolNotSupportedError: the other end does not speak it.
            MultiselectClientError: it says what makes no sense.
            MultiselectCommunicatorError: as `read`.
        """
        await self.read_writer.write(encode_delim(MULTISELECT_PROTOCOL_ID.encode()) + encode_delim(protocol.encode()))
        hello, said = await self.read(), await self.read()
        if hello != MULTISELECT_PROTOCOL_ID or said not in {protocol, PROTOCOL_NOT_FOUND_MSG}:
            raise MultiselectClientError("the other end does not negotiate")
        if said != protocol:
            raise ProtocolNotSupportedError(protocol)

    async def read(self) -> str:
        """Return what the other end says, without its line's end.

        Raises:
            MultiselectCommunicatorError: it is too long, or no line of text, or the connection ended.
        """
        try:
            line = (await read_varint_prefixed_bytes_limited(self.read_writer, NAME_BYTES)).decode()
        except (ParseError, IOException, UnicodeDecodeError) as error:
            raise MultiselectCommunicatorError("the other end said no name of a protocol") from error
        if not line.endswith("\n"):
            raise MultiselectCommunicatorError("the name of a protocol ends with its line")
        return line.removesuffix("\n")


class BoundedAnswerer(Multiselect):
    """The end that is asked."""

    async def negotiate(
        self, communicator: IMultiselectCommunicator, negotiate_timeout: int = DEFAULT_LIMITS.negotiate_seconds
    ) -> tuple[TProtocol | None, StreamHandlerFn | None]:
        """As libp2p's."""
        return await super().negotiate(_bounded(communicator), negotiate_timeout)


class BoundedAsker(MultiselectClient):
    """The end that asks."""

    async def select_one_of(
        self,
        protocols: Sequence[TProtocol],
        communicator: IMultiselectCommunicator,
        negotiate_timeout: int = DEFAULT_LIMITS.negotiate_seconds,
    ) -> TProtocol:
        """As libp2p's."""
        return await super().select_one_of(protocols, _bounded(communicator), negotiate_timeout)


class NotOffered(MultiselectClientError):
    """The other end is there, and knows no security protocol of ours."""


class BoundedSecurityAsker(BoundedAsker):
    """Asks for a security protocol, and remembers that it was the other end who did not have it."""

    async def try_select(self, communicator: IMultiselectCommunicator, protocol: TProtocol) -> TProtocol:
        """Ask for one."""
        try:
            return await super().try_select(communicator, protocol)
        except ProtocolNotSupportedError as error:
            raise NotOffered(str(error)) from error


def _bounded(communicator: IMultiselectCommunicator) -> BoundedTalk:
    assert isinstance(communicator, MultiselectCommunicator)  # noqa: S101 -- the only class there is
    return BoundedTalk(communicator.read_writer)


class YamuxOnly(MuxerMultistream):
    """Offers one muxer, ours."""

    def __init__(self, limits: P2pLimits, disabled: AbstractSet[Workaround]) -> None:
        super().__init__({TProtocol(PROTOCOL_ID): Yamux}, limits.negotiate_seconds)
        self._limits = limits
        self._disabled = disabled
        self.pot = Pot(unread=limits.unread_all, streams=limits.streams_all)
        self._origins = Origins()

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        """Agree on yamux with the other end."""
        protocol, _ = await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        remote = conn.get_remote_address()
        carrier = carrier_of(conn)
        party = str(carrier.relay) if isinstance(carrier, CircuitSocket) else ""  # whoever brought it answers for it
        if remote is not None:
            party = self._origins.of(remote[0]).party
        muxed = HardenedYamux(conn, peer_id, limits=self._limits, disabled=self._disabled, pot=self.pot, party=party)
        return self._annotate_connection(muxed, conn, protocol)
