"""The least that a gateway on trio can cost: bytes passed on between sockets, read by nobody.

A process of its own. For each client one connection with the engine and two
tasks, one for each direction; a turn of the loop, a read and a write for whatever comes. It parses nothing, counts
nothing, bounds nothing: whatever a gateway on this loop does is on top of this, so that its figure tells which aims no
change of the gateway's own code can reach.
"""

import argparse
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress

import trio

READ_BYTES = 64 * 1024
BACKLOG = 512


async def _pass_on(source: socket.socket, sink: socket.socket) -> None:
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


async def _serve(client: socket.socket, port: int) -> None:
    engine = socket.create_connection(("127.0.0.1", port))  # on loopback: done at once
    with client, engine:
        for each in (client, engine):
            each.setblocking(False)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with trio.open_nursery() as nursery:

            async def one_way(source: socket.socket, sink: socket.socket) -> None:
                with suppress(OSError):  # either side is gone: the other is let go as well
                    await _pass_on(source, sink)
                nursery.cancel_scope.cancel()

            nursery.start_soon(one_way, client, engine)
            nursery.start_soon(one_way, engine, client)


async def _listen(port: int, engine_port: int) -> None:
    with socket.create_server(("127.0.0.1", port), backlog=BACKLOG) as listener:
        listener.setblocking(False)
        async with trio.open_nursery() as nursery:
            while True:
                await trio.lowlevel.wait_readable(listener)
                nursery.start_soon(_serve, listener.accept()[0], engine_port)


def main(arguments: Sequence[str]) -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--engine-port", type=int, required=True)
    options = parser.parse_args(arguments)
    trio.run(_listen, options.port, options.engine_port)


if __name__ == "__main__":
    main(sys.argv[1:])
