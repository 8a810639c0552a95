"""Where a node can be reached, as libp2p writes it: `/ip4/192.0.2.1/tcp/47470/p2p/12D3KooW...`.

Specification: docs/protocol/advert.md. Knows no network and resolves nothing. What is not of the forms below is
not an error but an address that this version cannot dial: a newer node may have several kinds.
"""

import re
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from protocol import limits
from protocol.ids import InvalidId, PeerId
from protocol.schema import Text

# What may stand in an advert: anything that could be a multiaddr.
MULTIADDR: Final = Text(limits.ADDRESS_BYTES, r"(?:/[!-.0-~]+){2,20}")

_FORM: Final = re.compile(
    r"/(?P<kind>ip4|ip6|dns|dns4|dns6)/(?P<host>[0-9A-Za-z.:_-]{1,253})/tcp/(?P<port>[1-9][0-9]{0,4})"
    r"(?:/p2p/(?P<peer>[1-9A-Za-z]{52}))?"
)
_CIRCUIT: Final = "/p2p-circuit"
_CIRCUIT_FORM: Final = re.compile(
    r"(?P<relay>/.*/p2p/[1-9A-Za-z]{52})" + _CIRCUIT + r"(?:/p2p/(?P<peer>[1-9A-Za-z]{52}))?"
)
_NAME: Final = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.){0,10}[a-z][a-z0-9-]{0,61}[a-z0-9]\.?")


class Reach(IntEnum):
    """From how far an address can be dialled; greater is further."""

    LOOPBACK = 0
    LINK = 1  # link-local
    PRIVATE = 2  # RFC 1918, unique local, shared (carrier's NAT)
    NAME = 3  # a host name: whoever resolves it will know
    PUBLIC = 4


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """A TCP address that can be dialled, and whom it is said to lead to, where that is said.

    `kind` is one of ip4, ip6, dns, dns4, dns6; the host is in its shortest spelling. Where `relay` is set, it is that
    node's address, through which `peer` is called.
    """

    kind: str
    host: str
    port: int
    peer: PeerId | None = None
    relay: PeerId | None = None

    @property
    def reach(self) -> Reach:
        """From how far it can be dialled."""
        if self.kind.startswith("dns"):
            return Reach.LOOPBACK if self.host == "localhost" else Reach.NAME
        ip = ip_address(self.host)
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        if ip.is_loopback:
            return Reach.LOOPBACK
        if ip.is_link_local:
            return Reach.LINK
        return Reach.PUBLIC if ip.is_global else Reach.PRIVATE

    def of(self, peer: PeerId | None) -> "Address":
        """Return the same place as one of this peer's."""
        return Address(self.kind, self.host, self.port, peer, self.relay)

    def through(self, peer: PeerId | None) -> "Address":
        """Return the way to a peer through the node that this is the address of. That one must be named."""
        return Address(self.kind, self.host, self.port, peer, self.peer)

    def direct(self) -> "Address":
        """Return the relay's own address of a relayed one."""
        return Address(self.kind, self.host, self.port, self.relay)

    def __str__(self) -> str:
        tail = "" if self.peer is None else f"/p2p/{self.peer}"
        between = "" if self.relay is None else f"/p2p/{self.relay}{_CIRCUIT}"
        return f"/{self.kind}/{self.host}/tcp/{self.port}{between}{tail}"


def parse_address(text: str) -> Address | None:
    """Return the address; None where this version could not dial it (another transport, a relay, no address)."""
    match = _FORM.fullmatch(text) if len(text) <= limits.ADDRESS_BYTES else None
    if match is None or int(match["port"]) > 0xFFFF:
        return None
    try:
        host = _host(match["kind"], match["host"])
        peer = PeerId.from_string(match["peer"]) if match["peer"] else None
    except (InvalidId, ValueError):
        return None
    return None if host is None else Address(match["kind"], host, int(match["port"]), peer)


def parse_circuit(text: str) -> Address | None:
    """Return a relayed address, `/ip4/192.0.2.1/tcp/47470/p2p/RELAY/p2p-circuit/p2p/PEER`; None where it is none.

    A relay that calls itself, or another relay behind a relay, is no address.
    """
    match = _CIRCUIT_FORM.fullmatch(text) if len(text) <= limits.ADDRESS_BYTES else None
    relay = parse_address(match["relay"]) if match is not None else None
    if match is None or relay is None or relay.peer is None:
        return None
    try:
        peer = PeerId.from_string(match["peer"]) if match["peer"] else None
    except InvalidId:
        return None
    return None if peer == relay.peer else relay.through(peer)


def _host(kind: str, host: str) -> str | None:
    """Return the one spelling of a host that somebody could listen at. Raises: ValueError."""
    if kind.startswith("dns"):
        name = host.lower().removesuffix(".")
        return name if _NAME.fullmatch(name) else None
    ip = IPv4Address(host) if kind == "ip4" else IPv6Address(host)
    return None if ip.is_unspecified or ip.is_multicast else str(ip)
