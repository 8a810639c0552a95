"""How far away peers are: round trips and upload rates, as columns that a decision reads for all candidates at once.

Knows no network: what was measured goes in with the peer, estimates come out. Seconds, and bytes a second.

Theory. A round trip is the way there and back, which changes seldom, and what it waited for on the way, which is always
something else. The least of the last few measurements is the way (as in BBR's filter, Cardwell et al., 2016); it is
smoothed, and so is how much longer they took (RFC 6298's weight of a quarter). After `WINDOW` measurements a way that
has become longer is believed. Prompts are small beside what lines carry: only writes large enough to have met
back-pressure tell of a rate.
"""

from collections.abc import Sequence
from math import isfinite
from typing import Final

import numpy as np

from node.core.curves import Floats, Rows
from protocol.ids import PeerId

WINDOW: Final = 8  # measurements, of which the least is the way: ten seconds of polls
WEIGHT: Final = 0.25  # of a new measurement
SHORTEST_S, LONGEST_S = 1e-5, 30.0  # of a round trip: within a machine; whoever takes longer is as good as gone
PEERS: Final = 4096  # as many as standings are kept of; beyond it whoever was measured longest ago is forgotten

UNKNOWN_S: Final = 0.08  # of a peer that was never measured: between two homes of one continent and of two
UNKNOWN_SPREAD_S: Final = 0.08
UPLOAD: Final = 10e6 / 8  # bytes a second that a home sends, where nothing was measured: 10 Mbit/s
NEAR_S: Final = 0.003  # a peer as near as that is on the same network
NEAR_UPLOAD: Final = 1e9 / 8
LARGE: Final = 256 * 1024  # bytes: less than that lies in the buffers on the way, and its write tells of nothing
SLOWEST, FASTEST = 1e3, 1e10

UNKNOWN_ROW, OWN_ROW = 0, 1


class RoundTrips:
    """What is known of the way to each peer. The way to this node itself takes nothing."""

    def __init__(self, me: PeerId, *, most: int = PEERS) -> None:
        self._me = me
        self._most = most + 2
        self._rows: dict[PeerId, int] = {me: OWN_ROW}  # but for us, measured longest ago first
        self._free: list[int] = []
        self._window = np.full((2, WINDOW), np.inf)
        self._count = np.zeros(2, dtype=np.int64)
        self._seconds = np.array([UNKNOWN_S, 0.0])
        self._spread = np.array([UNKNOWN_SPREAD_S, 0.0])
        self._rate = np.array([UPLOAD, np.inf])
        self._sent = np.array([0, 1])  # writes that told of the rate
        self.version = 0

    def __len__(self) -> int:
        """Return of how many peers something is known."""
        return len(self._rows) - 1

    def note(self, peer: PeerId, seconds: float) -> None:
        """Note one round trip."""
        if peer == self._me or not isfinite(seconds) or seconds < 0:
            return
        seconds = min(max(seconds, SHORTEST_S), LONGEST_S)
        row = self._row(peer)
        count = int(self._count[row])
        self._window[row, count % WINDOW] = seconds
        self._count[row] = count + 1
        way = float(self._window[row].min())
        if count:
            self._seconds[row] += WEIGHT * (way - self._seconds[row])
            self._spread[row] += WEIGHT * (seconds - way - self._spread[row])
        else:
            self._seconds[row], self._spread[row] = seconds, seconds / 2
        if not self._sent[row]:
            self._rate[row] = NEAR_UPLOAD if self._seconds[row] < NEAR_S else UPLOAD

    def note_sent(self, peer: PeerId, size: int, seconds: float) -> None:
        """Note that writing so many bytes to a peer took that long; small writes tell of nothing."""
        if peer == self._me or size < LARGE or not isfinite(seconds) or seconds < 0:
            return
        row = self._row(peer)
        rate = min(max(size / max(seconds, 1e-9), SLOWEST), FASTEST)
        before = float(self._rate[row]) if self._sent[row] else rate
        self._rate[row] = before * (rate / before) ** WEIGHT
        self._sent[row] += 1

    def forget(self, peer: PeerId) -> None:
        """Forget a peer that is gone."""
        if peer != self._me and (row := self._rows.pop(peer, None)) is not None:
            self._clear(row)
            self._free.append(row)
            self.version += 1

    def rtt(self, peer: PeerId) -> tuple[float, float]:
        """Return the seconds there and back, and how much longer than that it takes in the mean."""
        row = self._rows.get(peer, UNKNOWN_ROW)
        return float(self._seconds[row]), float(self._spread[row])

    def known(self, peer: PeerId) -> bool:
        """Tell whether the way to a peer was ever measured."""
        return bool(self._count[self._rows.get(peer, UNKNOWN_ROW)])

    def rows(self, peers: Sequence[PeerId]) -> Rows:
        """Return the row of each peer, shape (n,); kept while `version` stays. A row that was given back is unknown."""
        found = self._rows
        return np.array([found.get(peer, UNKNOWN_ROW) for peer in peers], dtype=np.intp)

    def rtts(self, rows: Rows) -> tuple[Floats, Floats]:
        """Return `rtt` of each row, both shape (n,)."""
        return self._seconds.take(rows), self._spread.take(rows)

    def upload_s(self, rows: Rows, size: int) -> Floats:
        """Return how long so many bytes take on their way to each, the round trip apart; shape (n,)."""
        return size / self._rate.take(rows)

    def _row(self, peer: PeerId) -> int:
        row = self._rows.pop(peer, None)
        if row is None:
            if len(self._rows) >= self._most - 1:
                self.forget(next(each for each in self._rows if each != self._me))
            if not self._free:
                self._grow()
            row = self._free.pop()
            self.version += 1
        self._rows[peer] = row
        return row

    def _grow(self) -> None:
        start = len(self._seconds)
        more = min(max(start, 16), self._most - start)
        self._window = np.concatenate([self._window, np.full((more, WINDOW), np.inf)])
        self._count = np.concatenate([self._count, np.zeros(more, dtype=np.int64)])
        self._seconds = np.concatenate([self._seconds, np.full(more, UNKNOWN_S)])
        self._spread = np.concatenate([self._spread, np.full(more, UNKNOWN_SPREAD_S)])
        self._rate = np.concatenate([self._rate, np.full(more, UPLOAD)])
        self._sent = np.concatenate([self._sent, np.zeros(more, dtype=np.int64)])
        self._free += reversed(range(start, start + more))

    def _clear(self, row: int) -> None:
        self._window[row], self._count[row], self._sent[row] = np.inf, 0, 0
        self._seconds[row], self._spread[row], self._rate[row] = UNKNOWN_S, UNKNOWN_SPREAD_S, UPLOAD
