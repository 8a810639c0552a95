"""Finding nodes on the local network by multicast DNS (RFC 6762, RFC 6763), and being found.

One foreign library: `zeroconf`, which works in a thread of its own. What it hears is said by anybody on the network:
only addresses come out, each with the peer that must prove itself there.
"""

import hmac
import ipaddress
from base64 import b32encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import structlog
import trio
from zeroconf import Error, ServiceBrowser, ServiceInfo, ServiceListener, Zeroconf

from node.errors import Unavailable
from protocol.addresses import Address, parse_address
from protocol.ids import PeerId, SwarmId

log = structlog.get_logger(__name__)

SERVICE = "_metainf._tcp.local."
TAG_CHARS = 12  # with what is before it fifteen, which a service's name may have: RFC 6335
ADDRESSES = 8  # told, and believed, of one node
HEARD = 64  # addresses on their way to us; what comes beyond is heard again within the hour
ANSWER_MS = 2000  # for the details of a node that announced itself


@asynccontextmanager
async def nodes_nearby(
    me: PeerId,
    swarm: SwarmId,
    addresses: Sequence[Address],
    *,
    interfaces: Sequence[str] = (),
    secret: bytes | None = None,
) -> AsyncIterator[trio.MemoryReceiveChannel[Address]]:
    """Announce this node and enter with the addresses of others of its swarm, as they are heard.

    Args:
        addresses: where this node can be dialled from the local network.
        interfaces: IP addresses of the interfaces to use; none means all.
        secret: a private swarm's key: its nodes go by a name that those without it neither know nor ask for.

    Raises:
        Unavailable: multicast is not to be had on this machine.
    """
    sender, receiver = trio.open_memory_channel[Address](HEARD)
    service, tag = (SERVICE, str(swarm)) if secret is None else private_service(swarm, secret)
    ears = _Ears(me, tag, sender, trio.lowlevel.current_trio_token())
    try:
        zeroconf = await trio.to_thread.run_sync(_start, list(interfaces))
    except (OSError, Error) as error:
        raise Unavailable(
            f"no multicast DNS on this machine: {error}", remedy="switch it off with p2p.lan = false"
        ) from error
    try:
        await trio.to_thread.run_sync(_announce, zeroconf, _service(me, service, tag, addresses))
        await trio.to_thread.run_sync(ServiceBrowser, zeroconf, service, ears)
        async with receiver:
            yield receiver
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(zeroconf.close)  # says good-bye, within a second


def _start(interfaces: list[str]) -> Zeroconf:
    return Zeroconf(interfaces=interfaces) if interfaces else Zeroconf()


def _announce(zeroconf: Zeroconf, service: ServiceInfo) -> None:
    try:
        zeroconf.register_service(service)
    except Error as error:
        log.warning("lan.not_announced", reason=str(error))  # others can still be heard


def private_service(swarm: SwarmId, secret: bytes) -> tuple[str, str]:
    """Return the name of the service that a private swarm's nodes are, and what they call their swarm in it.

    Neither tells the swarm's name, nor anything of its key.
    """
    digest = hmac.digest(secret, b"metainf/mdns/1\0" + str(swarm).encode(), "sha256")
    tag = b32encode(digest).decode().lower()[:TAG_CHARS]
    return f"_mi-{tag}._tcp.local.", tag


def _service(me: PeerId, service: str, tag: str, addresses: Sequence[Address]) -> ServiceInfo:
    told = [each.of(me) for each in addresses if each.kind in ("ip4", "ip6")][:ADDRESSES]
    return ServiceInfo(
        service,
        f"{me}.{service}",
        port=told[0].port if told else 0,
        addresses=[ipaddress.ip_address(each.host).packed for each in told],
        properties={"swarm": tag, **{f"addr{index}": str(each) for index, each in enumerate(told)}},
        server=f"{me}.local.",
    )


class _Ears(ServiceListener):
    """Called in the library's thread; what is worth knowing goes to the loop."""

    def __init__(
        self, me: PeerId, tag: str, heard: trio.MemorySendChannel[Address], token: trio.lowlevel.TrioToken
    ) -> None:
        self._me = me
        self._swarm = tag.encode()
        self._heard = heard
        self._token = token

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        info = zc.get_service_info(type_, name, timeout=ANSWER_MS)
        properties = info.properties if info is not None else {}
        if properties.get(b"swarm") != self._swarm:
            return
        for index in range(ADDRESSES):
            told = (properties.get(f"addr{index}".encode()) or b"").decode(errors="replace")
            address = parse_address(told)
            if address is not None and address.peer not in (None, self._me):
                self._tell(address)

    def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        self.add_service(zc, type_, name)

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        """Forget nothing: whether a node is gone, its connection tells."""

    def _tell(self, address: Address) -> None:
        try:
            self._token.run_sync_soon(self._put, address)
        except trio.RunFinishedError:
            return

    def _put(self, address: Address) -> None:
        try:
            self._heard.send_nowait(address)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            return
