"""Addresses for tests."""

import ipaddress

from protocol.addresses import Address
from protocol.ids import PeerId


def at(host: str, port: int, peer: PeerId | None = None) -> Address:
    return Address(f"ip{ipaddress.ip_address(host).version}", host, port, peer)
