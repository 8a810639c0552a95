"""Listening for HTTP on TCP or on a unix socket, and serving an ASGI application there.

Knows nothing of the application. `connection` serves one of them; here is what concerns all of them: the
address, how many there may be, and how they end. Why there is a server of our own behind the ASGI seam is told in
docs/decisions/http-server.md.
"""

import errno
import socket
import stat
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import trio

from node.adapters.http_server.connection import Connection
from node.adapters.http_server.departures import Departures
from node.adapters.http_server.exchange import App
from node.adapters.http_server.limits import ServerLimits, ServerReports
from node.adapters.http_server.wire import plain_error
from node.errors import Unavailable

BACKLOG = 512  # connections that the kernel keeps for us during a stall of the loop
OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
ACCEPT_PAUSE = 0.1  # seconds without accepting when descriptors ran out; some connection ends meanwhile
REJECT_LINGER = 0.5  # seconds for a rejected client to read why
REJECTS_AT_ONCE = 64  # more are closed without a word
REJECT_RETRY = 5  # seconds, Retry-After of a rejected connection
LOOK_EVERY = 0.5  # seconds at most between two looks at every connection's time: so late may a deadline be noticed
LOOKS = 4  # within the shortest of them


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpBind:
    """An address to listen at; port 0 takes any that is free."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixBind:
    """A socket file to listen at, for this user alone."""

    path: str


Bind = TcpBind | UnixBind
OwnerOf = Callable[[int], str | None]


async def serve(  # noqa: PLR0913  # the capabilities of a server, each by itself
    app: App,
    *,
    bind: Bind,
    reports: ServerReports,
    stop: Callable[[], Awaitable[object]],
    limits: ServerLimits | None = None,
    owner_of: OwnerOf = lambda port: None,
    task_status: trio.TaskStatus[Bind] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `stop()` returns, then let running answers finish for `grace_seconds`.

    Starts with the address that was bound, once connections are accepted. Cancelled, it cuts everything at once. The
    application sees no lifespan events. `owner_of` names the process that listens on a port, for the error's message.

    Raises:
        Unavailable: the address cannot be had, by whom it is held where that can be found out, and what to do.
    """
    limits = limits or ServerLimits()
    with ExitStack() as resources, closing(Departures()) as departures:
        listener, bound = await _listen(bind, resources, owner_of)
        async with trio.open_nursery() as helpers:
            helpers.start_soon(departures.run)
            async with trio.open_nursery() as nursery:
                house = _House(app, limits=limits, reports=reports, nursery=nursery, departures=departures)
                helpers.start_soon(house.look_after)
                async with trio.open_nursery() as accepting:
                    accepting.start_soon(house.accept_forever, listener)
                    task_status.started(bound)
                    await stop()
                    accepting.cancel_scope.cancel()
                resources.close()  # new clients are told at once that nobody listens any more
                house.shut_down()
                nursery.cancel_scope.deadline = trio.current_time() + limits.grace_seconds
            helpers.cancel_scope.cancel()


class _House:
    """The connections that are in."""

    def __init__(
        self, app: App, *, limits: ServerLimits, reports: ServerReports, nursery: trio.Nursery, departures: Departures
    ) -> None:
        self._app = app
        self._departures = departures
        self._limits = limits
        self._reports = reports
        self._nursery = nursery
        self._connections: set[Connection] = set()
        self._by_address: Counter[str] = Counter()
        self._rejecting = 0

    def shut_down(self) -> None:
        """Let idle connections go, and the others once they have answered."""
        for connection in self._connections:
            connection.shut_down()

    async def look_after(self) -> None:
        """Hold every connection to its time, until cancelled."""
        limits = self._limits
        shortest = min(
            limits.head_seconds, limits.idle_seconds, limits.body_idle_seconds, limits.body_seconds,
            limits.abandon_seconds,
        )  # fmt: skip
        while True:
            await trio.sleep(min(LOOK_EVERY, shortest / LOOKS))
            now = trio.current_time()
            for connection in self._connections:
                connection.look(now)

    async def accept_forever(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, address = listener.accept()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(listener)
                continue
            except OSError as error:
                # Anything else is the fate of that one connection (RFC-less, but so says accept(2)).
                await trio.sleep(ACCEPT_PAUSE if error.errno in OUT_OF_DESCRIPTORS else 0)
                continue
            self._admit(sock, address)
            await trio.lowlevel.checkpoint()

    def _admit(self, sock: socket.socket, address: tuple[str, int] | str) -> None:
        sock.setblocking(False)
        client = None if isinstance(address, str) or not address else (address[0], address[1])
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        name = client[0] if client is not None else ""
        full = len(self._connections) >= self._limits.connections
        greedy = self._by_address[name] >= self._limits.connections_per_address and not _is_local(name)
        if full or greedy:
            self._reports.offence("connection_limit")
            self._reject(sock)
            return
        connection = Connection(
            sock,
            self._app,
            client=client,
            limits=self._limits,
            reports=self._reports,
            departures=self._departures,
        )
        self._connections.add(connection)
        self._by_address[name] += 1
        self._nursery.start_soon(self._serve, connection, name)

    async def _serve(self, connection: Connection, name: str) -> None:
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self._by_address[name] -= 1
            if not self._by_address[name]:
                del self._by_address[name]

    def _reject(self, sock: socket.socket) -> None:
        if self._rejecting >= REJECTS_AT_ONCE:
            sock.close()
            return
        self._rejecting += 1
        self._nursery.start_soon(self._say_full, sock)

    async def _say_full(self, sock: socket.socket) -> None:
        try:
            sock.send(plain_error(503, "This node has as many connections as it bears.", retry_after=REJECT_RETRY))
            sock.shutdown(socket.SHUT_WR)
            with trio.move_on_after(REJECT_LINGER):
                while await self._discard(sock):
                    pass
        except OSError:
            pass  # gone already
        finally:
            self._rejecting -= 1
            trio.lowlevel.notify_closing(sock)
            sock.close()

    async def _discard(self, sock: socket.socket) -> bytes:
        await trio.lowlevel.wait_readable(sock)
        return sock.recv(4096)


def _is_local(host: str) -> bool:
    return not host or ip_address(host.partition("%")[0]).is_loopback


async def _listen(bind: Bind, resources: ExitStack, owner_of: OwnerOf) -> tuple[socket.socket, Bind]:
    if isinstance(bind, UnixBind):
        return _listen_unix(bind, resources), bind
    try:
        found = await trio.socket.getaddrinfo(bind.host, bind.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unavailable(
            f"{bind.host!r} is no address of this machine: {error.strerror}.",
            remedy="Give an address to listen at as HOST:PORT, such as 127.0.0.1:8470.",
        ) from error
    family, kind, protocol, _, address = found[0]
    listener = resources.enter_context(socket.socket(family, kind, protocol))
    listener.setblocking(False)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else a restart waits a minute for TIME_WAIT
    try:
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        raise _unavailable(bind, error, owner_of) from error
    host, port = listener.getsockname()[:2]
    return listener, TcpBind(host=host, port=port)


def _unavailable(bind: TcpBind, error: OSError, owner_of: OwnerOf) -> Unavailable:
    where = f"{bind.host}:{bind.port}"
    if error.errno == errno.EADDRINUSE:
        owner = owner_of(bind.port)
        return Unavailable(
            f"Port {bind.port} is taken" + (f" by {owner}." if owner else " by another program."),
            remedy="Stop that program, or choose another port (0 takes any that is free).",
        )
    if error.errno == errno.EACCES:
        return Unavailable(f"This user may not listen at {where}.", remedy="Choose a port from 1024 on.")
    return Unavailable(
        f"Cannot listen at {where}: {error.strerror}.", remedy="Choose an address that this machine has."
    )


def _listen_unix(bind: UnixBind, resources: ExitStack) -> socket.socket:
    path = Path(bind.path)
    listener = resources.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    listener.setblocking(False)
    try:
        _remove_stale(path)
        listener.bind(bind.path)
        resources.callback(path.unlink, missing_ok=True)
        # Between bind and chmod nobody can connect: it does not listen yet.
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)
        listener.listen(BACKLOG)
    except OSError as error:
        raise Unavailable(
            f"Cannot listen at the socket {path}: {error.strerror or error}.",
            remedy="Choose a runtime directory with a shorter path that this user may write.",
        ) from error
    return listener


def _remove_stale(path: Path) -> None:
    """Remove what a killed node left behind; never the socket of a running one, nor another kind of file."""
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise Unavailable(
        "Another node runs with this data directory.",
        remedy="Stop it first, or give this one a --data-dir of its own.",
    )
