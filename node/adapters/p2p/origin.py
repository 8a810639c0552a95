"""Where a socket comes from: what stands for one party, and for the network that it is of. Pure.

Knows addresses alone. Many parties may share an address (a household, a provider that translates addresses), and one
may have many (a rented /24, a /48 of IPv6): bounds are kept for both.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

IPV6_PARTY_BITS = 64  # the smallest network that one customer gets
IPV6_SUBNET_BITS = 48  # what one site is given at most
IPV4_SUBNET_BITS = 24  # the smallest network that is routed by itself
ORIGINS = 4096  # remembered by address: each new socket asks

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a socket comes from.

    Attributes:
        party: an IPv4 address, or the /64 around an IPv6 address.
        subnet: the /24 or the /48 around it; None of addresses that are not of the public network: a LAN is one subnet.
        local: this very machine, whose programs can do worse than to open sockets: neither paced nor refused.
        trusted: its operator says that many are behind it (a proxy, a translator): nothing is counted per address.
    """

    party: str
    subnet: str | None = None
    local: bool = False
    trusted: bool = False

    @property
    def spared(self) -> bool:
        """Whether it is neither paced nor refused."""
        return self.local or self.trusted


class Origins:
    """Tells origins by address."""

    def __init__(self, trusted: Sequence[Network] = ()) -> None:
        self._trusted = tuple(trusted)
        self.of = lru_cache(maxsize=ORIGINS)(self._of)

    def _of(self, host: str) -> Origin:
        """Return where an address is; it may have a zone (`fe80::1%eth0`), or be IPv4 told as IPv6."""
        address = ipaddress.ip_address(host.partition("%")[0])
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        four = isinstance(address, ipaddress.IPv4Address)
        party = str(address) if four else str(_around(address, IPV6_PARTY_BITS))
        return Origin(
            party=party,
            subnet=str(_around(address, IPV4_SUBNET_BITS if four else IPV6_SUBNET_BITS)) if address.is_global else None,
            local=address.is_loopback,
            trusted=any(address in network for network in self._trusted),
        )


def _around(address: ipaddress.IPv4Address | ipaddress.IPv6Address, bits: int) -> Network:
    return ipaddress.ip_network((address, bits), strict=False)
