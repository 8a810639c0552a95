"""The work-arounds for libp2p 0.8.1 by name, so that a test can switch one off and see what it is for.

Knows no libp2p. Each name is defined where it is applied; docs/decisions/libp2p.md tells the defect behind it, and
tests/adapters/p2p/test_workarounds.py runs each scenario with it and without.
"""

from collections.abc import Set as AbstractSet
from enum import Enum
from importlib.metadata import version
from typing import Final

VERSION: Final = "0.8.1"  # of libp2p: the only one whose insides these work-arounds know


class Workaround(Enum):
    """What is mended; the value says what happens without."""

    HANDLER_ERRORS = "an exception in one handler of a stream ends the whole host"
    INBOUND_SLOTS = "slots of inbound connections are never given back, and silent sockets fill them"
    NOISE_ONLY = "peers may talk in plain text"
    OWN_DIALER = "every dial waits 250 ms, one address per peer is tried, loopback and circuits are dropped"
    WINDOW_CREDIT = "every small read sends a frame of flow control"
    GOSSIP_LIMITS = "more than ten messages a second from one neighbour are dropped in silence"
    GOSSIP_MOVES = "gossip ends with one connection of two, and may not begin again on the other"
    FRESH_GET = "the directory answers from a copy that may be a day old"
    EQUAL_REPUBLISH = "a value that is published again is refused, and expires"
    LONG_KEYS = "nobody says who is nearer to a key of more than 50 bytes, and ours have 73"
    NO_AUTO_CONNECT = "whoever was heard of is dialled, until everybody is connected with everybody"
    PATIENT_WRITES = "a stream whose reader pauses for five seconds is broken"
    WHOLE_WRITES = "cancelling one writer corrupts the connection for everybody on it"
    BOUNDED_UNREAD = "a peer that ignores flow control fills our memory"
    BOUNDED_READS = "as many bytes are read as a stranger says there will be, or until it pauses"
    BOUNDED_STREAMS = "a peer may open streams without end"
    OWN_PORT = "a second node binds the port of the first, and each gets half of the connections"
    HONEST_END = "a connection that dies looks like an orderly end of its streams"
    LIVENESS = "a peer that hangs is never noticed"


NONE: Final[AbstractSet[Workaround]] = frozenset()


def require_version() -> None:
    """Refuse to patch the insides of another version.

    Raises:
        RuntimeError: our bug: the pin in pyproject.toml and this file disagree.
    """
    if (found := version("libp2p")) != VERSION:
        raise RuntimeError(
            f"the work-arounds are for libp2p {VERSION}; {found} is installed: check each, then pin anew"
        )
