"""The MetaInf head: sentences about workload, model, hardware and strategy, embedded, through a transformer to a time.

A replica of MetaInf (arXiv 2508.09194) as far as it is published: embeddings of texts in, predicted performance of each
method out, "a transformer regressor trained on historical records". Its architecture and templates are not public; the
choices here are ours, and none was made to hold it back. Knows no physics and no number that is not in a text.

Trained to its plateau: the learning rate rises and falls once (Smith and Topin, 2018); a tenth of the contexts is held
out, and the weights that foretell them best are kept, wherever they came. `curves` is the whole story; whether more
steps would gain is what `tests/benchmarks/bench_replica.py` shows. Cutting the rate whenever the held-out error stood
still was tried: it ended after 25 to 39 epochs, and accuracy on an unseen GPU hung on the seed (.48 to .62).
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
DIRECTIONS: Final = 128  # of a part's sentences; a thousand workloads span 384, nearly all of it in these
LEAST_SIZE: Final = 0.01  # of a direction, against the largest
JITTERED: Final = ("model", "hardware")
WARM_UP: Final = 0.1  # share of the steps in which the rate rises
LEAST_EPOCHS: Final = 3
PLATEAU: Final = 0.01  # of the held-out error
SEED_END: Final = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How it is built and trained; the defaults are those of docs/learner.md's table.

    Attributes:
        width, layers, heads: of the transformer; its inner layer is twice as wide.
        batch: rows of a step. rate: AdamW's highest learning rate.
        steps: in which the rate rises and falls. patience: share of them without a gain before training ends early.
        members: networks that differ by their luck alone; their mean is taken. One alone is a lottery on hardware that
            it has not seen.
        jitter: noise on the sentences about model and hardware while training, in units of their spread: twenty points
            are learnt by heart otherwise.
    """

    width: int = 64
    layers: int = 2
    heads: int = 4
    dropout: float = 0.1
    batch: int = 256
    rate: float = 1e-3
    decay: float = 0.01
    steps: int = 1300
    patience: float = 0.4
    members: int = 3
    jitter: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One step of the learning curve: root mean squares of the error, in units of log-seconds."""

    trained: float
    held_out: float  # NaN where nothing is
    rate: float

    def times(self, spread: float) -> "Epoch":
        """Return the same with errors in other units."""
        return Epoch(trained=self.trained * spread, held_out=self.held_out * spread, rate=self.rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedMetaInf:
    """It has learnt.

    Attributes:
        curves: of each member, one entry for each epoch.
    """

    curves: tuple[tuple[Epoch, ...], ...]
    _nets: "tuple[torch.nn.Module, ...]" = field(repr=False)
    _embedder: Embedder = field(repr=False)
    _scale: "_Scale" = field(repr=False)

    @property
    def plateau(self) -> bool:
        """Whether the last tenth of the epochs gained each member less than PLATEAU."""
        return all(_flat(curve) for curve in self.curves)

    def predict(self, table: Table) -> Prediction:
        """Foretell rows: mean alone, as the published one does."""
        tokens = self._scale.tokens(self._embedder.parts(table.columns, table.rows))
        drawn = [self._scale.target_back(_forward(net, tokens)) for net in self._nets]
        return Prediction(mean=np.mean(drawn, axis=0))


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
        data = _Data(scale.tokens(tokens), scale.target(target), weight / weight.mean(), held)
        trained = [_train(data, self.settings, rng) for _ in range(self.settings.members)]
        curves = tuple(tuple(step.times(scale.spread) for step in curve) for _, curve in trained)
        return FittedMetaInf(
            curves=curves, _nets=tuple(net for net, _ in trained), _embedder=self.embedder, _scale=scale
        )


def held_out_rows(contexts: Ints, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return which rows belong to the contexts that training stops by; none where there are few."""
    each = np.unique(contexts)
    if len(each) < LEAST_CONTEXTS:
        return np.zeros(len(contexts), dtype=bool)
    return np.isin(contexts, rng.choice(each, size=max(int(len(each) * HELD_OUT), 1), replace=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """Centres and scales, and for each part the directions in which the sentences that were learnt from differ.

    What a new sentence has beyond these directions is left out: no record taught what it means. Sentences of one part
    differ little as vectors, hence the centring. One scale for a whole part: of ten models a dimension's own spread
    says little.
    """

    centre: NDArray[np.float32]  # (1, parts, dimensions)
    along: NDArray[np.float32]  # (parts, dimensions, directions); zeros where a part has fewer
    mean: float
    spread: float

    @staticmethod
    def of(tokens: NDArray[np.float32], target: Floats, weight: Floats) -> "_Scale":
        centre = tokens.mean(axis=0, keepdims=True)
        along = [_directions(np.unique(tokens[:, part], axis=0), centre[0, part]) for part in range(tokens.shape[1])]
        widest = max(each.shape[1] for each in along)
        mean = float(np.average(target, weights=weight))
        return _Scale(
            centre=centre,
            along=np.stack([np.pad(each, ((0, 0), (0, widest - each.shape[1]))) for each in along]).astype(np.float32),
            mean=mean,
            spread=float(np.sqrt(np.average((target - mean) ** 2, weights=weight))) or 1.0,
        )

    def tokens(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.einsum("rpd,pdk->rpk", raw - self.centre, self.along, optimize=True)

    def target(self, raw: Floats) -> NDArray[np.float32]:
        return ((raw - self.mean) / self.spread).astype(np.float32)

    def target_back(self, scaled: NDArray[np.float32]) -> Floats:
        return scaled.astype(np.float64) * self.spread + self.mean


def _directions(sentences: NDArray[np.float32], centre: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (dimensions, directions), scaled so that sentences have a mean square of 1 along each, on average."""
    _, sizes, along = np.linalg.svd(sentences - centre, full_matrices=False)
    kept = max(min(int((sizes > LEAST_SIZE * sizes[0]).sum()), DIRECTIONS), 1)
    scale = np.sqrt((sizes[:kept] ** 2).sum() / len(sentences) / kept)
    return along[:kept].T / max(scale, 1e-6)


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


def _train(data: _Data, settings: Settings, rng: np.random.Generator) -> "tuple[torch.nn.Module, tuple[Epoch, ...]]":
    import torch

    with torch.random.fork_rng(devices=[]):  # dropout and first weights: the caller's luck, and nobody else's
        torch.manual_seed(int(rng.integers(SEED_END)))
        net = _network(data.tokens.shape[2], settings)
        curve = _epochs(net, data, settings, rng)
    return net.eval(), curve


def _epochs(net: "torch.nn.Module", data: _Data, settings: Settings, rng: np.random.Generator) -> tuple[Epoch, ...]:
    import torch

    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.rate, weight_decay=settings.decay)
    learn = np.flatnonzero(~data.held)
    per_epoch = -(-len(learn) // settings.batch)
    epochs = max(settings.steps // per_epoch, LEAST_EPOCHS)
    course = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.rate, total_steps=epochs * per_epoch + 1, pct_start=WARM_UP
    )
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    curve: list[Epoch] = []
    best, since = np.inf, 0
    while len(curve) < epochs and since < settings.patience * epochs:
        net.train()
        total = 0.0
        for rows in _shuffled(learn, settings.batch, rng):
            loss = _loss(net, data, rows, settings.jitter)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            course.step()
            total += loss.item() * len(rows)
        step = Epoch(
            trained=float(np.sqrt(total / len(learn))),
            held_out=_held_error(net, data),
            rate=float(course.get_last_lr()[0]),
        )
        curve.append(step)
        error, since = step.trained if np.isnan(step.held_out) else step.held_out, since + 1
        if error < best:
            best, since = error, 0
            kept = {name: value.clone() for name, value in net.state_dict().items()}
    net.load_state_dict(kept)
    return tuple(curve)


def _flat(curve: tuple[Epoch, ...]) -> bool:
    errors = [step.trained if np.isnan(step.held_out) else step.held_out for step in curve]
    last = max(len(errors) // 10, 1)
    return len(errors) > last and min(errors[-last:]) > (1 - PLATEAU) * min(errors[:-last])


def _shuffled(rows: Ints, size: int, rng: np.random.Generator) -> Iterator[Ints]:
    order = rng.permutation(rows)
    return (order[at : at + size] for at in range(0, len(order), size))


def _loss(net: "torch.nn.Module", data: _Data, rows: Ints, jitter: float) -> "torch.Tensor":
    import torch

    tokens = torch.from_numpy(data.tokens[rows])
    noise = jitter * torch.randn_like(tokens)
    noise[:, [at for at, part in enumerate(PARTS) if part not in JITTERED]] = 0.0
    error = net(tokens + noise) - torch.from_numpy(data.target[rows])
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
