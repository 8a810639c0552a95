"""TCP sockets to peers and from them, as libp2p's transport.

One of the twelve files that import libp2p. Decides nothing: who may come in is the gate's to say, and whom to dial the
dialer's.
"""

import errno
import os
from collections.abc import Set as AbstractSet
from weakref import WeakSet

import trio
from libp2p.abc import IListener, IRawConnection, ITransport
from libp2p.custom_types import THandler
from libp2p.io.exceptions import IncompleteReadError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.protocol_muxer.exceptions import MultiselectClientError, MultiselectCommunicatorError, MultiselectError
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from libp2p.transport.exceptions import OpenConnectionError
from libp2p.transport.tcp.tcp import TCPListener
from multiaddr import Multiaddr

from node.adapters.p2p.dial_tcp import open_tcp
from node.adapters.p2p.workarounds import Workaround
from node.errors import Unreachable, WhyNot
from protocol.addresses import Address, parse_address

CAUSES = 8  # of an error that are looked at; libp2p has wrapped five around each other
READ_AHEAD = 64 * 1024  # bytes of one read: the longest message of the cipher
BACKLOG = 256  # sockets that the kernel holds until they are accepted; Linux's own bound is 4096


class TcpStream(TrioTCPStream):
    """libp2p's stream, which tells the peer's address for IPv6 too, and reads ahead; and the socket below it.

    libp2p asks for the two bytes of a message's length and then for the message: each would be a system call and a
    turn of the loop. Once the connection is established it is a `node.adapters.p2p.sealed.Socket`, and the kernel is
    asked directly: trio's own calls take two turns of the loop each.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        self._ahead = bytearray()
        self._more = False  # the last `receive` left something in the kernel, most likely

    async def read(self, n: int | None = None) -> bytes:
        """Return at most `n` bytes, and never more than `READ_AHEAD`, as soon as there are any; b"" at the end.

        `n` may be what a stranger claims: the kernel's buffer for it must not be as large as the claim.
        """
        wanted = READ_AHEAD if n is None or n < 0 else min(n, READ_AHEAD)
        if not self._ahead:
            data = await super().read(READ_AHEAD)
            if len(data) <= wanted:
                return data
            self._ahead += data
        data = bytes(self._ahead[:wanted])
        del self._ahead[:wanted]
        return data

    def send_now(self, data: bytes | memoryview) -> int:
        """See `node.adapters.p2p.sealed.Socket`."""
        try:
            return os.write(self._number(), data)
        except BlockingIOError:
            return 0

    async def until_writable(self) -> None:
        """See `node.adapters.p2p.sealed.Socket`."""
        await trio.lowlevel.wait_writable(self._number())

    async def receive(self) -> bytes:
        """See `node.adapters.p2p.sealed.Socket`. Used in place of `read` from some moment on."""
        if self._ahead or self._more:
            await trio.lowlevel.checkpoint()
        else:  # the last read had emptied the kernel: to ask again first would be a system call for nothing
            await trio.lowlevel.wait_readable(self._number())
        if self._ahead:
            ahead, self._ahead = bytes(self._ahead), bytearray()
            return ahead
        while True:
            try:
                data = os.read(self._number(), READ_AHEAD)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._number())
                continue
            self._more = len(data) == READ_AHEAD
            return data

    def drop(self) -> None:
        """Close the socket at once; whoever reads or writes it is told."""
        self.stream.socket.close()

    def _number(self) -> int:
        number = self.stream.socket.fileno()
        if number < 0:
            raise OSError(errno.EBADF, "this node has closed the connection")
        return number

    def get_remote_address(self) -> tuple[str, int] | None:
        """Return host and port; None once the socket is closed."""
        if self._cached_remote_address is None:
            try:
                host, port, *_ = self.stream.socket.getpeername()
            except OSError:
                return None
            self._cached_remote_address = (str(host), int(port))
        return self._cached_remote_address


class Tcp(ITransport):
    """TCP and nothing else; a port belongs to one process."""

    def __init__(self, disabled: AbstractSet[Workaround]) -> None:
        self._disabled = disabled
        self.failure: OSError | None = None  # why the last listener could not be had
        self._dialled: WeakSet[TcpStream] = WeakSet()

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        """Connect; names are resolved by the system."""
        address = parse_address(str(maddr))
        if address is None:
            raise OpenConnectionError("no address that this node dials")
        try:
            stream = await open_tcp(address)
        except Unreachable as error:
            raise OpenConnectionError(error.message) from error
        dialled = TcpStream(stream)
        self._dialled.add(dialled)
        return RawConnection(dialled, True)

    async def dial_from(self, address: Address, port: int) -> TcpStream:
        """Connect from a port that this node listens at, as a router must see it for others to be let in there.

        Raises:
            OpenConnectionError: that cannot be done.
        """
        kind = trio.socket.AF_INET6 if address.kind == "ip6" else trio.socket.AF_INET
        socket = trio.socket.socket(kind, trio.socket.SOCK_STREAM)
        opened = False
        try:
            socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEPORT, 1)
            # When it has ended, it must not keep a node that starts again from its port for a minute.
            socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
            await socket.bind(("::" if kind == trio.socket.AF_INET6 else "0.0.0.0", port))  # noqa: S104 -- to dial from
            await socket.connect((address.host, address.port))
            opened = True
        except OSError as error:
            raise OpenConnectionError(words(error)) from error
        finally:
            if not opened:
                socket.close()
        dialled = TcpStream(trio.SocketStream(socket))
        self._dialled.add(dialled)
        return dialled

    def drop(self) -> None:
        """Close what was dialled and is still open.

        A host that is cancelled loses its connections' tasks before it can close them in order: the sockets would
        stay open until the garbage collector finds them, and the peers would think that we live.
        """
        for each in list(self._dialled):
            each.stream.socket.close()

    def create_listener(self, handler_function: THandler) -> IListener:
        """Make a listener that hands every socket to `handler_function`."""
        if Workaround.OWN_PORT in self._disabled:
            return TCPListener(handler_function)
        return _Listener(handler_function, self)

    def can_dial(self, maddr: Multiaddr) -> bool:
        """Whether it is an address that this node dials."""
        return parse_address(str(maddr)) is not None

    def can_listen(self, maddr: Multiaddr) -> bool:
        """Whether it is an address that this node can listen at."""
        return str(maddr).startswith(("/ip4/", "/ip6/"))

    def protocols(self) -> list[str]:
        """Return what libp2p filters addresses by."""
        return ["tcp"]


class _Listener(IListener):
    def __init__(self, handler: THandler, transport: Tcp) -> None:
        self._handler = handler
        self._transport = transport
        self._sockets: list[trio.SocketListener] = []
        self._scope = trio.CancelScope()
        self.background_nursery: trio.Nursery | None = None  # the network sets it

    async def listen(self, maddr: Multiaddr) -> None:
        _, _, host, _, port = str(maddr).split("/")[:5]
        try:
            self._sockets = await trio.open_tcp_listeners(int(port), host=host, backlog=BACKLOG)
        except OSError as error:
            self._transport.failure = error
            raise OpenConnectionError(words(error)) from error
        for each in self._sockets:
            # Now that the port is ours: sockets of this node may be dialled from it, and nobody else's may be bound
            # who did not find it free, because the kernel asks both for this.
            each.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEPORT, 1)
        assert self.background_nursery is not None  # noqa: S101 -- the network runs
        self.background_nursery.start_soon(self._accept)

    async def _accept(self) -> None:
        with self._scope:
            await trio.serve_listeners(self._serve, self._sockets)

    async def _serve(self, stream: trio.SocketStream) -> None:
        await self._handler(TcpStream(stream))

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        return tuple(_multiaddr(*each.socket.getsockname()[:2]) for each in self._sockets)

    async def close(self) -> None:
        self._scope.cancel()
        closing, self._sockets = self._sockets, []  # nobody is told addresses of closed sockets
        for each in closing:
            await each.aclose()


def _multiaddr(host: str, port: int) -> Multiaddr:
    return Multiaddr(f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{port}")


def words(error: BaseException) -> str:
    """Return what an error says, short."""
    text = str(error) or type(error).__name__
    return text[:200]


def unreachable(error: BaseException) -> Unreachable:
    """Say why a dial failed: libp2p wraps what it was told into errors that say less, one around the other."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None and len(causes) < CAUSES:
        causes.append(cause)
    for cause in causes:
        if isinstance(cause, Unreachable):
            return Unreachable(cause.message, why=cause.why)
        if isinstance(cause, PeerIDMismatchesPubkey):
            return Unreachable("another node answers at this address: its peer id is another", why=WhyNot.OTHER_PEER)
        if isinstance(cause, IncompleteReadError):
            return Unreachable("it accepts the connection and ends it without a word", why=WhyNot.HUNG_UP)
    if isinstance(causes[-1], (MultiselectError, MultiselectClientError, MultiselectCommunicatorError)):
        return Unreachable("what answers is no node: it does not negotiate as libp2p does", why=WhyNot.GARBAGE)
    return Unreachable(words(error.__cause__ or error))
