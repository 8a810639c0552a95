"""What is said to a relay and by it, and between two who would rather meet directly: libp2p's messages as values.

One of the twelve files that import libp2p, for its protobuf classes alone. Specifications: libp2p's circuit relay v2
(`/libp2p/circuit/relay/0.2.0/hop` and `/stop`) and DCUtR (`/libp2p/dcutr`). A message is a varint, its length, and so
many bytes of protobuf; both ends speak in turn, so that nothing follows a message before it is answered, but for the
circuit's own bytes after the last.
"""

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Protocol

from google.protobuf.message import DecodeError, EncodeError
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Status, StopMessage
from libp2p.relay.circuit_v2.pb.dcutr_pb2 import HolePunch

from node.errors import Broken
from protocol.addresses import Address, parse_address
from protocol.ids import InvalidId, PeerId

HOP: Final = "/libp2p/circuit/relay/0.2.0/hop"  # to a relay
STOP: Final = "/libp2p/circuit/relay/0.2.0/stop"  # from a relay to who is called
DCUTR: Final = "/libp2p/dcutr"
LONGEST: Final = 4096  # bytes of one message: the specification's
ADDRESSES: Final = 8  # taken of one message
_VARINT_BYTES: Final = 3
_IP4, _IP6, _TCP = 0x04, 0x29, 0x06  # codes of multiaddr's table


class Said(IntEnum):
    """What a message is, whichever protocol it belongs to."""

    RESERVE = 0
    CONNECT = 1
    STATUS = 2
    SYNC = 3


class Code(IntEnum):
    """A relay's answer."""

    OK = Status.OK
    REFUSED = Status.RESERVATION_REFUSED
    LIMIT = Status.RESOURCE_LIMIT_EXCEEDED
    DENIED = Status.PERMISSION_DENIED
    FAILED = Status.CONNECTION_FAILED
    NO_RESERVATION = Status.NO_RESERVATION
    MALFORMED = Status.MALFORMED_MESSAGE
    UNEXPECTED = Status.UNEXPECTED_MESSAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """One message.

    Attributes:
        peer: who is called, or calls.
        code: of a status; a number that has no name here is `FAILED`.
        expires: of a reservation, seconds since 1970.
        seconds, bytes: of a circuit, at most; 0 where nothing is said.
        addresses: that the sender believes to be its own.
    """

    said: Said
    peer: PeerId | None = None
    code: Code = Code.OK
    expires: int = 0
    seconds: int = 0
    bytes: int = 0
    addresses: tuple[Address, ...] = ()


class Hearing(Protocol):
    """A stream that is read."""

    async def hear(self, most: int) -> bytes:
        """See `node.adapters.p2p.frames.Muxed`."""
        ...


async def hear(stream: Hearing, protocol: str) -> Words:
    """Read one message, and not a byte beyond it.

    Raises:
        Broken: the stream ended, or what came is none.
    """
    length, shift = 0, 0
    for _ in range(_VARINT_BYTES):
        (byte,) = await _exactly(stream, 1)
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if not 0 < length <= LONGEST:
        raise Broken(f"a message of {length} bytes of {protocol}")
    try:
        return _parsed(await _exactly(stream, length), protocol)
    except (DecodeError, InvalidId, ValueError, KeyError) as error:
        raise Broken(f"what the peer said is not of {protocol}") from error


async def _exactly(stream: Hearing, n: int) -> bytes:
    data = b""
    while len(data) < n:
        more = await stream.hear(n - len(data))
        if not more:
            raise Broken("the peer ended the stream")
        data += more
    return data


def _parsed(raw: bytes, protocol: str) -> Words:
    if protocol == DCUTR:
        punch = HolePunch.FromString(raw)
        said = Said.CONNECT if punch.type == HolePunch.CONNECT else Said.SYNC
        found = (_address(each) for each in punch.ObsAddrs[:ADDRESSES])
        return Words(said=said, addresses=tuple(each for each in found if each is not None))
    if protocol == STOP:
        stop = StopMessage.FromString(raw)
        return Words(
            said=Said.CONNECT if stop.type == StopMessage.CONNECT else Said.STATUS,
            peer=PeerId.from_bytes(stop.peer.id) if stop.HasField("peer") else None,
            code=_code(stop.status),
            seconds=stop.limit.duration,
            bytes=stop.limit.data,
        )
    hop = HopMessage.FromString(raw)
    return Words(
        said=Said(hop.type),
        peer=PeerId.from_bytes(hop.peer.id) if hop.HasField("peer") else None,
        code=_code(hop.status),
        expires=hop.reservation.expire,
        seconds=hop.limit.duration,
        bytes=hop.limit.data,
    )


def _code(number: int) -> Code:
    if not number:
        return Code.OK  # unsaid: only a status has one
    try:
        return Code(number)
    except ValueError:
        return Code.FAILED


def _address(raw: bytes) -> Address | None:
    """Return the address that a binary multiaddr stands for; None where it is no TCP port of an IP address."""
    if len(raw) == 8 and raw[0] == _IP4 and raw[5] == _TCP:
        kind, ip, port = "ip4", str(IPv4Address(raw[1:5])), raw[6:8]
    elif len(raw) == 20 and raw[0] == _IP6 and raw[17] == _TCP:
        kind, ip, port = "ip6", str(IPv6Address(raw[1:17])), raw[18:20]
    else:
        return None
    return parse_address(f"/{kind}/{ip}/tcp/{int.from_bytes(port, 'big')}")


def _raw(address: Address) -> bytes:
    return bytes((_IP4 if address.kind == "ip4" else _IP6,)) + b"".join(
        (ip_address(address.host).packed, bytes((_TCP,)), address.port.to_bytes(2, "big"))
    )


def spoken(words: Words, protocol: str) -> bytes:
    """Return a message as it is sent, its length before it.

    Raises:
        ValueError: our bug: it cannot be said in this protocol.
    """
    try:
        raw = _message(words, protocol).SerializeToString()
    except EncodeError as error:
        raise ValueError(f"{words} is not of {protocol}") from error
    return bytes((len(raw),)) + raw if len(raw) < 0x80 else bytes((len(raw) & 0x7F | 0x80, len(raw) >> 7)) + raw


def _message(words: Words, protocol: str) -> HopMessage | StopMessage | HolePunch:
    if protocol == DCUTR:
        kind = HolePunch.CONNECT if words.said is Said.CONNECT else HolePunch.SYNC
        return HolePunch(type=kind, ObsAddrs=[_raw(each) for each in words.addresses if each.kind in {"ip4", "ip6"}])
    if protocol == STOP:
        message: HopMessage | StopMessage = StopMessage(
            type=StopMessage.CONNECT if words.said is Said.CONNECT else StopMessage.STATUS
        )
    else:
        message = HopMessage(type=HopMessage.Type.ValueType(words.said))
    if words.peer is not None:
        message.peer.id = words.peer.to_bytes()
    if words.said is Said.STATUS:
        message.status = Status.ValueType(words.code)
    if isinstance(message, HopMessage) and words.expires:
        message.reservation.expire = words.expires
    if words.seconds or words.bytes:
        message.limit.duration, message.limit.data = words.seconds, words.bytes
    return message
