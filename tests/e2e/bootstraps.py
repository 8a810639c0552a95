"""Bootstraps that are of no use, each in its own way, on real sockets: in threads, for daemons to dial.

Knows nothing of nodes: only what a node would find at an address.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

BACKLOG = 64


def dead_port() -> int:
    """Return a port of loopback at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def hanging() -> Iterator[int]:
    """Accept connections and say nothing, for as long as the context lasts."""
    with _serving(None) as port:
        yield port


@contextmanager
def garbage() -> Iterator[int]:
    """Answer every connection with what no node says."""
    with _serving(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n" * 8) as port:
        yield port


@contextmanager
def _serving(answer: bytes | None) -> Iterator[int]:
    server = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    kept: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return  # closed: the context is left
            kept.append(connection)
            with suppress(OSError):
                if answer is not None:
                    connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(5)
        for each in kept:
            each.close()
