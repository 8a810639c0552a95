"""Streams that wait for their next exchange, by peer and protocol. Knows no libp2p; time is an argument."""

from collections import defaultdict, deque
from typing import Generic, Protocol, TypeVar

from protocol.ids import PeerId


class Pooled(Protocol):
    """What can be kept."""

    @property
    def alive(self) -> bool:
        """Whether it may still be used."""
        ...


S = TypeVar("S", bound=Pooled)
Key = tuple[PeerId, str]


class StreamPool(Generic[S]):
    """Last in, first out: what was used a moment ago is likeliest to live, and the rest may expire.

    Args:
        most: kept per peer and protocol; what is given beyond comes back as surplus.
        seconds: kept unused.
    """

    def __init__(self, *, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._kept: defaultdict[Key, deque[tuple[float, S]]] = defaultdict(deque)

    def take(self, key: Key) -> tuple[S | None, list[S]]:
        """Return a stream that lives, and those that were found dead on the way."""
        dead: list[S] = []
        found: S | None = None
        kept = self._kept.get(key)
        while kept and found is None:
            _, stream = kept.pop()
            if stream.alive:
                found = stream
            else:
                dead.append(stream)
        self._tidy(key)
        return found, dead

    def give(self, key: Key, stream: S, now: float) -> S | None:
        """Keep a stream; return the one that must be closed because there are too many."""
        kept = self._kept[key]
        kept.append((now, stream))
        return kept.popleft()[1] if len(kept) > self._most else None

    def expired(self, now: float) -> list[S]:
        """Take out, and return, what has waited too long or is dead."""
        gone: list[S] = []
        for key, kept in list(self._kept.items()):
            stay = deque((since, each) for since, each in kept if since + self._seconds > now and each.alive)
            gone += [each for since, each in kept if (since, each) not in stay]
            self._kept[key] = stay
            self._tidy(key)
        return gone

    def __len__(self) -> int:
        return sum(map(len, self._kept.values()))

    def _tidy(self, key: Key) -> None:
        if key in self._kept and not self._kept[key]:
            del self._kept[key]
