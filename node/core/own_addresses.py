"""Where this node tells others to dial it: what it listens at, with real addresses in place of wildcards.

Knows no interface itself: those that are up are an argument. What the operator announces stands instead of all
that, because he alone knows of a forwarded port or a name.
"""

from collections.abc import Sequence
from ipaddress import ip_address

from protocol import limits
from protocol.addresses import Address, Reach
from protocol.ids import PeerId


def own_addresses(
    me: PeerId, bound: Sequence[Address], interfaces: Sequence[str], announced: Sequence[Address]
) -> tuple[Address, ...]:
    """Return the addresses to tell, the furthest-reaching first, at most `limits.ADDRESSES`.

    Args:
        bound: what is listened at; a wildcard stands for every interface of its kind.
        interfaces: IP addresses of this machine.
        announced: by the operator; empty for none.
    """
    if announced:
        return tuple(dict.fromkeys(address.of(me) for address in announced))[: limits.ADDRESSES]
    found = [each.of(me) for address in bound for each in _unfolded(address, interfaces)]
    # Loopback is told only where there is nothing else: on every other machine it leads to somebody else's node.
    further = [address for address in found if address.reach > Reach.LOOPBACK] or found
    further.sort(key=lambda address: address.reach, reverse=True)
    return tuple(dict.fromkeys(further))[: limits.ADDRESSES]


def _unfolded(address: Address, interfaces: Sequence[str]) -> list[Address]:
    if not ip_address(address.host).is_unspecified:
        return [address]
    version = 4 if address.kind == "ip4" else 6
    mine = (ip_address(each.partition("%")[0]) for each in interfaces)
    return [Address(address.kind, str(ip), address.port) for ip in mine if ip.version == version]
