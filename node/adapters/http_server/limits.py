"""What a server bears, and to whom it tells what it sees. Knows no socket."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What one server bears. Times in seconds, sizes in bytes.

    Attributes:
        connections: at once; each costs some 20 KB here and one descriptor.
        connections_per_address: of them from one address, so that one stranger cannot take them all. Loopback is
            exempt: a reverse proxy on this machine speaks for everybody.
        head_bytes, headers: what h2load, curl and every SDK keep below; nginx allows 32 KiB in 4 buffers.
        head_seconds: for a whole head, from its first byte (from the connection's start for the first one): a client
            that sends a byte at a time holds a connection no longer than this.
        idle_seconds: between requests. Longer than the 60 s after which proxies drop their side, so that it is they
            who close and never race with a request.
        body_idle_seconds, body_seconds: between two bytes of a body, and for all of it (32 MiB in 600 s is 0.4 Mbit/s).
        pipelined_bytes: sent ahead while a request is answered. Half of what Linux keeps for a socket at the least.
        write_stall: without the client taking a single byte of the answer.
        linger_seconds: in which the rest of a refused upload is read and thrown away, because closing on unread
            bytes makes the kernel reset the connection and the refusal never arrives.
        abandon_seconds: for the application to end by itself once its client is gone.
        grace_seconds: for running answers at shutdown.
    """

    connections: int = 1024
    connections_per_address: int = 128
    head_bytes: int = 32 * 1024
    headers: int = 100
    head_seconds: float = 15.0
    idle_seconds: float = 75.0
    body_idle_seconds: float = 30.0
    body_seconds: float = 600.0
    pipelined_bytes: int = 32 * 1024
    write_stall: float = 60.0
    linger_seconds: float = 2.0
    abandon_seconds: float = 5.0
    grace_seconds: float = 10.0


class ServerReports(Protocol):
    """Where the server tells what clients do wrong, and what the application does."""

    def offence(self, kind: str) -> None:
        """Count one offence of a client; `kind` is one of a fixed, small set."""
        ...

    def defect(self, error: Exception) -> None:
        """Tell of an exception that the application let through: a bug of ours."""
        ...
