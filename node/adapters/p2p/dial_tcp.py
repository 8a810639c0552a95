"""A TCP connection to an address: its name resolved, its machines tried side by side, a deadline for each step.

Knows no libp2p. What fails is told by its step, because that is what tells a person what to do: a name that stands for
nothing, no route, a port that nobody listens at, a machine that does not answer.
"""

import errno
import socket
from collections.abc import Sequence

import trio

from node.errors import Unreachable, WhyNot
from protocol.addresses import Address

RESOLVE = 2.0  # s for the system's resolver; what it does goes on in its thread, and nobody waits for it
CONNECT = 3.5  # s: a second SYN goes after 1 s, a third after 3; the rest of a dial's 5 s is for the handshakes
STAGGER = 0.2  # s between the machines of one name: whoever answers at once spares the others
MACHINES = 6  # of one name that are tried
_FAMILY = {"ip4": socket.AF_INET, "ip6": socket.AF_INET6, "dns4": socket.AF_INET, "dns6": socket.AF_INET6}
_WHY = {
    errno.ECONNREFUSED: (WhyNot.REFUSED, "refused: the machine is there, and nothing listens at this port"),
    errno.ENETUNREACH: (WhyNot.NO_ROUTE, "no route: this machine knows no way to that network"),
    errno.EADDRNOTAVAIL: (WhyNot.NO_ROUTE, "no route: this machine has no address of that kind"),
    errno.EHOSTUNREACH: (WhyNot.SILENT, "the machine cannot be reached: it is off, or a firewall refuses"),
    errno.ETIMEDOUT: (WhyNot.SILENT, "no answer: the machine is off, or a firewall drops what is sent to it"),
}


async def open_tcp(address: Address) -> trio.SocketStream:
    """Connect; the caller closes the stream. Cancelled, it leaves no socket behind.

    Raises:
        Unreachable: with the step that failed.
    """
    targets = await _resolve(address)
    winners: list[trio.SocketStream] = []
    failures: list[Unreachable] = []

    async def attempt(target: tuple[socket.AddressFamily, str, int], delay: float, nursery: trio.Nursery) -> None:
        await trio.sleep(delay)
        try:
            winners.append(await _connect(*target))
            nursery.cancel_scope.cancel()
        except Unreachable as error:
            failures.append(error)

    whole = False
    try:
        async with trio.open_nursery() as nursery:
            for number, target in enumerate(targets):
                nursery.start_soon(attempt, target, number * STAGGER, nursery)
        whole = True
    finally:
        for late in winners[1 if whole else 0 :]:
            late.socket.close()
    if winners:
        return winners[0]
    # One that told something is worth more than one that was silent: the machine is there.
    raise min(failures, key=lambda error: error.why is WhyNot.SILENT)


async def _resolve(address: Address) -> Sequence[tuple[socket.AddressFamily, str, int]]:
    if address.kind in ("ip4", "ip6"):
        return [(_FAMILY[address.kind], address.host, address.port)]
    family = _FAMILY.get(address.kind, socket.AF_UNSPEC)
    with trio.move_on_after(RESOLVE):
        try:
            found = await trio.socket.getaddrinfo(address.host, address.port, family, socket.SOCK_STREAM)
        except OSError as error:
            words = f"the name {address.host} stands for no address ({error.strerror or error})"
            raise Unreachable(words, why=WhyNot.NO_NAME) from error
        machines = dict.fromkeys((kind, str(where[0])) for kind, _, _, _, where in found)
        return [(kind, host, address.port) for kind, host in list(machines)[:MACHINES]]
    raise Unreachable(f"the name {address.host} was not resolved within {RESOLVE:g} s", why=WhyNot.NO_NAME)


async def _connect(family: socket.AddressFamily, host: str, port: int) -> trio.SocketStream:
    opened = trio.socket.socket(family, socket.SOCK_STREAM)
    connected = False
    try:
        with trio.move_on_after(CONNECT):
            await opened.connect((host, port))
            connected = True
            return trio.SocketStream(opened)
        raise Unreachable(_WHY[errno.ETIMEDOUT][1], why=WhyNot.SILENT)
    except OSError as error:
        why, words = _WHY.get(error.errno or 0, (WhyNot.OTHER, error.strerror or str(error)))
        raise Unreachable(words, why=why) from error
    finally:
        if not connected:
            opened.close()
