"""The MetaInf head: sentences about workload, model, hardware and strategy, embedded, through a transformer to a time.

A replica of MetaInf (arXiv 2508.09194) as far as it is published: embeddings of texts in, predicted performance of each
method out, "a transformer regressor trained on historical records". Its architecture and templates are not public; the
choices here are ours, and none was made to hold it back. Knows no physics and no number that is not in a text.

Trained to its plateau: a tenth of the contexts is held out; when their error has not fallen for PATIENCE epochs the
learning rate is cut, after CUTS cuts training ends, and the best weights seen are kept. `curve` is the whole story.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from node.learner.head import Prediction
from node.learner.table import Floats, Ints, Table
from node.learner.texts import PARTS, Embedder

if TYPE_CHECKING:
    import torch

HELD_OUT: Final = 0.1  # share of contexts that training stops by
PREDICT_ROWS: Final = 4096  # at once; 4096 rows of tokens take 25 MB
LEAST_CONTEXTS: Final = 10  # with fewer nothing can be held out, and training runs to its last epoch
SEED_END: Final = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How it is built and trained; the defaults are those of docs/learner.md's table.

    Attributes:
        width, layers, heads: of the transformer; its inner layer is twice as wide.
        batch: rows of a step. rate: AdamW's highest learning rate.
        epochs: at most. patience: epochs without a gain before the rate is cut. cuts: of the rate before the end.
        gain: the share by which an error must fall to count as progress.
    """

    width: int = 128
    layers: int = 2
    heads: int = 4
    dropout: float = 0.1
    batch: int = 256
    rate: float = 1e-3
    decay: float = 0.01
    epochs: int = 80
    patience: int = 4
    cuts: int = 3
    cut: float = 0.3
    gain: float = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One step of the learning curve: root mean squares of the error, in units of log-seconds."""

    trained: float
    held_out: float  # NaN where nothing is
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedMetaInf:
    """It has learnt.

    Attributes:
        curve: one entry for each epoch.
        plateau: whether training ended because nothing was gained any more; False where the epochs ran out.
    """

    curve: tuple[Epoch, ...]
    plateau: bool
    _net: "torch.nn.Module" = field(repr=False)
    _embedder: Embedder = field(repr=False)
    _scale: "_Scale" = field(repr=False)

    def predict(self, table: Table) -> Prediction:
        """Foretell rows: mean alone, as the published one does."""
        tokens = self._scale.tokens(self._embedder.parts(table.columns, table.rows))
        return Prediction(mean=self._scale.target_back(_forward(self._net, tokens)))


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaInfHead:
    """A head; `embedder` reads the texts."""

    embedder: Embedder
    settings: Settings = Settings()
    name: str = "metainf_replica"

    def fit(self, table: Table, target: Floats, weight: Floats, rng: np.random.Generator) -> FittedMetaInf:
        """Learn from rows; some ten seconds for ten thousand rows on a core.

        Raises:
            ImportError: torch is not installed.
        """
        held = held_out_rows(table.contexts, rng)
        tokens = self.embedder.parts(table.columns, table.rows)
        scale = _Scale.of(tokens[~held], target[~held], weight[~held])
        net, curve, plateau = _train(
            _Data(scale.tokens(tokens), scale.target(target), weight / weight.mean(), held), self.settings, rng
        )
        curve = tuple(
            Epoch(trained=step.trained * scale.spread, held_out=step.held_out * scale.spread, rate=step.rate)
            for step in curve
        )
        return FittedMetaInf(curve=curve, plateau=plateau, _net=net, _embedder=self.embedder, _scale=scale)


def held_out_rows(contexts: Ints, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return which rows belong to the contexts that training stops by; none where there are few."""
    each = np.unique(contexts)
    if len(each) < LEAST_CONTEXTS:
        return np.zeros(len(contexts), dtype=bool)
    return np.isin(contexts, rng.choice(each, size=max(int(len(each) * HELD_OUT), 1), replace=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """Centres and scales. Sentences of one part differ little as vectors; uncentred, training takes five times longer.

    One scale for a whole part, not one for each dimension: of ten models a dimension's spread says little.
    """

    centre: NDArray[np.float32]  # (1, parts, dimensions)
    width: NDArray[np.float32]  # (1, parts, 1)
    mean: float
    spread: float

    @staticmethod
    def of(tokens: NDArray[np.float32], target: Floats, weight: Floats) -> "_Scale":
        centre = tokens.mean(axis=0, keepdims=True)
        width = np.sqrt(((tokens - centre) ** 2).mean(axis=(0, 2), keepdims=True))
        mean = float(np.average(target, weights=weight))
        spread = float(np.sqrt(np.average((target - mean) ** 2, weights=weight)))
        return _Scale(centre=centre, width=np.where(width > 1e-6, width, 1.0), mean=mean, spread=spread or 1.0)

    def tokens(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        return (raw - self.centre) / self.width

    def target(self, raw: Floats) -> NDArray[np.float32]:
        return ((raw - self.mean) / self.spread).astype(np.float32)

    def target_back(self, scaled: NDArray[np.float32]) -> Floats:
        return scaled.astype(np.float64) * self.spread + self.mean


@dataclass(frozen=True, slots=True)
class _Data:
    tokens: NDArray[np.float32]
    target: NDArray[np.float32]
    weight: Floats
    held: NDArray[np.bool_]


def _network(dimensions: int, settings: Settings) -> "torch.nn.Module":
    import torch
    from torch import nn

    class Regressor(nn.Module):
        """Tokens (rows, parts, dimensions) to (rows,): a projection for each part, an encoder, a token that reads."""

        def __init__(self) -> None:
            super().__init__()
            width = settings.width
            self.project = nn.ModuleList(nn.Linear(dimensions, width) for _ in PARTS)
            self.reader = nn.Parameter(torch.zeros(1, 1, width))
            self.place = nn.Parameter(torch.randn(1, len(PARTS) + 1, width) * 0.02)
            layer = nn.TransformerEncoderLayer(
                width,
                settings.heads,
                2 * width,
                settings.dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            self.encoder = nn.TransformerEncoder(layer, settings.layers, enable_nested_tensor=False)
            self.norm = nn.LayerNorm(width)
            self.out = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))

        def forward(self, tokens: "torch.Tensor") -> "torch.Tensor":
            parts = torch.stack([project(tokens[:, at]) for at, project in enumerate(self.project)], dim=1)
            whole = torch.cat([self.reader.expand(len(parts), -1, -1), parts], dim=1) + self.place
            return self.out(self.norm(self.encoder(whole)[:, 0]))[:, 0]

    return Regressor()


def _train(
    data: _Data, settings: Settings, rng: np.random.Generator
) -> "tuple[torch.nn.Module, tuple[Epoch, ...], bool]":
    import torch

    with torch.random.fork_rng(devices=[]):  # dropout and first weights: the caller's luck, and nobody else's
        torch.manual_seed(int(rng.integers(SEED_END)))
        net = _network(data.tokens.shape[2], settings)
        curve, plateau = _epochs(net, data, settings, rng)
    return net.eval(), curve, plateau


def _epochs(
    net: "torch.nn.Module", data: _Data, settings: Settings, rng: np.random.Generator
) -> tuple[tuple[Epoch, ...], bool]:
    import torch

    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.rate, weight_decay=settings.decay)
    course = _Course(settings=settings)
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    steps = 0
    warm = max(int((~data.held).sum()) // settings.batch, 1)  # the first epoch warms up: attention starts badly else
    while not course.over:
        net.train()
        total, count = 0.0, 0.0
        for rows in _shuffled(np.flatnonzero(~data.held), settings.batch, rng):
            steps += 1
            for group in optimizer.param_groups:
                group["lr"] = course.rate * min(steps / warm, 1.0)
            loss = _loss(net, data, rows)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            total, count = total + loss.item() * len(rows), count + len(rows)
        if course.note(np.sqrt(total / count), _held_error(net, data)):
            kept = {name: value.clone() for name, value in net.state_dict().items()}
        elif course.just_cut:
            net.load_state_dict(kept)
    net.load_state_dict(kept)
    return tuple(course.curve), course.stale


@dataclass(slots=True, kw_only=True)
class _Course:
    """Where training stands: the rate, its cuts, and when it is over."""

    settings: Settings
    curve: list[Epoch] = field(default_factory=list)
    best: float = np.inf
    idle: int = 0
    cuts: int = 0
    just_cut: bool = False

    @property
    def rate(self) -> float:
        return self.settings.rate * self.settings.cut**self.cuts

    @property
    def stale(self) -> bool:
        return self.cuts > self.settings.cuts

    @property
    def over(self) -> bool:
        return self.stale or len(self.curve) >= self.settings.epochs

    def note(self, trained: float, held_out: float) -> bool:
        """Take an epoch's errors; tell whether its weights are the best so far."""
        self.curve.append(Epoch(trained=trained, held_out=held_out, rate=self.rate))
        error = trained if np.isnan(held_out) else held_out
        better, progress = error < self.best, error < self.best * (1 - self.settings.gain)
        self.best = min(self.best, error)
        self.idle = 0 if progress else self.idle + 1
        self.just_cut = self.idle >= self.settings.patience
        if self.just_cut:
            self.idle, self.cuts = 0, self.cuts + 1
        return better


def _shuffled(rows: Ints, size: int, rng: np.random.Generator) -> Iterator[Ints]:
    order = rng.permutation(rows)
    return (order[at : at + size] for at in range(0, len(order), size))


def _loss(net: "torch.nn.Module", data: _Data, rows: Ints) -> "torch.Tensor":
    import torch

    error = net(torch.from_numpy(data.tokens[rows])) - torch.from_numpy(data.target[rows])
    return (torch.from_numpy(data.weight[rows].astype(np.float32)) * error**2).mean()


def _held_error(net: "torch.nn.Module", data: _Data) -> float:
    if not data.held.any():
        return float("nan")
    error = _forward(net.eval(), data.tokens[data.held]) - data.target[data.held]
    return float(np.sqrt(np.average(error**2, weights=data.weight[data.held])))


def _forward(net: "torch.nn.Module", tokens: NDArray[np.float32]) -> NDArray[np.float32]:
    import torch

    with torch.inference_mode():
        parts = [
            net(torch.from_numpy(tokens[at : at + PREDICT_ROWS])).numpy() for at in range(0, len(tokens), PREDICT_ROWS)
        ]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)
