"""An ensemble of small networks on features without a unit: smooth where trees are steps, unsure where members part.

Knows the matrix of features, what physics foretells and torch; knows no stack. All members are trained at once, as one
batched network (Lakshminarayanan et al., "Deep ensembles", 2017): several cost hardly more than one on a CPU. The loss
has three parts: the error of each row; the error of its distance to its context's mean, most where the row is near the
best; and the regret that a choice by these predictions would have (the listwise idea of Cao et al., "Learning to rank",
2007, with the regret itself as what is to be small), which is what choices hang on.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from node.learner.features import Vocabulary, above_best, nearness, see
from node.learner.head import Prediction
from node.learner.prior import Prior
from node.learner.table import Floats, Ints, Table

if TYPE_CHECKING:
    import torch

Matrix = NDArray[np.float32]

CLIP: Final = 4.0  # standard deviations: beyond what was seen an input stays at its edge
LEAST_WIDTH: Final = 1e-6  # of a feature; one that does not vary is left out
WARM_UP: Final = 0.1
SEED_END: Final = 2**31
WORST_REGRET: Final = 1.0  # log-seconds: beyond a factor e a choice is just bad


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How it is built and trained.

    Attributes:
        members: of the ensemble. width: of the two inner layers.
        contexts: whole ones in a step: rows of a context must be together for the second part of the loss.
        huber: error (log-seconds) beyond which it counts linearly.
        within, choice: weights of the second and third part.
        near: how fast a row's weight in the second part falls with its distance (log-seconds) from the best.
        softness: differences (log-seconds) that the third part's choice hardly tells apart.
    """

    members: int = 3
    width: int = 96
    dropout: float = 0.1
    contexts: int = 24
    epochs: int = 12
    rate: float = 3e-3
    decay: float = 0.02
    huber: float = 0.3
    within: float = 4.0
    near: float = 4.0
    choice: float = 2.0
    softness: float = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedMlp:
    """It has learnt. The spread that it foretells is the standard deviation of its members."""

    _members: "torch.nn.Module" = field(repr=False)
    _prior: Prior = field(repr=False)
    _scale: "_Scale" = field(repr=False)
    _vocabulary: Vocabulary = field(repr=False)

    def predict(self, table: Table) -> Prediction:
        """Foretell rows."""
        import torch

        seen = see(table, self._vocabulary)
        with torch.inference_mode():
            drawn = self._members(torch.from_numpy(self._scale.apply(seen.names, seen.matrix))).numpy()
        each = drawn.astype(np.float64) * self._scale.width_of_target
        base = self._prior.log_cost(table) + self._scale.middle_of_target
        return Prediction(mean=base + each.mean(axis=0), spread=each.std(axis=0, ddof=1 if len(each) > 1 else 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpHead:
    """A head that corrects physics."""

    prior: Prior
    settings: Settings = Settings()
    name: str = "mlp"

    def fit(self, table: Table, target: Floats, weight: Floats, rng: np.random.Generator) -> FittedMlp:
        """Learn from rows; some four seconds for twenty thousand on a core.

        Raises:
            ImportError: torch is not installed.
        """
        import torch

        vocabulary = Vocabulary(table)
        seen = see(table, vocabulary)
        rest = target - self.prior.log_cost(table)
        scale = _Scale.of(seen.names, seen.matrix, rest, weight)
        data = _Data(
            inputs=scale.apply(seen.names, seen.matrix),
            target=((rest - scale.middle_of_target) / scale.width_of_target).astype(np.float32),
            weight=(weight / weight.mean()).astype(np.float32),
            where=table.context_index,
            near=nearness(target, table.context_index, self.settings.near).astype(np.float32),
            regret=_regret(target, table.context_index),
            base=((target - rest) / scale.width_of_target).astype(np.float32),
            softness=self.settings.softness / scale.width_of_target,
        )
        with torch.random.fork_rng(devices=[]):  # the caller's luck, and nobody else's
            torch.manual_seed(int(rng.integers(SEED_END)))
            members = _network(data.inputs.shape[1], self.settings)
            _train(members, data, self.settings, self.settings.huber / scale.width_of_target, rng)
        return FittedMlp(_members=members.eval(), _prior=self.prior, _scale=scale, _vocabulary=vocabulary)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Data:
    inputs: Matrix
    target: NDArray[np.float32]
    weight: NDArray[np.float32]
    where: Ints
    near: NDArray[np.float32]
    regret: NDArray[np.float32]
    base: NDArray[np.float32]  # what is corrected, in the target's unit
    softness: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """Centres and widths of the features that vary; for those that are unknown somewhere, a column that says where."""

    names: tuple[str, ...]
    gaps: tuple[str, ...]
    middle: Floats
    width: Floats
    middle_of_target: float
    width_of_target: float

    @staticmethod
    def of(names: tuple[str, ...], matrix: Floats, target: Floats, weight: Floats) -> "_Scale":
        finite = np.where(np.isfinite(matrix), matrix, np.nan)
        known = np.isfinite(finite)
        counts = np.maximum(known.sum(axis=0), 1)
        middle = np.where(known, finite, 0.0).sum(axis=0) / counts
        width = np.sqrt((np.where(known, finite - middle, 0.0) ** 2).sum(axis=0) / counts)
        varies = width > LEAST_WIDTH
        centre = float(np.average(target, weights=weight))
        gaps = (counts < len(matrix)) & (known.sum(axis=0) > 0)
        return _Scale(
            names=tuple(name for name, kept in zip(names, varies, strict=True) if kept),
            gaps=tuple(name for name, kept in zip(names, gaps, strict=True) if kept),
            middle=middle[varies],
            width=width[varies],
            middle_of_target=centre,
            width_of_target=max(float(np.sqrt(np.average((target - centre) ** 2, weights=weight))), LEAST_WIDTH),
        )

    def apply(self, names: tuple[str, ...], matrix: Floats) -> Matrix:
        at = {name: number for number, name in enumerate(names)}
        unknown = np.full(len(matrix), np.nan)

        def columns(wanted: tuple[str, ...]) -> Floats:
            found = [matrix[:, at[name]] if name in at else unknown for name in wanted]
            return np.column_stack(found) if found else np.empty((len(matrix), 0))

        standard = (columns(self.names) - self.middle) / self.width
        filled = np.where(np.isfinite(standard), np.clip(standard, -CLIP, CLIP), 0.0)
        gaps = (~np.isfinite(columns(self.gaps))).astype(np.float64)
        return np.hstack([filled, gaps]).astype(np.float32)


def _network(inputs: int, settings: Settings) -> "torch.nn.Module":
    import torch
    from torch import nn

    class Layer(nn.Module):
        """One layer of all members: (members, rows, inputs) to (members, rows, outputs)."""

        def __init__(self, wide: int, narrow: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(settings.members, wide, narrow) * (2 / wide) ** 0.5)
            self.bias = nn.Parameter(torch.zeros(settings.members, 1, narrow))

        def forward(self, rows: "torch.Tensor") -> "torch.Tensor":
            return torch.baddbmm(self.bias, rows, self.weight)

    class Members(nn.Module):
        """Rows (rows, inputs) to (members, rows)."""

        def __init__(self) -> None:
            super().__init__()
            width, drop = settings.width, settings.dropout
            last = Layer(width, 1)
            nn.init.zeros_(last.weight)  # untrained it foretells physics
            self.layers = nn.Sequential(
                Layer(inputs, width),
                nn.GELU(),
                nn.Dropout(drop),
                Layer(width, width),
                nn.GELU(),
                nn.Dropout(drop),
                last,
            )

        def forward(self, rows: "torch.Tensor") -> "torch.Tensor":
            return self.layers(rows.expand(settings.members, -1, -1))[..., 0]

    return Members()


def _train(members: "torch.nn.Module", data: _Data, settings: Settings, huber: float, rng: np.random.Generator) -> None:
    import torch

    optimizer = torch.optim.AdamW(members.parameters(), lr=settings.rate, weight_decay=settings.decay)
    order = np.argsort(data.where, kind="stable")
    contexts = np.split(order, np.flatnonzero(np.diff(data.where[order])) + 1)
    per_epoch = -(-len(contexts) // settings.contexts)
    course = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.rate, total_steps=settings.epochs * per_epoch + 1, pct_start=WARM_UP
    )
    members.train()
    for _ in range(settings.epochs):
        shuffled = rng.permutation(len(contexts))
        for at in range(0, len(shuffled), settings.contexts):
            taken = [contexts[number] for number in shuffled[at : at + settings.contexts]]
            loss = _loss(members, data, taken, settings, huber)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(members.parameters(), 1.0)
            optimizer.step()
            course.step()


def _loss(
    members: "torch.nn.Module", data: _Data, contexts: list[Ints], settings: Settings, huber: float
) -> "torch.Tensor":
    import torch

    rows = np.concatenate(contexts)
    where = torch.from_numpy(np.repeat(np.arange(len(contexts)), [len(each) for each in contexts]))
    weight, near = torch.from_numpy(data.weight[rows]), torch.from_numpy(data.near[rows])
    foretold = members(torch.from_numpy(data.inputs[rows]))
    error = foretold - torch.from_numpy(data.target[rows])
    sizes = torch.zeros(len(contexts)).index_add_(0, where, weight)
    sums = torch.zeros(len(error), len(contexts)).index_add_(1, where, error * weight)
    inner = error - (sums / sizes)[:, where]
    chosen = _chances((foretold + torch.from_numpy(data.base[rows])) / data.softness, where, len(contexts))
    regret = (chosen * torch.from_numpy(data.regret[rows]) * weight).sum(dim=1).mean() / len(contexts)
    return (
        (weight * _huber(error, huber)).mean()
        + settings.within * (weight * near * _huber(inner, huber)).mean()
        + settings.choice * regret
    )


def _chances(cost: "torch.Tensor", where: "torch.Tensor", contexts: int) -> "torch.Tensor":
    """Return how likely each row is its context's choice, (members, rows): a softmax, the cheaper the likelier."""
    import torch

    least = torch.full((len(cost), contexts), torch.inf).scatter_reduce(1, where.expand(len(cost), -1), cost, "amin")
    power = torch.exp(least[:, where] - cost)
    return power / torch.zeros_like(least).index_add_(1, where, power)[:, where]


def _regret(target: Floats, where: Ints) -> NDArray[np.float32]:
    """Return how much more each row costs than the best of its context, as a share, shape (rows,)."""
    return np.expm1(np.minimum(above_best(target, where), WORST_REGRET)).astype(np.float32)


def _huber(error: "torch.Tensor", width: float) -> "torch.Tensor":
    size = error.abs()
    return (size.clamp(max=width) * (size - 0.5 * size.clamp(max=width))) / width
