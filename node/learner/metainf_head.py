"""The MetaInf head: sentences about workload, model, hardware and strategy, embedded, through a transformer to a time.

A replica of MetaInf (arXiv 2508.09194) as far as it is published: embeddings of texts in, predicted performance of each
method out, "a transformer regressor trained on historical records". Its architecture and templates are not public; the
choices here are ours, and none was made to hold it back. Knows no physics and no number that is not in a text.

A row is four tokens, one for each part, which is the sum of what the part's sentences say. The strategies of a context
share the other three: the context stands once in a sequence, each strategy sees it and itself and no other strategy,
which gives what a sequence for each row would give, for a quarter of the work. The loss has two voices of like
loudness: the error of the time, and the error of its distance from the context's mean, each in units of its variance.
The second is what a choice hangs on, and on the simulated table a seventh of the variance: in the first it drowns.

Trained to its plateau: the learning rate rises and falls once (Smith and Topin, 2018). Whether more epochs would gain
is what `tests/benchmarks/bench_replica.py` shows. `curves` is the whole story.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from node.learner.head import Prediction
from node.learner.metainf_tokens import DIRECTIONS, STRATEGY, Reader, Sequences
from node.learner.table import Floats, Ints, Table
from node.learner.texts import PARTS, Embedder

if TYPE_CHECKING:
    import torch

PREDICT: Final = 128  # sequences at once
LEAST_CONTEXTS: Final = 10  # with fewer nothing can be held out
LEAST_WITHIN: Final = 0.01  # share of the variance: below it strategies hardly differ, and noise would shout
LEAST_WEIGHT: Final = 1e-12  # of a sequence: a float has no smaller that is safe to divide by
JITTERED: Final = ("model", "hardware")
WARM_UP: Final = 0.1  # share of the steps in which the rate rises
PLATEAU: Final = 0.01  # of the held-out error
SEED_END: Final = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How it is built and trained; chosen by leaving out families within the families that are learnt from.

    Attributes:
        width, layers, heads: of the transformer; its inner layer is twice as wide.
        batch: sequences of a step. rate: AdamW's highest learning rate.
        within: how loud the error of a row's distance from its context's mean is, against that of the row.
        members: networks that differ by their luck alone; their mean is taken. One alone is a lottery on hardware that
            it has not seen.
        jitter: noise on what is said about model and hardware while training, in units of its spread: ten points are
            learnt by heart otherwise.
        held_out: share of the contexts that only the curve is drawn by. Nothing is stopped or picked by it.
    """

    width: int = 64
    layers: int = 2
    heads: int = 4
    batch: int = 32
    rate: float = 2e-3
    decay: float = 0.01
    epochs: int = 30
    within: float = 1.0
    members: int = 3
    jitter: float = 0.2
    held_out: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One step of the learning curve: root mean squares of the error, in units of log-seconds.

    Attributes:
        trained, held_out: of the time; NaN where nothing is held out.
        trained_within, held_out_within: of its distance from its context's mean.
    """

    trained: float
    trained_within: float
    held_out: float
    held_out_within: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedMetaInf:
    """It has learnt.

    Attributes:
        curves: of each member, one entry for each epoch.
    """

    curves: tuple[tuple[Epoch, ...], ...]
    _nets: "tuple[torch.nn.Module, ...]" = field(repr=False)
    _reader: "Reader" = field(repr=False)
    _mean: float
    _spread: float

    @property
    def plateau(self) -> bool:
        """Whether the last tenth of the epochs gained each member less than PLATEAU, held out if anything is.

        The rate ends at nothing, so every curve ends flat; that more epochs gain nothing is shown by more epochs.
        """
        return all(_flat(curve) for curve in self.curves)

    def predict(self, table: Table) -> Prediction:
        """Foretell rows: mean alone, as the published one does."""
        data = Sequences.of(self._reader, table)
        drawn = [_forward(net, data, np.arange(len(data.rows))) for net in self._nets]
        return Prediction(mean=np.mean(drawn, axis=0).astype(np.float64) * self._spread + self._mean)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaInfHead:
    """A head; `embedder` reads the texts."""

    embedder: Embedder
    settings: Settings = Settings()
    name: str = "metainf_replica"

    def fit(self, table: Table, target: Floats, weight: Floats, rng: np.random.Generator) -> FittedMetaInf:
        """Learn from rows; a minute for twenty thousand rows on a core.

        Raises:
            ImportError: torch is not installed.
        """
        mean = float(np.average(target, weights=weight))
        spread = float(np.sqrt(np.average((target - mean) ** 2, weights=weight))) or 1.0
        reader = Reader.of(self.embedder, table)
        data = Sequences.of(reader, table, (target - mean) / spread, weight / weight.mean())
        held = held_out(table.contexts[data.rows[:, 0]], self.settings.held_out, rng)
        trained = [_train(data, held, self.settings, spread, rng) for _ in range(self.settings.members)]
        return FittedMetaInf(
            curves=tuple(curve for _, curve in trained),
            _nets=tuple(net for net, _ in trained),
            _reader=reader,
            _mean=mean,
            _spread=spread,
        )


def held_out(contexts: Ints, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return which of these belong to contexts that the curve is drawn by; none where there are few."""
    each = np.unique(contexts)
    if len(each) < LEAST_CONTEXTS or not share:
        return np.zeros(len(contexts), dtype=bool)
    return np.isin(contexts, rng.choice(each, size=max(int(len(each) * share), 1), replace=False))


def _network(data: Sequences, settings: Settings) -> "torch.nn.Module":
    import torch
    from torch import nn

    width = settings.width
    about = [part for part in PARTS if part != STRATEGY]

    def projection(columns: int) -> nn.Parameter:
        return nn.Parameter((2 * torch.rand(columns, DIRECTIONS, width) - 1) / DIRECTIONS**0.5)

    class Layer(nn.Module):
        """Attention and two layers for each token, normalised before, added after."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
            self.asked = nn.Linear(width, 3 * width)
            nn.init.xavier_uniform_(self.asked.weight)
            self.heard = nn.Linear(width, width)
            self.inner = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU("tanh"), nn.Linear(2 * width, width))

        def forward(self, tokens: "torch.Tensor", unseen: "torch.Tensor") -> "torch.Tensor":
            many, long, _ = tokens.shape
            asked = self.asked(self.first(tokens)).view(many, long, 3, settings.heads, -1).permute(2, 0, 3, 1, 4)
            query, key, value = asked
            scores = query @ key.transpose(-1, -2) * key.shape[-1] ** -0.5 + unseen
            heard = (scores.softmax(-1) @ value).transpose(1, 2).reshape(many, long, width)
            tokens = tokens + self.heard(heard)
            return tokens + self.inner(self.second(tokens))

    class Regressor(nn.Module):
        """Contexts (sequences, columns, DIRECTIONS), strategies (sequences, rows, columns, DIRECTIONS) to times."""

        def __init__(self) -> None:
            super().__init__()
            self.of_context = projection(data.contexts.shape[1])
            self.of_strategy = projection(data.strategies.shape[1])
            self.place = nn.Parameter(torch.randn(len(PARTS), width) * 0.02)
            self.layers = nn.ModuleList(Layer() for _ in range(settings.layers))
            self.norm = nn.LayerNorm(width)
            self.out = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))
            sums = torch.tensor([[float(part == other) for other in about] for part in data.parts])
            self.register_buffer("sums", sums.reshape(len(data.parts), len(about)))

        def forward(self, contexts: "torch.Tensor", strategies: "torch.Tensor") -> "torch.Tensor":
            said = torch.einsum("bcd,cdw->bcw", contexts, self.of_context)
            parts = torch.einsum("bcw,cp->bpw", said, self.sums) + self.place[:-1]
            asked = torch.einsum("bscd,cdw->bsw", strategies, self.of_strategy) + self.place[-1]
            known, long = len(about), len(about) + asked.shape[1]
            sees = torch.eye(long, dtype=torch.bool)
            sees[:, :known] = True
            unseen = torch.zeros(long, long).masked_fill(~sees, float("-inf"))
            tokens = torch.cat([parts, asked], dim=1)
            for layer in self.layers:
                tokens = layer(tokens, unseen)
            return self.out(self.norm(tokens[:, known:]))[..., 0]

    return Regressor()


def _train(
    data: Sequences, held: NDArray[np.bool_], settings: Settings, spread: float, rng: np.random.Generator
) -> "tuple[torch.nn.Module, tuple[Epoch, ...]]":
    import torch

    with torch.random.fork_rng(devices=[]):  # first weights and jitter: the caller's luck, and nobody else's
        torch.manual_seed(int(rng.integers(SEED_END)))
        net = _network(data, settings)
        curve = tuple(_epochs(net, data, held, settings, spread, rng))
    return net.eval(), curve


def _epochs(
    net: "torch.nn.Module",
    data: Sequences,
    held: NDArray[np.bool_],
    settings: Settings,
    spread: float,
    rng: np.random.Generator,
) -> Iterator[Epoch]:
    import torch

    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.rate, weight_decay=settings.decay)
    learn, kept = np.flatnonzero(~held), np.flatnonzero(held)
    total = settings.epochs * -(-len(learn) // settings.batch)
    course = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.rate, total_steps=total + 1, pct_start=WARM_UP)
    jitter = torch.tensor([settings.jitter * (part in JITTERED) for part in data.parts])[None, :, None]
    loudness = settings.within / max(_variance_within(data, learn), LEAST_WITHIN)
    for _ in range(settings.epochs):
        net.train()
        sums = np.zeros(2)
        for which in _shuffled(learn, settings.batch, rng):
            inputs, strategies, rows, real = data.inputs(which)
            contexts = torch.from_numpy(inputs)
            foretold = net(contexts + jitter * torch.randn_like(contexts), torch.from_numpy(strategies))
            weight = torch.from_numpy(data.weight[rows] * real)
            whole, within = _errors(foretold, torch.from_numpy(data.target[rows]), weight)
            loss = (whole + loudness * within) / real.sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            course.step()
            sums += [whole.item(), within.item()]
        trained, unseen = spread * np.sqrt(sums / data.real[learn].sum()), spread * _held_errors(net, data, kept)
        yield Epoch(
            trained=float(trained[0]),
            trained_within=float(trained[1]),
            held_out=float(unseen[0]),
            held_out_within=float(unseen[1]),
        )


def _errors(
    foretold: "torch.Tensor", target: "torch.Tensor", weight: "torch.Tensor"
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return sums of squares: of the error, and of its distance from its sequence's mean. All (sequences, rows)."""
    error = foretold - target
    apart = error - (weight * error).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(LEAST_WEIGHT)
    return (weight * error**2).sum(), (weight * apart**2).sum()


def _variance_within(data: Sequences, which: Ints) -> float:
    import torch

    rows = data.rows[which]
    weight, target = torch.from_numpy(data.weight[rows] * data.real[which]), torch.from_numpy(data.target[rows])
    _, within = _errors(target, torch.zeros_like(target), weight)
    return within.item() / max(weight.sum().item(), LEAST_WEIGHT)


def _shuffled(numbers: Ints, size: int, rng: np.random.Generator) -> Iterator[Ints]:
    order = rng.permutation(numbers)
    return (order[at : at + size] for at in range(0, len(order), size))


def _held_errors(net: "torch.nn.Module", data: Sequences, which: Ints) -> Floats:
    """Return root mean squares of both errors; NaN where there is nothing to judge by."""
    import torch

    if not len(which):
        return np.full(2, np.nan)
    rows = data.rows[which]
    foretold = torch.from_numpy(_forward(net.eval(), data, which)[rows])
    weight = torch.from_numpy(data.weight[rows] * data.real[which])
    whole, within = _errors(foretold, torch.from_numpy(data.target[rows]), weight)
    return np.sqrt(np.array([whole.item(), within.item()]) / max(weight.sum().item(), LEAST_WEIGHT))


def _forward(net: "torch.nn.Module", data: Sequences, which: Ints) -> NDArray[np.float32]:
    """Return what is foretold of each row, shape (rows,); zeros where the row is in none of the sequences."""
    import torch

    found = np.zeros(len(data.target), dtype=np.float32)
    with torch.inference_mode():
        for at in range(0, len(which), PREDICT):
            contexts, strategies, rows, real = data.inputs(which[at : at + PREDICT])
            found[rows[real]] = net(torch.from_numpy(contexts), torch.from_numpy(strategies)).numpy()[real]
    return found


def _flat(curve: tuple[Epoch, ...]) -> bool:
    errors = [step.trained_within if np.isnan(step.held_out_within) else step.held_out_within for step in curve]
    last = max(len(errors) // 10, 1)
    return len(errors) > last and min(errors[-last:]) > (1 - PLATEAU) * min(errors[:-last])
