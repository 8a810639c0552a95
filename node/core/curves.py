"""How long a replica takes, as small tables: `Curve` for one, `Shelf` for all candidates of a decision at once.

Knows the grid and how to read between its points; knows no learner, router, peer or clock. What a learner's process
says is read here with care (`read_curve`): a bug there must not become a wrong array in every decision.

Theory. Times go over four powers of ten and so do prompts, so everything is linear between grid points on log scales,
and clamped outside: what was never asked about is not made up. The grid is even on those scales (a factor of four
between prompts, of two between loads), so that a place in it is one logarithm, not a search. All curves of a shelf lie
in one complex array of shape (rows, prompts + 1, loads + 1): the time is the real part and the half width the imaginary
one, which a weighted mean treats alike, so one gather of four corners and three means serve both. The last prompt and
load stand there twice, so that a place on the edge needs no case of its own. For fifty candidates numpy's price is the
number of calls. A curve on another grid is read off at ours when it is put on the shelf.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from protocol.ids import PeerId

Floats: TypeAlias = NDArray[np.float64]
Rows: TypeAlias = NDArray[np.intp]
_Complex: TypeAlias = NDArray[np.complex128]

PROMPTS: Final = (16, 64, 256, 1024, 4096, 16384, 65536)  # uncached tokens; even on a log scale, as `Shelf` relies on
LOADS: Final = (1, 2, 4, 8, 16, 32, 64, 128)  # requests outstanding, the one asked about included; likewise
LEARNER, PHYSICS, COMPOSITE = SOURCES = ("learner", "physics", "composite")
ROWS: Final = 4096  # of a shelf: as many replicas as standings are kept of; 4 MiB
UNKNOWN_ROW: Final = 0

GRID_MOST: Final = 64  # points of either side that a learner may say
LEAST_S, MOST_S = 1e-6, 1e5  # of a time that is foretold: shorter than a kernel, longer than a day
LEAST_WIDTH: Final = 0.01  # log-seconds: nobody foretells a time to one in a hundred
MOST_WIDTH: Final = 7.0  # a factor of a thousand either way: beyond it nothing is said
MOST_QUEUED_S: Final = 10.0

# What is taken of a replica of which nothing is known: the closed form that node/learner/physics.py comes to for the
# machine that it assumes where nobody described one (one small GPU: 300 GB/s of memory, 50 Tflop/s) and a model of four
# billion parameters in 16 bits, the largest that runs there with room for a batch. A model of eight billion on an A100
# is five times as fast, one on a desktop's processor five to ten times as slow: hence a factor of ten either way.
_STEP_S: Final = 0.030  # one step of decode, alone: 8 GB read at nine tenths of 300 GB/s
_SEATS: Final = 32.0  # requests decoded together at which a step takes twice as long
_FLOOR_S: Final = 0.040  # the first token of an empty prompt
_TOKEN_S: Final = 1 / 4000  # of prefill: 8 Gflop at two thirds of 50 Tflop/s
_AHEAD: Final = 0.35  # of another's prefill that one waits for, in the mean
_COMPOSITE_WIDTH: Final = 2.3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curve:
    """What is foretold of one model on one machine under one strategy.

    Attributes:
        prompts: uncached prompt tokens, rising, shape (P,). loads: requests outstanding, the one asked about included,
            rising, shape (L,).
        log_ttft, ttft_width: log-seconds, and half the 90 % interval of that; shape (P, L).
        log_tpot, tpot_width: likewise of one output token, shape (L,).
        queued_token_s: what one more queued prompt token adds to the time to the first token.
        source: who says so: one of `SOURCES`.
    """

    prompts: Floats
    loads: Floats
    log_ttft: Floats
    ttft_width: Floats
    log_tpot: Floats
    tpot_width: Floats
    queued_token_s: float
    source: str


def composite() -> Curve:
    """Return the curve of a replica of which nothing is known; see the figures above."""
    prompts, loads = np.array(PROMPTS, dtype=np.float64), np.array(LOADS, dtype=np.float64)
    alone = _FLOOR_S + prompts * _TOKEN_S
    ttft = alone[:, None] * (1 + _AHEAD * (loads - 1))[None, :]
    tpot = _STEP_S * (1 + loads / _SEATS)
    return Curve(
        prompts=prompts,
        loads=loads,
        log_ttft=np.log(ttft),
        ttft_width=np.full(ttft.shape, _COMPOSITE_WIDTH),
        log_tpot=np.log(tpot),
        tpot_width=np.full(tpot.shape, _COMPOSITE_WIDTH),
        queued_token_s=_TOKEN_S,
        source=COMPOSITE,
    )


def read_curve(said: Mapping[str, Any]) -> Curve:
    """Read what a learner's process says of one cell (`Curve.to_plain` of node/learner/curves.py).

    Times are made to rise with prompt and load, as queues do; one that a learner's rounding let fall is no fault.

    Raises:
        ValueError: it is no curve: a part is missing, is of another shape, or holds what no time can be.
    """
    prompts, loads = _side(said, "prompts"), _side(said, "loads")
    shape = (len(prompts), len(loads))
    ttft = _numbers(said, "ttft_s", shape, LEAST_S, MOST_S)
    tpot = _numbers(said, "tpot_s", (len(loads),), LEAST_S, MOST_S)
    source = said.get("source", LEARNER)  # of a learner that did not yet say
    if source not in SOURCES:
        raise ValueError(f"source: one of {', '.join(SOURCES)} belongs there")
    return Curve(
        prompts=prompts,
        loads=loads,
        log_ttft=np.log(np.maximum.accumulate(np.maximum.accumulate(ttft, axis=0), axis=1)),
        ttft_width=np.clip(_numbers(said, "ttft_half_width", shape, 0.0, np.inf), LEAST_WIDTH, MOST_WIDTH),
        log_tpot=np.log(np.maximum.accumulate(tpot)),
        tpot_width=np.clip(_numbers(said, "tpot_half_width", (len(loads),), 0.0, np.inf), LEAST_WIDTH, MOST_WIDTH),
        queued_token_s=float(_numbers(said, "queued_token_s", (), 0.0, MOST_QUEUED_S)),
        source=str(source),
    )


def widened(curve: Curve, doubt: float) -> Curve:
    """Return the curve with intervals wider by what else is not known, half of a 90 % interval in log-seconds."""
    if doubt <= 0:
        return curve
    return replace(
        curve,
        ttft_width=np.minimum(np.hypot(curve.ttft_width, doubt), MOST_WIDTH),
        tpot_width=np.minimum(np.hypot(curve.tpot_width, doubt), MOST_WIDTH),
    )


class Shelf:
    """The curves of many replicas, by replica and model; `UNKNOWN_ROW` is the composite.

    A row stays where it is until it is dropped, and is the composite then: an index that a caller kept reads nothing
    wrong, only nothing known. `version` tells a caller when to ask for rows again. Where the shelf is full the curve
    that was put longest ago goes.
    """

    def __init__(self, *, most: int = ROWS, unknown: Curve | None = None) -> None:
        """`most`: rows, the composite's among them. `unknown`: what stands for a replica without a curve."""
        self._most = most
        self._rows: dict[tuple[PeerId, str], int] = {}  # put longest ago first
        self._models: dict[PeerId, set[str]] = {}
        self._free: list[int] = []
        self._ttft: _Complex = np.zeros((0, _P + 1, _L + 1), dtype=np.complex128)
        self._tpot: _Complex = np.zeros((0, _L + 1), dtype=np.complex128)
        self._queued = np.zeros(0)
        self._sources: list[str] = []
        self.version = 0
        self._unknown = unknown or composite()
        self._add(1)
        self._flatten()

    def __len__(self) -> int:
        """Return how many curves are known, the composite not counted."""
        return len(self._rows)

    def put(self, replica: PeerId, model: str, curve: Curve) -> None:
        """Keep a replica's curve for a model, instead of the one before."""
        key = (replica, model)
        row = self._rows.pop(key, None)
        if row is None:
            row = self._row()
            self._models.setdefault(replica, set()).add(model)
            self.version += 1
        self._rows[key] = row
        self._write(row, curve)

    def drop(self, replica: PeerId, model: str | None = None) -> None:
        """Forget a replica's curve for a model, or all of them."""
        for each in [model] if model is not None else list(self._models.get(replica, ())):
            if (row := self._rows.pop((replica, each), None)) is None:
                continue
            self._models[replica].discard(each)
            if not self._models[replica]:
                del self._models[replica]
            self._write(row, self._unknown)
            self._free.append(row)
            self.version += 1

    def rows(self, replicas: Sequence[PeerId], model: str) -> Rows:
        """Return the row of each replica, shape (n,). A caller keeps them while `version` stays."""
        found = self._rows
        return np.array([found.get((replica, model), UNKNOWN_ROW) for replica in replicas], dtype=np.intp)

    def source(self, row: int) -> str:
        """Return who says what a row says: one of `SOURCES`."""
        return self._sources[row]

    def sources(self) -> Mapping[str, int]:
        """Return how many curves there are of each source."""
        held = [self._sources[row] for row in self._rows.values()]
        return {source: held.count(source) for source in SOURCES}

    def ttft(
        self, rows: Rows, prompt_tokens: Floats | float, load: Floats | float, queued_tokens: Floats | float = 0.0
    ) -> tuple[Floats, Floats]:
        """Return the time to the first token and half widths of its 90 % interval, log-seconds, shape (n,).

        Args:
            rows: of `rows`, shape (n,).
            prompt_tokens: uncached ones, of each replica or of all; so are `load`, requests outstanding with the one
                that is asked about, and `queued_tokens`, beyond what the load stands for.
        """
        places = np.empty((2, len(rows)))
        places[0], places[1] = prompt_tokens, load
        at = _place(places, _LEAST, _MOST, _FIRST, _STEP)
        index: Rows = rows * _CELL + at[0] * (_L + 1) + at[1] + _CORNERS
        corners: _Complex = self._flat_ttft.take(index)  # (prompt, load, n)
        by_load = corners[0]
        by_load += (corners[1] - by_load) * places[0]
        found = by_load[0]
        found += (by_load[1] - found) * places[1]
        log_ttft, width = found.real, found.imag
        if not isinstance(queued_tokens, float) or queued_tokens:
            log_ttft = np.log(np.exp(log_ttft) + self._queued.take(rows) * queued_tokens)
        return log_ttft, width

    def tpot(self, rows: Rows, load: Floats | float) -> tuple[Floats, Floats]:
        """Return the time per output token and half widths of its 90 % interval, log-seconds, shape (n,)."""
        place = np.empty(len(rows))
        place[:] = load
        first = rows * (_L + 1) + _place(place, LOADS[0], LOADS[-1], _LOAD_FIRST, _LOAD_STEP)
        found = self._flat_tpot.take(first)
        found += (self._flat_tpot.take(first + 1) - found) * place
        return found.real, found.imag

    def _row(self) -> int:
        """Return a row that is free now."""
        if len(self._rows) >= self._most - 1:
            self.drop(*next(iter(self._rows)))
        if not self._free:
            self._add(min(max(len(self._queued), 16), self._most - len(self._queued)))
        return self._free.pop()

    def _add(self, rows: int) -> None:
        """Make room for so many more; each is the composite until a curve is put there."""
        start = len(self._queued)
        self._ttft = np.concatenate([self._ttft, np.zeros((rows, *self._ttft.shape[1:]), dtype=np.complex128)])
        self._tpot = np.concatenate([self._tpot, np.zeros((rows, *self._tpot.shape[1:]), dtype=np.complex128)])
        self._queued = np.concatenate([self._queued, np.zeros(rows)])
        self._sources += [COMPOSITE] * rows
        self._flatten()
        for row in range(start, start + rows):
            self._write(row, self._unknown)
        self._free += [row for row in reversed(range(start, start + rows)) if row != UNKNOWN_ROW]

    def _flatten(self) -> None:
        self._flat_ttft, self._flat_tpot = self._ttft.reshape(-1), self._tpot.reshape(-1)  # views

    def _write(self, row: int, curve: Curve) -> None:
        curve = _on_our_grid(curve)
        ttft, tpot = self._ttft[row], self._tpot[row]
        ttft.real[:-1, :-1], ttft.imag[:-1, :-1] = curve.log_ttft, curve.ttft_width
        tpot.real[:-1], tpot.imag[:-1] = curve.log_tpot, curve.tpot_width
        ttft[-1], ttft[:, -1], tpot[-1] = ttft[-2], ttft[:, -2], tpot[-2]
        self._queued[row] = curve.queued_token_s
        self._sources[row] = curve.source


_P, _L = len(PROMPTS), len(LOADS)
_LOAD_FIRST, _LOAD_STEP = float(np.log2(LOADS[0])), float(np.log2(LOADS[1] / LOADS[0]))
# Of prompts and loads, shape (2, 1): the ends of the grid, where it begins on its scale, and its step there.
_LEAST, _MOST = (np.array([[PROMPTS[end]], [LOADS[end]]], dtype=np.float64) for end in (0, -1))
_FIRST: Final = np.log2(_LEAST)
_STEP: Final = np.array([[np.log2(PROMPTS[1] / PROMPTS[0])], [_LOAD_STEP]])
_CELL: Final = (_P + 1) * (_L + 1)  # values of one row in the flat array
_CORNERS: Final = np.array([[[0], [1]], [[_L + 1], [_L + 2]]], dtype=np.intp)


def _place(
    values: Floats, least: Floats | float, most: Floats | float, first: Floats | float, step: Floats | float
) -> Rows:
    """Return the grid point below each value; the values become how far it is from there to the next, 0 to 1."""
    np.fmax(values, least, out=values)  # of what is not a number: the least
    np.minimum(values, most, out=values)
    np.log2(values, out=values)
    values -= first
    values /= step
    below = values.astype(np.intp)
    values -= below
    return below


def _on_our_grid(curve: Curve) -> Curve:
    if np.array_equal(curve.prompts, PROMPTS) and np.array_equal(curve.loads, LOADS):
        return curve
    prompts, loads = np.log(PROMPTS), np.log(LOADS)

    def along_loads(values: Floats) -> Floats:
        return np.interp(loads, np.log(curve.loads), values)

    def along_both(values: Floats) -> Floats:
        by_load = np.apply_along_axis(along_loads, 1, values)
        return np.apply_along_axis(lambda column: np.interp(prompts, np.log(curve.prompts), column), 0, by_load)

    return Curve(
        prompts=np.array(PROMPTS, dtype=np.float64),
        loads=np.array(LOADS, dtype=np.float64),
        log_ttft=along_both(curve.log_ttft),
        ttft_width=along_both(curve.ttft_width),
        log_tpot=along_loads(curve.log_tpot),
        tpot_width=along_loads(curve.tpot_width),
        queued_token_s=curve.queued_token_s,
        source=curve.source,
    )


def _side(said: Mapping[str, Any], name: str) -> Floats:
    held: object = said.get(name)
    if not _is_list(held) or not 1 <= len(held) <= GRID_MOST:
        raise ValueError(f"{name}: a list of 1 to {GRID_MOST} numbers belongs there")
    side = _numbers(said, name, (len(held),), 1.0, 1e9)
    if np.any(np.diff(side) <= 0):
        raise ValueError(f"{name}: it must rise")
    return side


def _is_list(held: object) -> TypeGuard[list[Any]]:
    return isinstance(held, list)


def _numbers(said: Mapping[str, Any], name: str, shape: tuple[int, ...], least: float, most: float) -> Floats:
    """Return a part as an array; a list of numbers in the order of the array, rows one after the other."""
    held: object = said.get(name)
    flat = held if _is_list(held) else [held]
    if not all(type(value) in (int, float) for value in flat):
        raise ValueError(f"{name}: numbers belong there")
    if len(flat) != int(np.prod(shape)):
        raise ValueError(f"{name}: {len(flat)} numbers where the grid has {int(np.prod(shape))}")
    try:
        found = np.array(flat, dtype=np.float64).reshape(shape)
    except OverflowError:
        raise ValueError(f"{name}: a number is too large") from None
    if not np.all((found >= least) & (found <= most)) or np.any(np.isinf(found)):  # NaN compares false
        raise ValueError(f"{name}: from {least:g} to {most:g} belongs there")
    return found
