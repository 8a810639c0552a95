"""Peers' adverts as rows that a learner can be asked about: which model, on which machine, under which strategy.

Knows adverts, what records tell of models and machines, and the table's names; knows no learner, no file and no clock.
A row is made as rows of this node's own candidates are (`node.core.question`), so that what was learnt applies; peers
that are alike have equal rows, and are asked about once.

Theory. An advert names a model and devices; what these can do is in signed records: the model's architecture, the
machine's micro-benchmark. All of it is somebody's word. What several say counts before what one says, what this node
measured before everybody's; nobody's machine is taken to be much faster than others' machines of the same name; and
what only the peer itself says, or nobody, widens the interval (`Cell.doubt`), so that a router is quick to believe what
it sees instead. What stands in the advert and in no record is a name: physics then speaks of a machine that it assumes.
"""

import re
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from math import hypot, log
from typing import Any, Final, TypeAlias

from node.core.observation import Row, to_line, to_wire_strategy
from node.core.own_records import Setting
from node.core.question import question
from node.core.strategy import DEFAULT, InvalidStrategy, Strategy, from_plain
from protocol import limits
from protocol import performance as wire
from protocol.advert import Advert, ModelOffer
from protocol.advert import Hardware as Claimed
from protocol.errors import LocalProtocolError
from protocol.ids import ContentDigest, PeerId
from protocol.schema import UNKNOWN

ROOMS: Final = ("model.", "hardware.", "strategy.")
AUTHORS: Final = 2048  # of whom settings are kept: as many as the book has peers
SETTINGS: Final = 4  # of one author, a machine with a few models: 3 KB each, and identities cost nothing
SETTINGS_BELIEVED: Final = 64  # of one that counts more
CAP_NUM, CAP_DEN = (
    5,
    4,
)  # nobody is taken to be more than a quarter faster than others with the same device: boost, cold

# How far off a forecast may be beside its own interval, as half of one of 90 %, in log-seconds; added in quadrature.
ALONE: Final = 0.5  # the peer's own word of its machine, and nobody else's of that device: a factor of 1.6
SAME_DEVICE: Final = 0.25  # others measured that device: drivers, clocks and cooling differ
NAME_ONLY: Final = 1.6  # a name that no record knows: a factor of five
MODEL_ALONE: Final = 0.3  # the peer's own word of its model
MODEL_BY_NAME: Final = 0.5  # its size read out of its name
MODEL_UNKNOWN: Final = 1.6
COUNT_ALONE: Final = 0.5  # of the logarithm of how many devices it says it uses, where no record of it shows as many
STRATEGY_UNKNOWN: Final = 0.3  # the advert has none that this version knows

OTHERS, BELIEVED, OURS = 0, 1, 2  # how much an author's word counts; each before all of the lower ones
RANKS: Final = 3

_SIZE: Final = re.compile(r"(?<![A-Za-z0-9.])(\d{1,4}(?:\.\d{1,3})?)([bBmM])(?![A-Za-z0-9])")
_ACTIVE: Final = re.compile(r"(?<![A-Za-z0-9.])[aA](\d{1,3}(?:\.\d{1,3})?)[bB](?![A-Za-z0-9])")
_FORMAT: Final = re.compile(r"(?<![A-Za-z0-9])(awq|gptq|int4|int8|fp8|nvfp4|mxfp4)(?![A-Za-z0-9])", re.IGNORECASE)
_MILLION: Final = 1_000_000

Key: TypeAlias = bytes
_Device: TypeAlias = tuple[str, str | None, str | None]  # its name, platform and partition


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A model on a machine under a strategy.

    Attributes:
        row: columns of `ROOMS`.
        doubt: half width of what is not known of it, log-seconds, beside what a learner says.
        key: equal for equal rows.
    """

    row: Row
    doubt: float
    key: Key


@dataclass(frozen=True, slots=True)
class _Machine:
    hardware: wire.Hardware
    benchmark: wire.Benchmark


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """What one author says: settings, the newest first, and of these the facts of models and figures of devices."""

    rank: int
    settings: tuple[Setting, ...]
    models: Mapping[bytes | str, wire.Model]
    figures: Mapping[_Device, Mapping[str, int]]


class Known:
    """What records tell of models and machines, by who says it. `version` changes with what is known."""

    def __init__(self) -> None:
        self._said: dict[PeerId, _Said] = {}  # heard longest ago first
        # Counted when somebody is heard, so that a cell costs the same however many have that model or device.
        self._models: dict[bytes | str, dict[wire.Model, list[int]]] = {}  # by digest, and by name: voices by rank
        self._readings: dict[_Device, dict[str, tuple[list[int], ...]]] = {}  # of each figure: sorted, by rank
        self.version = 0

    def __len__(self) -> int:
        return len(self._said)

    def hear(self, author: PeerId, settings: Sequence[Setting], rank: int = OTHERS) -> None:
        """Take in what an author's records say, the newest first, instead of what it said before.

        Where there is no room for another, who counts least and was heard longest ago makes way; never one who counts
        more than the newcomer.
        """
        kept = tuple(dict.fromkeys(settings))[: SETTINGS if rank == OTHERS else SETTINGS_BELIEVED]
        before = self._said.get(author)
        if before is not None and (before.settings, before.rank) == (kept, rank):
            return
        if before is None and len(self._said) >= AUTHORS:
            least = min(self._said, key=lambda each: self._said[each].rank)
            if self._said[least].rank > rank:
                return
            self.forget(least)
        self.forget(author)
        said = self._said[author] = _said(kept, rank)
        for key, facts in said.models.items():
            self._models.setdefault(key, {}).setdefault(facts, [0] * RANKS)[rank] += 1
        for device, figures in said.figures.items():
            readings = self._readings.setdefault(device, {})
            for name, value in figures.items():
                insort(readings.setdefault(name, tuple([] for _ in range(RANKS)))[rank], value)
        self.version += 1

    def forget(self, author: PeerId) -> None:
        """Forget what an author said."""
        said = self._said.pop(author, None)
        if said is None:
            return
        for key, facts in said.models.items():
            parties = self._models[key]
            parties[facts][said.rank] -= 1
            _clear(parties, facts)
            _clear(self._models, key)
        for device, figures in said.figures.items():
            readings = self._readings.get(device, {})
            for name, value in figures.items():
                held = readings[name][said.rank]
                del held[bisect_left(held, value)]
                _clear(readings, name)
            _clear(self._readings, device)
        self.version += 1

    def cell(self, advert: Advert, offer: ModelOffer) -> Cell:
        """Return the cell of one model of a peer's advert."""
        author = advert.stamp.author
        strategy, of_strategy = _strategy(advert)
        model, of_model = self._model(offer, author)
        machine, of_machine = self._machine(advert.hardware, author, strategy)
        engine = advert.engine
        setting = Setting(
            model=model,
            hardware=machine.hardware,
            benchmark=machine.benchmark,
            engine=wire.Engine(
                name="unknown" if engine is None else engine.name, version=None if engine is None else engine.version
            ),
        )
        count = machine.hardware.count
        shown = max((each.hardware.count for each in self._settings(author)), default=1)
        of_count = COUNT_ALONE * log(count) if count > shown else 0.0
        return _cell(setting, strategy, hypot(of_strategy, of_model, of_machine, of_count))

    def _settings(self, author: PeerId) -> tuple[Setting, ...]:
        said = self._said.get(author)
        return () if said is None else said.settings

    def _model(self, offer: ModelOffer, author: PeerId) -> tuple[wire.Model, float]:
        """Return a model's facts, in the offer's name and context, and what is to be doubted."""
        by_digest = None if offer.digest is None else offer.digest.digest
        facts, alone = self._vote(by_digest if by_digest in self._models else offer.name, author)
        doubt = MODEL_ALONE if alone else 0.0
        if facts is None:
            facts = model_by_name(offer.name)
            doubt = MODEL_UNKNOWN if facts.parameters is None else MODEL_BY_NAME
        said = replace(facts, weights=wire.REAL, name=offer.name, digest=offer.digest)
        return replace(said, max_length=offer.max_length or facts.max_length), doubt

    def _vote(self, key: bytes | str | None, author: PeerId) -> tuple[wire.Model | None, bool]:
        """Return the facts that count most, and whether the peer alone says so.

        Highest rank first, then how many of any rank say the same.
        """
        parties = self._models.get(key, {}) if key is not None else {}
        own = self._said.get(author)
        mine = own.models.get(key) if own is not None and key is not None else None
        best: tuple[int, int, str] | None = None
        chosen: wire.Model | None = None
        for facts, voices in parties.items():
            others = list(voices)
            if own is not None and facts == mine:
                others[own.rank] -= 1
            if any(others):
                weight = (max(rank for rank, count in enumerate(others) if count), sum(others), repr(facts))
                if best is None or weight > best:
                    best, chosen = weight, facts
        return (mine, mine is not None) if chosen is None else (chosen, False)

    def _machine(self, claimed: Claimed | None, author: PeerId, strategy: Strategy) -> tuple[_Machine, float]:
        """Return a peer's machine as far as it is known, and what is to be doubted."""
        names = _names(claimed)
        own = next((each for each in self._settings(author) if each.hardware.name in names), None)
        if own is not None:
            hardware = replace(own.hardware, count=_devices(claimed, own.hardware.name, strategy))
            others = self._others(hardware, author)
            own_word = _figures(own.benchmark)
            if not own_word:
                return _Machine(hardware, _benchmark(others)), SAME_DEVICE if others else NAME_ONLY
            return _Machine(hardware, _benchmark(capped(own_word, others))), 0.0 if others else ALONE
        if claimed is None or not names:
            return _Machine(wire.Hardware(name="unnamed", count=1), wire.Benchmark()), NAME_ONLY
        hardware = _as_claimed(claimed, names[0], strategy)
        others = self._others(hardware, author)
        return _Machine(hardware, _benchmark(others)), SAME_DEVICE if others else NAME_ONLY

    def _others(self, hardware: wire.Hardware, author: PeerId) -> dict[str, int]:
        """Return what others' machines with that device read: of each figure the median over those who count most."""
        device = _device(hardware)
        said = self._said.get(author)
        own: Mapping[str, int] = {} if said is None else said.figures.get(device, {})
        found: dict[str, int] = {}
        for name, by_rank in self._readings.get(device, {}).items():
            for rank in range(RANKS - 1, -1, -1):
                mine = own.get(name) if said is not None and said.rank == rank else None
                if (value := _median_without(by_rank[rank], mine)) is not None:
                    found[name] = value
                    break
        return found


def _said(settings: Sequence[Setting], rank: int) -> "_Said":
    """Sort what an author says; of one model or device the newest word counts."""
    models: dict[bytes | str, wire.Model] = {}
    figures: dict[_Device, Mapping[str, int]] = {}
    for setting in reversed(settings):
        facts = replace(setting.model, weights=wire.REAL, name=None, digest=None)
        models.update(dict.fromkeys(_keys(setting.model), facts))
        figures[_device(setting.hardware)] = _figures(setting.benchmark)
    return _Said(rank=rank, settings=tuple(settings), models=models, figures=figures)


def _median_without(values: Sequence[int], one: int | None) -> int | None:
    """Return the lower median of sorted values, one of them left out; None where no other is left."""
    count = len(values) - (one is not None)
    if count <= 0:
        return None
    middle = (count - 1) // 2
    return values[middle + (one is not None and bisect_left(values, one) <= middle)]


def setting_of(body: wire.Performance) -> Setting:
    """Return what a record was measured on."""
    return Setting(model=body.model, hardware=body.hardware, benchmark=body.benchmark, engine=body.engine)


def own_cell(setting: Setting, strategy: Strategy) -> Cell:
    """Return the cell of this node's own engine, of which nothing is to be doubted."""
    return _cell(setting, strategy, 0.0)


def capped(figures: Mapping[str, int], others: Mapping[str, int]) -> dict[str, int]:
    """Return what a machine reads of itself, nothing much better than what others read of the same device.

    Rates and times by the ends of their names, as `protocol.performance.Benchmark` has them.
    """
    found: dict[str, int] = {}
    for name, value in figures.items():
        if (known := others.get(name)) is None:
            found[name] = value
        elif name.endswith("_ns"):
            found[name] = max(value, known * CAP_DEN // CAP_NUM)
        else:
            found[name] = min(value, known * CAP_NUM // CAP_DEN)
    return found


def model_by_name(name: str) -> wire.Model:
    """Return what a model's name tells: `Qwen3-30B-A3B-FP8` has 30 billion parameters, of which a token meets three."""
    plain = name.rsplit("/", 1)[-1]
    size, active, form = _SIZE.search(plain), _ACTIVE.search(plain), _FORMAT.search(plain)
    parameters = None
    if size is not None:
        parameters = _counted(float(size[1]) * _MILLION * (1000 if size[2] in "bB" else 1))
    return wire.Model(
        weights=wire.REAL,
        name=name,
        parameters=parameters,
        active_parameters=None if active is None else _counted(float(active[1]) * 1000 * _MILLION),
        weight_dtype=None if form is None else form[1].lower(),
    )


def _counted(value: float) -> int | None:
    return round(value) if 1 <= value <= limits.COUNT_MAX else None


def _cell(setting: Setting, strategy: Strategy, doubt: float) -> Cell:
    (row,) = question(setting, None, [strategy])
    kept = {name: value for name, value in row.items() if name.startswith(ROOMS)}
    return Cell(row=kept, doubt=doubt, key=sha256(to_line(dict(sorted(kept.items())))).digest())


def _strategy(advert: Advert) -> tuple[Strategy, float]:
    """Return what the engine works under, where it is a strategy that this version knows and records can tell of."""
    if advert.strategy is None:
        return DEFAULT, STRATEGY_UNKNOWN
    try:
        strategy = from_plain(advert.strategy)
        to_wire_strategy(strategy)
    except (InvalidStrategy, LocalProtocolError):
        return DEFAULT, STRATEGY_UNKNOWN
    return strategy, 0.0


def _names(claimed: Claimed | None) -> tuple[str, ...]:
    """Return the devices that an engine may run on, the likeliest first: accelerators, then the processor."""
    if claimed is None:
        return ()
    cpu = () if claimed.cpu_name is None else (claimed.cpu_name,)
    return (*(each.name for each in claimed.accelerators), *cpu)


def _devices(claimed: Claimed | None, name: str, strategy: Strategy) -> int:
    """Return how many devices the engine uses: as vLLM takes them; all of a kind where it is configured elsewhere."""
    there = next((each.count for each in claimed.accelerators if each.name == name), 1) if claimed else 1
    return there if strategy.external else min(strategy.devices, there)


def _as_claimed(claimed: Claimed, name: str, strategy: Strategy) -> wire.Hardware:
    accelerator = next((each for each in claimed.accelerators if each.name == name), None)
    return wire.Hardware(
        name=name,
        count=_devices(claimed, name, strategy),
        platform="cpu" if accelerator is None else "cuda",
        memory_bytes=claimed.memory_bytes if accelerator is None else accelerator.memory_bytes,
        cpu_name=claimed.cpu_name,
        cpu_cores=claimed.cpu_cores,
        host_memory_bytes=claimed.memory_bytes,
    )


def _figures(benchmark: wire.Benchmark) -> dict[str, int]:
    """Return the figures that a benchmark has, without their spreads."""
    return {name: value for name in _FIGURES if (value := getattr(benchmark, name))}


def _benchmark(figures: Mapping[str, int]) -> wire.Benchmark:
    known: dict[str, Any] = dict(figures)
    return wire.Benchmark(**known)


_FIGURES: Final = tuple(
    each.name for each in fields(wire.Benchmark) if each.name != UNKNOWN and "_mad_" not in each.name
)


def _keys(model: wire.Model) -> Iterable[bytes | str]:
    digest: ContentDigest | None = model.digest
    if digest is not None:
        yield digest.digest
    if model.name is not None:
        yield model.name


def _device(hardware: wire.Hardware) -> _Device:
    return hardware.name, hardware.platform, hardware.partition


def _clear(held: dict[Any, Any], key: object) -> None:
    """Drop what has nothing in it any more: no entry, or none but naughts and empty lists."""
    if key in held and not any(held[key]):
        del held[key]
