"""What each candidate would make of one prompt: seconds to its first token, for each further one, and how sure that is.

Knows no objective and chooses nobody. Curves, corrections, standings and what was sent where go in, all as columns;
arrays come out, one place for each candidate. Nothing here goes over candidates one by one.

    total = there and back + upload + a turn at the engine + prefill (tokens it has not cached, load) + tokens x decode

The load is dead reckoning: what others had there at the last reading, and ours since; tokens that stand in its queue
likewise. Others decide by the same figures, and so as we do: what we sent somewhere since its last reading stands for
what they sent there, as often as they have prompts under way for each of ours (`crowd`). A reading that ages says
less and less; the interval grows with it.
"""

from dataclasses import dataclass
from math import exp
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from node.core import corrections
from node.core.affinity import Affinity
from node.core.candidates import Candidates
from node.core.corrections import Corrections
from node.core.curves import Shelf
from node.core.round_trips import RoundTrips
from node.core.standings import BELIEVED_FOR, UNKNOWN_WORK, Column
from node.core.wanted import Wanted
from protocol.ids import PeerId

Floats: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
Rows: TypeAlias = NDArray[np.intp]

DIAL_ROUND_TRIPS: Final = 4.0  # until a stream to a peer that is not connected: TCP, Noise (2), the muxer
QUEUE_HALVES: Final = 2.0  # s in which half of a queue that was read has been worked off: the age at which we ask again
MOST_CROWD: Final = 16.0  # what a claim of a million prompts can make of it; and who sends that little knows little
STALE: Final = 0.04  # variance, log-seconds squared, that each second of a reading's age adds: loads walk at random
LONGEST_LATE: Final = 4.6  # log-units that a prompt which waits can speak against a replica: the bound of corrections
MOST_SPREAD: Final = 1.0  # variance up to which a log-normal is expected to come to its mean: e^.5 of its median
LEAST_TOKENS: Final = 1.0


FIRST, TOKEN = 0, 1  # rows of what is known of the first token and of each further one


@dataclass(slots=True, kw_only=True, eq=False)  # not frozen: that costs 3 microseconds, and nobody has two of them
class Forecast:
    """One decision's figures; arrays of shape (n,) or (2, n), in the candidates' order. Nobody changes them.

    Attributes:
        net: seconds there and back, dialling and upload included; none to this node's own engine.
        turn: seconds until it is the prompt's turn.
        logs: log-seconds to the first token (prefill alone) and for each further one, corrections included.
        variances: of the replica's own figures. added: the corrections therein.
        widths: half widths of the curves' 90 % intervals alone, log-seconds.
        parts: seconds to expect of prefill and of decode. total: until the last token.
        spread: standard deviation of the total, as a share of it.
        crowd: prompts that others send for each of ours.
        load: prompts outstanding there, this one included. cached: of the prompt's tokens, None where nowhere any.
        closed: whether it would not take the prompt now. known: whether its load is. full: whether it would wait.
        columns: of the standings.
    """

    candidates: Candidates
    wanted: Wanted
    curve_rows: Rows
    curves: Shelf
    columns: Floats
    net: Floats
    turn: Floats | float
    logs: Floats
    variances: Floats
    added: Floats
    widths: Floats
    parts: Floats
    total: Floats
    spread: Floats
    crowd: float
    load: Floats
    cached: Floats | None
    closed: Flags
    known: Flags
    full: Flags

    def soonest(self, most: int) -> list[PeerId]:
        """Return the candidates that are open and foretold to be done first, at most so many, in no order."""
        total = np.where(self.closed, np.inf, self.total)
        found = total.argpartition(most)[:most] if len(total) > most else np.flatnonzero(~self.closed)
        return [self.candidates.replicas[at] for at in found.tolist()]

    def uncached(self, at: int) -> float:
        """Return how many of the prompt's tokens a candidate has to read."""
        cached = 0.0 if self.cached is None else float(self.cached[at])
        return self.wanted.prompt_tokens - cached

    def guess(self, replica: PeerId) -> "Guess | None":
        """Return what was foretold of one candidate; None where it is none.

        Its run is the present one: ask when the prompt was counted as sent, for then the standings know the replica.
        """
        at = self.candidates.index.get(replica)
        if at is None:
            return None
        return Guess(
            replica=replica,
            model=self.candidates.model,
            run=self.candidates.standings.run(replica),
            wanted=self.wanted,
            net=float(self.net[at]),
            turn=float(self.turn[at]) if isinstance(self.turn, np.ndarray) else self.turn,
            ttft=float(self.logs[FIRST, at]),
            tpot=float(self.logs[TOKEN, at]),
            ttft_added=float(self.added[FIRST, at]),
            tpot_added=float(self.added[TOKEN, at]),
            ttft_width=float(self.widths[FIRST, at]),
            tpot_width=float(self.widths[TOKEN, at]),
            ttft_variance=float(self.variances[FIRST, at]),
            tpot_variance=float(self.variances[TOKEN, at]),
            total=float(self.total[at]),
            uncached=self.uncached(at),
            guesses=bool(self.candidates.guesses[at]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """What is foretold of one candidate; as in `Forecast`, for those who compare it with what came."""

    replica: PeerId
    model: str
    run: int
    wanted: Wanted
    net: float
    turn: float
    ttft: float
    tpot: float
    ttft_added: float
    tpot_added: float
    ttft_width: float
    tpot_width: float
    ttft_variance: float
    tpot_variance: float
    total: float
    uncached: float
    guesses: bool

    @property
    def token(self) -> float:
        """Seconds for each token after the first, as likely more as less."""
        return exp(self.tpot)

    @property
    def first_byte(self) -> float:
        """Seconds from asking until the first token is here, as likely more as less."""
        return self.net + self.turn + exp(self.ttft)


class Foreteller:
    """Makes forecasts of what is known at the moment."""

    def __init__(self, curves: Shelf, trips: RoundTrips, corrections: Corrections, affinity: Affinity) -> None:
        self._curves = curves
        self._trips = trips
        self._corrections = corrections
        self._affinity = affinity

    def foretell(self, candidates: Candidates, wanted: Wanted, now: float) -> Forecast:
        """Return what to expect of each candidate."""
        columns = candidates.standings.columns(candidates.by_replica(candidates.standings))
        age = now - columns[Column.READ_AT]
        known = age <= BELIEVED_FOR
        load = np.where(known, columns[Column.OTHERS], UNKNOWN_WORK)
        crowd = _crowd(columns, known)
        load += columns[Column.IN_FLIGHT]
        load += crowd * columns[Column.SINCE]
        full = load >= columns[Column.SLOTS]
        load += 1.0
        together = np.minimum(load, columns[Column.SLOTS])

        rows = candidates.by_model(self._curves)
        cached = self._cached(candidates, wanted, now)
        uncached = wanted.prompt_tokens if cached is None else wanted.prompt_tokens - cached
        queued = columns[Column.QUEUED]
        waits = queued * np.exp2(-age / QUEUE_HALVES) if np.count_nonzero(queued) else 0.0
        if np.count_nonzero(columns[Column.SENT]):  # quicker than `any`
            waits = waits + (1.0 + crowd) * columns[Column.SENT]
        logs, widths = np.empty((2, len(load))), np.empty((2, len(load)))
        logs[FIRST], widths[FIRST] = self._curves.ttft(rows, uncached, together, waits)
        logs[TOKEN], widths[TOKEN] = self._curves.tpot(rows, together)

        lines = self._corrections.columns(candidates.by_model(self._corrections))
        added, variances = corrections.at(
            lines, columns[Column.RUN], widths, now, self._corrections.common(candidates.model)
        )
        np.minimum(age, BELIEVED_FOR, out=age)
        variances += age * STALE
        late = columns[Column.LATE_AT] < now
        if np.count_nonzero(late):
            added[FIRST] += np.where(late, _late(columns, now), 0.0)
        logs += added

        parts = np.minimum(variances, MOST_SPREAD)
        parts *= 0.5
        parts += logs
        np.exp(parts, out=parts)
        net = self._net(candidates, wanted)
        turn: Floats | float = 0.0
        total = net
        if np.count_nonzero(full):
            # Slots come free one by one, each for as long as an answer takes.
            each = (parts[FIRST] + parts[TOKEN] * wanted.output_tokens) / together
            turn = np.where(full, (load - together) * each, 0.0)
            total = net + turn
        parts[TOKEN] *= wanted.output_tokens
        total = total + parts[FIRST]
        total += parts[TOKEN]
        spread = parts * parts
        spread *= variances
        spread = spread[FIRST] + spread[TOKEN]
        np.sqrt(spread, out=spread)
        spread /= total
        return Forecast(
            candidates=candidates,
            wanted=wanted,
            curve_rows=rows,
            curves=self._curves,
            columns=columns,
            net=net,
            turn=turn,
            logs=logs,
            variances=variances,
            added=added,
            widths=widths,
            parts=parts,
            total=total,
            spread=spread,
            crowd=crowd,
            load=load,
            cached=cached,
            closed=columns[Column.CLOSED_UNTIL] > now,
            known=known,
            full=full,
        )

    def _cached(self, candidates: Candidates, wanted: Wanted, now: float) -> Floats | None:
        """Return how many of the prompt's tokens each may have cached; None where nobody any."""
        held = self._affinity.cached(wanted.marks, wanted.prompt_tokens, run=candidates.standings.run, now=now)
        if not held:
            return None
        cached = np.zeros(len(candidates))
        for replica, tokens in held.items():
            at = candidates.index.get(replica)
            if at is not None:
                cached[at] = min(tokens, wanted.prompt_tokens - LEAST_TOKENS)
        cached *= candidates.caches
        return cached

    def _net(self, candidates: Candidates, wanted: Wanted) -> Floats:
        """Return the seconds that the way takes."""
        ways = candidates.by_replica(self._trips)
        net = self._trips.rtts(ways)[0]
        if not candidates.all_connected:
            net *= np.where(candidates.connected, 1.0, 1.0 + DIAL_ROUND_TRIPS)
        net += self._trips.upload_s(ways, wanted.body_bytes)
        return net


def _crowd(columns: Floats, known: Flags) -> float:
    """Return how many prompts others send for each of ours, as far as what is under way tells."""
    others = float(columns[Column.OTHERS] @ known)
    return min(others / max(float(columns[Column.IN_FLIGHT].sum()), 1.0), MOST_CROWD)


def _late(columns: Floats, now: float) -> Floats:
    """Return what prompts that wait for a first byte far beyond what was foretold say of those that they wait for."""
    with np.errstate(divide="ignore", invalid="ignore"):  # of those that nobody waits for
        return np.clip(np.log((now - columns[Column.SENT_AT]) / columns[Column.DUE]), 0.0, LONGEST_LATE)
