"""True speeds for a simulated swarm: what was measured of one model on machines, by concurrency.

Knows raw rows of the observation tables; knows no learner, and never what a learner says. A `Cell` is one (model,
hardware, strategy) as it was measured, drawn out to every number of requests that may be answered together.

`inferencex_measured` has TTFT and TPOT by concurrency for prompts of about 1,000 and about 8,000 tokens: both are taken
as they are, between the measured concurrencies on log scales, between the prompts on a straight line. Points where the
first token took ten times longer than in the same cell at its best are left out: there clients queued before an engine
that was full, and queueing is the simulation's own business. The highest concurrency left is the cell's cap.

`argonne_measured` has the time of whole batches, prompts as long as answers, so the share of prefill is not measured.
It is taken from the machine's arithmetic, used as well as its memory is measured to be used by decoding alone (seven
tenths of that share, six tenths at most: what FLOP shares of prefill are published to be); the rest is decode.
llama.cpp is left out: its batches take no longer than single requests, so they are no batches.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from node.cli.learning import read_rows

Row: TypeAlias = Mapping[str, Any]
Floats: TypeAlias = NDArray[np.float64]

MOST_TOGETHER: Final = 128  # requests of one node: above it no volunteer's engine is set
SHORT, LONG = (1000, 1024), (8000, 8192)  # prompt lengths that InferenceX measures at
QUEUED: Final = 10.0  # times the cell's best TTFT: the clients queued
FEWEST: Final = 3  # concurrencies, for a curve
LARGEST: Final = 8  # devices: a volunteer's machine is no rack
CACHE_SHARE: Final = 0.9  # of the memory that vLLM takes, less the weights, is left for the prefix cache
LEAST_CACHE: Final = 8192  # tokens

USUAL_BYTES_PER_S: Final = 2e12  # of a device's memory: an A100's, whose hour is taken to cost 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """A sort of swarm: the rows that its machines are drawn from.

    Attributes:
        table: of observations. models: one for each swarm; seeds take them in turn.
        hardware, engines, devices: what machines are left to these; empty: no matter which.
    """

    table: str
    models: tuple[str, ...]
    hardware: frozenset[str] = frozenset()
    engines: frozenset[str] = frozenset()
    devices: frozenset[int] = frozenset()

    def model(self, seed: int) -> str:
        """Return the model of a seed's swarm."""
        return self.models[seed % len(self.models)]

    def has(self, row: Row) -> bool:
        """Tell whether a machine of this row may be in it."""
        if row["strategy.disaggregated"] or int(row["strategy.devices"]) > LARGEST:
            return False
        wanted = (
            (self.hardware, row["hardware.name"]),
            (self.engines, row["strategy.engine"]),
            (self.devices, int(row["strategy.devices"])),
        )
        return all(not some or value in some for some, value in wanted)


MIXES: Final[Mapping[str, Mix]] = {
    # Strangers' machines: five families of accelerators under four engines.
    "volunteers": Mix(
        table="argonne_measured.parquet",
        models=("meta-llama/Meta-Llama-3-8B", "mistralai/Mistral-7B-v0.1", "meta-llama/Llama-2-7b-hf"),
    ),
    # One owner's racks of large machines, of two generations and every size.
    "clouds": Mix(
        table="inferencex_measured.parquet",
        models=("openai/gpt-oss-120b", "meta-llama/Llama-3.1-70B", "deepseek-ai/DeepSeek-R1"),
    ),
    # One owner's fleet of machines as equal as they come: there speeds tell nobody where to go, and load does.
    "datacentre": Mix(
        table="inferencex_measured.parquet",
        models=("meta-llama/Llama-3.1-70B",),
        hardware=frozenset({"h100_sxm", "h200_sxm"}),
        engines=frozenset({"vllm"}),
        devices=frozenset({4}),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cell:
    """One model on one machine under one strategy, as it truly is.

    Attributes:
        columns: what an advert would say of it: model.*, hardware.*, strategy.*.
        tpot: seconds per output token when n are at the engine, by n, shape (MOST_TOGETHER + 1,); [0] is [1].
        first: seconds to the first token of an empty prompt, likewise; token: what each uncached prompt token adds.
        turn: seconds that each uncached prompt token keeps the engine from the next prompt.
        cap: requests that it answers together.
        cache: tokens that its prefix cache holds.
        hour: what an hour of one of its devices usually costs; 1 for an A100.
    """

    name: str
    family: str
    devices: int
    columns: Mapping[str, object]
    tpot: Floats
    first: Floats
    token: Floats
    turn: float
    cap: int
    cache: int
    hour: float = 1.0

    def capacity(self, prompt: float, output: float) -> float:
        """Return the requests per second that it can answer of this mean length, in the steady state."""
        n = np.arange(1, self.cap + 1)
        each = self.first[n] + self.token[n] * prompt + self.tpot[n] * output
        return float(min(1.0 / (self.turn * prompt), (n / each).max()))


def cells(folder: Path, mix: str, seed: int) -> list[Cell]:
    """Return the cells of one swarm: those of one model of the mix."""
    sort = MIXES[mix]
    model = sort.model(seed)
    rows = [row for row in read_rows(folder / sort.table) if row["model.name"] == model]
    by_cell: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if sort.has(row):
            by_cell[str(row["hardware.name"]), str(row["strategy.name"])].append(row)
    made = _measured_apart if sort.table.startswith("inferencex") else _measured_whole
    return [cell for key, several in sorted(by_cell.items()) if (cell := made(" ".join(key), several)) is not None]


def _measured_apart(name: str, rows: Sequence[Row]) -> Cell | None:
    """Return a cell whose first and later tokens were timed each by themselves."""
    ttft: dict[str, dict[float, list[float]]] = {"short": defaultdict(list), "long": defaultdict(list)}
    tpot: defaultdict[float, list[float]] = defaultdict(list)
    for row in rows:
        kind = {**dict.fromkeys(SHORT, "short"), **dict.fromkeys(LONG, "long")}.get(int(row["workload.prompt_tokens"]))
        if kind is not None:
            ttft[kind][float(row["workload.concurrency"])].append(float(row["outcome.ttft_mean_s"]))
            if kind == "short":
                tpot[float(row["workload.concurrency"])].append(float(row["outcome.tpot_mean_s"]))
    short, long = (_unqueued(ttft[kind]) for kind in ("short", "long"))
    if len(short) < FEWEST or len(long) < FEWEST:
        return None
    together = _together()
    one, eight = _drawn_out(short, together), _drawn_out(long, together)
    token = np.maximum(eight - one, 0.05 * one) / (LONG[1] - SHORT[1])
    first = np.maximum(one - token * SHORT[1], 0.2 * one)
    cap = min(int(max(short)), MOST_TOGETHER)
    each = {c: float(np.median(values)) for c, values in tpot.items() if c in short}
    return _cell(name, rows[0], _drawn_out(each, together), first, token, float(token[1]), cap)


def _measured_whole(name: str, rows: Sequence[Row]) -> Cell | None:
    """Return a cell of which whole batches were timed."""
    row = rows[0]
    if str(row["strategy.engine"]) == "llama.cpp":
        return None
    devices, active = float(row["strategy.devices"]), float(row["model.active_parameters"])
    step: defaultdict[float, dict[int, float]] = defaultdict(dict)  # seconds per output token, prefill and all
    for each in rows:
        length = int(each["workload.output_tokens"])
        step[float(each["workload.concurrency"])][length] = float(each["outcome.latency_mean_s"]) / length
    if len(step) < FEWEST or 1.0 not in step:
        return None
    alone = min(step[1.0].values())
    read = 2 * active / (float(row["hardware.spec_bytes_per_s"]) * devices)  # s: the weights in 16 bits, once
    used = float(np.clip(0.7 * read / alone, 0.02, 0.6))
    turn = 2 * active / (float(row["hardware.spec_flops_bf16"]) * devices * used)
    tpot: dict[float, float] = {}
    for batch, by_length in step.items():
        chat = [value for length, value in by_length.items() if length in (512, 1024)] or list(by_length.values())
        whole = float(np.mean(chat))
        tpot[batch] = max(whole - batch * turn, 0.5 * whole)
    each_token = _drawn_out(tpot, _together())
    cap = min(int(max(step)), MOST_TOGETHER)
    return _cell(name, row, each_token, each_token.copy(), np.full_like(each_token, turn), turn, cap)


def _cell(name: str, row: Row, tpot: Floats, first: Floats, token: Floats, turn: float, cap: int) -> Cell:
    devices = int(row["strategy.devices"])
    bits = {"fp8": 1.0, "fp4": 0.5, "int4": 0.5}.get(str(row["strategy.precision"]), 2.0)
    free = CACHE_SHARE * devices * float(row["hardware.memory_bytes"]) - bits * float(row["model.parameters"])
    return Cell(
        name=name,
        family=str(row["hardware.family"]),
        devices=devices,
        columns={key: value for key, value in row.items() if key.startswith(("model.", "hardware.", "strategy."))}
        | {"hardware.count": devices},
        tpot=tpot,
        first=first,
        token=token,
        turn=turn,
        cap=cap,
        cache=max(int(free / float(row["model.kv_bytes_per_token"])), LEAST_CACHE),
        hour=float(row["hardware.spec_bytes_per_s"]) / USUAL_BYTES_PER_S,
    )


def _together() -> Floats:
    return np.maximum(np.arange(MOST_TOGETHER + 1, dtype=np.float64), 1.0)


def _unqueued(points: Mapping[float, Sequence[float]]) -> dict[float, float]:
    """Return the median of each concurrency, where clients did not queue."""
    found = {c: float(np.median(values)) for c, values in points.items() if c <= MOST_TOGETHER}
    best = min(found.values(), default=0.0)
    return {c: value for c, value in found.items() if value <= QUEUED * best}


def _drawn_out(points: Mapping[float, float], together: Floats) -> Floats:
    """Return values for every number of requests: between points on log scales, rising, level outside."""
    at = sorted(points)
    values = np.maximum.accumulate([points[c] for c in at])
    return np.exp(np.interp(np.log(together), np.log(at), np.log(values)))
