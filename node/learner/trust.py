"""How much each record counts: by who stands behind it, by how its author's records agree with others', and capped.

Knows authors, standings and errors; knows no signature and no peer (what was refused at the door never comes here).
The predictor is an argument. Theory: each author has a precision of their own, drawn from a Gamma distribution with
mean 1; the errors of a predictor that saw nothing of that author tell which. That is Student's t with the author in the
place of the row, and its weight has a closed form (Lange, Little and Taylor, 1989): (nu + n) / (nu + sum of squares).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from node.learner.table import Floats, Ints

Standing: TypeAlias = Literal["own", "known", "unknown"]
Words: TypeAlias = NDArray[np.object_]

STANDING_WEIGHT: Final[Mapping[Standing, float]] = {"own": 10.0, "known": 1.0, "unknown": 0.2}  # learner.md, Trust
# Caps, as shares of all weight. In a small swarm nobody could keep them: there, twice an equal share.
AUTHOR_CAP: Final = 0.1
AUTHOR_GPU_CAP: Final = 0.05  # who owns a whole GPU type alone is believed, but never loud
UNKNOWN_CAP: Final = 0.5  # all unknown together, as a multiple of own and known; a thousand identities cost nothing
EQUAL_SHARES: Final = 2.0

FREEDOM: Final = 4.0  # nu of Student's t: records of a new author count as four at the typical error
STRICTNESS: Final = 2.0  # power of an author's precision: twice the typical error counts a sixteenth, not a quarter
OUTLIER: Final = 5.0  # errors beyond so many scales are all alike: one typing error is no life of lies
FOLDS: Final = 5
ROUNDS: Final = 3  # liars bend the first fit; with their weight gone the next is straighter
LEAST_SCALE: Final = 1e-3  # log-seconds
HUBER: Final = 1.345  # 95 % efficient for normal errors
_MAD: Final = 1.4826  # median absolute deviation to standard deviation

# Rows to learn from, their weights (of those rows), rows to foretell: returns log-values of the latter.
Foretell: TypeAlias = Callable[[Ints, Floats, Ints], Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class Voices:
    """Who says each row; all of shape (rows,).

    Attributes:
        author: name of the author.
        gpu: type of hardware.
        standing: of the author: own, known or unknown.
        context: number of the row's context.
    """

    author: Words
    gpu: Words
    standing: Words
    context: Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What each row and each author is worth.

    Attributes:
        weight: of each row, shape (rows,); mean 1.
        credibility: of each author by name, 0 to 1: the part that their errors decide.
    """

    weight: Floats
    credibility: Mapping[str, float]


def weigh(voices: Voices, target: Floats, foretell: Foretell, rng: np.random.Generator) -> Trust:
    """Return what rows and authors are worth, from errors of predictors that saw nothing of the author.

    Args:
        target: what the rows say, logarithms, finite, shape (rows,).
        foretell: fits and predicts; called FOLDS times a round. A robust loss there helps.
        rng: parts the authors into folds.
    """
    names, author = np.unique(voices.author.astype(str), return_inverse=True)
    own = np.isin(author, author[voices.standing == "own"])
    credibility = np.ones(len(names))
    weight = capped(voices, prior(voices))
    if len(names) > 1:
        for _ in range(ROUNDS):
            error = target - _cross_fitted(author, len(names), weight, foretell, rng)
            credibility = _credibility(error, author, voices.context, weight)
            credibility[author[own]] = 1.0  # doubting one's own eyes is for the benchmark, not for here
            weight = capped(voices, prior(voices) * credibility[author] ** STRICTNESS)
    by_name = {str(name): float(value) for name, value in zip(names, credibility, strict=True)}
    return Trust(weight=weight, credibility=by_name)


def prior(voices: Voices) -> Floats:
    """Return what rows are worth by standing alone, shape (rows,)."""
    known = {str(standing): weight for standing, weight in STANDING_WEIGHT.items()}
    return np.array([known.get(str(standing), STANDING_WEIGHT["unknown"]) for standing in voices.standing])


def capped(voices: Voices, weight: Floats) -> Floats:
    """Return weights of mean 1 in which nobody is too loud; own rows are under no cap.

    First each author within each GPU type, then each author, then all unknown together.
    """
    own = voices.standing == "own"
    cells = np.array([f"{author}\0{gpu}" for author, gpu in zip(voices.author, voices.gpu, strict=True)], dtype=object)
    ready = weight.copy()
    for group, cap in ((cells, AUTHOR_GPU_CAP), (voices.author, AUTHOR_CAP)):
        ready = _quieted(ready, group, cap, own)
    unknown = voices.standing == "unknown"
    loud, anchored = ready[unknown].sum(), ready[~unknown].sum()
    if anchored > 0 and loud > UNKNOWN_CAP * anchored:
        ready[unknown] *= UNKNOWN_CAP * anchored / loud
    return ready / ready.mean() if ready.sum() > 0 else np.ones(len(ready))


def huber_weight(error: Floats) -> Floats:
    """Return weights for one reweighted fit, shape (rows,): 1 within HUBER scales, falling as 1/error beyond."""
    scale = max(_MAD * float(np.median(np.abs(error - np.median(error)))), LEAST_SCALE)
    return np.minimum(1.0, HUBER * scale / np.maximum(np.abs(error), LEAST_SCALE))


def possible(observed: Floats, floor: Floats, slack: float = np.log(1.1)) -> NDArray[np.bool_]:
    """Tell which rows are no faster than physics allows: the first gate for what others say.

    Args:
        observed, floor: log-seconds; an unknown floor (NaN) refuses nobody.
        slack: log-seconds by which data sheets and clocks may be off.
    """
    return ~(observed < floor - slack)


def shared_is_better(shared: Floats, local: Floats) -> bool:
    """Tell whether the shared model foretells own held-out records at least as well as one of own records alone.

    The last gate: whatever passed the others, a swarm that makes this node's predictions worse is not listened to.

    Args:
        shared, local: errors of both on the same rows, log-seconds. Within a standard error is as good.
    """
    known = np.isfinite(shared) & np.isfinite(local)
    if not known.any():
        return True
    worse = np.abs(shared[known]) - np.abs(local[known])
    return bool(worse.mean() <= worse.std() / np.sqrt(len(worse)))


def _quieted(weight: Floats, group: Words, cap: float, exempt: NDArray[np.bool_]) -> Floats:
    """Scale down the groups that hold more than `cap` of all weight until none does."""
    _, code = np.unique(group.astype(str), return_inverse=True)
    sums = _sums(code[~exempt], weight[~exempt], int(code.max()) + 1)
    speaking = int((sums > 0).sum())
    share = max(cap, EQUAL_SHARES / max(speaking, 1))
    if share >= 1:
        return weight
    exempt_sum = weight[exempt].sum()
    most = _level(sums, share, float(exempt_sum))
    factor = np.minimum(1.0, most / np.maximum(sums, 1e-300))
    return np.where(exempt, weight, weight * factor[code])


def _level(sums: Floats, share: float, beside: float) -> float:
    """Return the height at which to cut sums so that none is more than a share of what is left and what is beside."""
    low, high = 0.0, float(sums.max(initial=0.0))
    if high <= share * (sums.sum() + beside):
        return high
    for _ in range(60):
        middle = (low + high) / 2
        fits = middle <= share * (np.minimum(sums, middle).sum() + beside)
        low, high = (middle, high) if fits else (low, middle)
    return low


def _cross_fitted(author: Ints, authors: int, weight: Floats, foretell: Foretell, rng: np.random.Generator) -> Floats:
    """Return what is foretold of each row by a fit on other authors' rows."""
    folds = min(FOLDS, authors)
    fold = rng.permutation(np.arange(authors) % folds)[author]
    foretold = np.full(len(author), np.nan)
    for each in range(folds):
        learn, ask = np.flatnonzero(fold != each), np.flatnonzero(fold == each)
        if len(ask) and weight[learn].sum() > 0:
            foretold[ask] = foretell(learn, weight[learn], ask)
    return foretold


def _credibility(error: Floats, author: Ints, context: Ints, weight: Floats) -> Floats:
    """Return each author's precision in units of the typical, at most 1, shape (authors,).

    An error has two parts: how a context as a whole was misjudged, which happens to honest records of new hardware,
    and how strategies were ordered within it, which hardly does. Each is judged by its own scale.
    """
    known = np.isfinite(error)
    offset, inner = _parts(np.where(known, error, 0.0), author, context)
    squares = np.zeros(len(error))
    for part in (offset, inner):
        scale = max(_MAD * _weighted_median(np.abs(part[known]), weight[known]), LEAST_SCALE)
        squares += np.minimum((part / scale) ** 2, OUTLIER**2) / 2
    authors = int(author.max()) + 1
    count = _sums(author, known, authors)
    total = _sums(author, np.where(known, squares, 0.0), authors)
    precision = (FREEDOM + count) / (FREEDOM + total)
    voice = _sums(author, weight, authors)
    return np.minimum(precision / _weighted_median(precision, voice), 1.0)


def _parts(error: Floats, author: Ints, context: Ints) -> tuple[Floats, Floats]:
    """Part errors into the mean of each (author, context) and what is left, both shape (rows,)."""
    _, where = np.unique(np.stack([author, context]), axis=1, return_inverse=True)
    where = where.reshape(-1)
    mean = (np.bincount(where, weights=error) / np.bincount(where))[where]
    return mean, error - mean


def _sums(code: Ints, values: NDArray[Any], count: int) -> Floats:
    return np.bincount(code, weights=values, minlength=count).astype(np.float64)


def _weighted_median(values: Floats, weight: Floats) -> float:
    order = np.argsort(values)
    mass = np.cumsum(weight[order])
    if not len(values) or mass[-1] <= 0:
        return 1.0
    return float(values[order][int(np.searchsorted(mass, mass[-1] / 2))])
