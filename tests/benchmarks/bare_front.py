"""The least that a gateway on trio can cost, twice: bytes passed on unread, and requests passed on undecided.

A process of its own. `--way bytes` passes on between sockets what comes, with two tasks for each client: a turn of the
loop, a read and a write. It parses nothing, bounds nothing, counts nothing. `--way requests` is the daemon's own server
and its own pool of connections to engines with nothing between them: nobody is asked who he is, no replica is chosen,
none is watched. Whatever the node takes beyond these is what it does for its users; what these take beyond another
gateway no change of that can win back.
"""

import argparse
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress

import trio

from node.adapters.http_server.server import TcpBind, serve
from node.adapters.upstream.pool import UpstreamPool
from node.http.asgi import App, Receive, Scope, Send
from node.ports import Endpoint

READ_BYTES = 64 * 1024
BACKLOG = 512
HOP = frozenset({b"host", b"connection", b"content-length", b"transfer-encoding", b"server", b"date"})


async def _one_way(source: socket.socket, sink: socket.socket) -> None:
    """Pass on what comes until the source ends. What the kernel does not take at once is waited for."""
    while True:
        try:
            data = source.recv(READ_BYTES)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(source)
            continue
        if not data:
            return
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[sink.send(rest) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(sink)


async def _bytes_of(client: socket.socket, engine_port: int) -> None:
    engine = socket.create_connection(("127.0.0.1", engine_port))  # on loopback: done at once
    with client, engine:
        for each in (client, engine):
            each.setblocking(False)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with trio.open_nursery() as nursery:

            async def pass_on(source: socket.socket, sink: socket.socket) -> None:
                with suppress(OSError):  # either side is gone: the other is let go as well
                    await _one_way(source, sink)
                nursery.cancel_scope.cancel()

            nursery.start_soon(pass_on, client, engine)
            nursery.start_soon(pass_on, engine, client)


async def pass_bytes(port: int, engine_port: int) -> None:
    """Serve bytes until ended."""
    with socket.create_server(("127.0.0.1", port), backlog=BACKLOG) as listener:
        listener.setblocking(False)
        async with trio.open_nursery() as nursery:
            while True:
                await trio.lowlevel.wait_readable(listener)
                nursery.start_soon(_bytes_of, listener.accept()[0], engine_port)


class _Silent:
    """`ServerReports`, to nobody."""

    def offence(self, kind: str) -> None:
        """Take no note."""

    def defect(self, error: Exception) -> None:
        """End: a benchmark of something broken is none."""
        raise error


def _undecided(pool: UpstreamPool, engine: Endpoint) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        body = message["body"]
        while message["more_body"]:
            message = await receive()
            body += message["body"]
        headers = tuple(each for each in scope["headers"] if each[0] not in HOP)
        target = scope["raw_path"].decode("ascii")
        async with pool.send(engine, method=scope["method"], target=target, headers=headers, body=body) as answer:
            kept = [each for each in answer.headers if each[0] not in HOP or each[0] == b"content-length"]
            await send({"type": "http.response.start", "status": answer.status, "headers": kept})
            more = True
            while more:
                data = await answer.receive()
                more = data != b""
                await send({"type": "http.response.body", "body": data, "more_body": more})

    return app


async def pass_requests(port: int, engine_port: int) -> None:
    """Serve requests until ended."""
    pool = UpstreamPool()
    app = _undecided(pool, Endpoint(host="127.0.0.1", port=engine_port))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pool.keep_time)
        await serve(app, bind=TcpBind(host="127.0.0.1", port=port), reports=_Silent(), stop=trio.sleep_forever)


WAYS = {"bytes": pass_bytes, "requests": pass_requests}


def main(arguments: Sequence[str]) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=tuple(WAYS), required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--engine-port", type=int, required=True)
    options = parser.parse_args(arguments)
    trio.run(WAYS[options.way], options.port, options.engine_port)


if __name__ == "__main__":
    main(sys.argv[1:])
