"""How much each record counts: by who stands behind it, by how its author's records agree with others', and capped.

Knows authors, standings and errors; knows no signature and no peer (what was refused at the door never comes here).
The predictor is an argument. Theory: each author has a precision of their own, drawn from a Gamma distribution with
mean 1; how a predictor that saw nothing of that author fares on their records tells which, in two ways:

- by errors: Student's t with the author in the place of the row; its weight has a closed form (Lange, Little and
  Taylor, 1989): (nu + n) / (nu + sum of squares).
- by choices: what the predictor's pick loses by the author's account, and the author's best by the predictor's. A lie
  about one strategy of twenty hardly shows in the sum of all errors, but a lie that misleads nobody does no harm, and
  what misleads shows here whole. These losses are exponential rather than normal: (nu + n) / (nu + sum of losses).

The less believed of both counts. The first predictor is one that no record can bend, physics: where most of what is
said are lies of fresh identities, a fit to all would side with them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from node.learner.table import Floats, Ints
from node.learner.weights import Choices

Standing: TypeAlias = Literal["own", "known", "unknown"]
Words: TypeAlias = NDArray[np.object_]

STANDING_WEIGHT: Final[Mapping[Standing, float]] = {"own": 10.0, "known": 1.0, "unknown": 0.2}  # learner.md, Trust
# Caps, as shares of all weight. In a small swarm nobody could keep them: there, twice an equal share.
AUTHOR_CAP: Final = 0.1
AUTHOR_GPU_CAP: Final = 0.05  # who owns a whole GPU type alone is believed, but never loud
UNKNOWN_CAP: Final = 0.5  # all unknown together, as a multiple of own and known; a thousand identities cost nothing
ANCHOR: Final = 100  # own records, which those caps take for granted: a first one must not silence a swarm
EQUAL_SHARES: Final = 2.0

FREEDOM: Final = 4.0  # nu of Student's t: records of a new author count as four at the typical error
STRICTNESS: Final = 2.0  # power of an author's precision: twice the typical error counts a sixteenth, not a quarter
UNHEARD: Final = 0.3  # credibility below which nothing is heard: a whisper still counts where nobody else is
TOLERANCE: Final = 2.0  # honest records of unusual machines are so many times less precise than the typical
# Log-cost that both picks together lose among honest people: at least, and at most, where nobody is known to tell. On
# the simulated table it is 0.06, on the measured ones, across vendors, 0.1 to 0.3.
LEAST_LOSS, MOST_LOSS = 0.05, 0.3
OUTLIER: Final = 5.0  # errors beyond so many scales are all alike: one typing error is no life of lies
FOLDS: Final = 5
ROUNDS: Final = 3  # liars bend the first fit; with their weight gone the next is straighter
LEAST_SCALE: Final = 1e-3  # log-seconds
LEAST_LEVEL: Final = 0.1  # log-seconds by which hosts with one type of machine differ
LEAST_INNER: Final = 0.05  # log-seconds: noise, and what no predictor foretells
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


def weigh(
    voices: Voices, target: Floats, foretell: Foretell, rng: np.random.Generator, unbent: Floats | None = None
) -> Trust:
    """Return what rows and authors are worth, from errors of predictors that saw nothing of the author.

    Args:
        target: what the rows say, logarithms, finite, shape (rows,).
        foretell: fits and predicts; called FOLDS times a round. A robust loss there helps.
        rng: parts the authors into folds.
        unbent: what is foretold of the rows without any record (physics), shape (rows,); it judges first.
    """
    names, author = np.unique(voices.author.astype(str), return_inverse=True)
    own = np.isin(author, author[voices.standing == "own"])
    credibility = np.ones(len(names))
    weight = capped(voices, prior(voices))
    if len(names) > 1:
        for number in range(ROUNDS):
            if number == 0 and unbent is not None:
                foretold = unbent
            else:
                foretold = _cross_fitted(author, len(names), weight, foretell, rng)
                if unbent is not None:  # who is believed may have nobody beside them to be foretold by
                    foretold = np.where(np.isnan(foretold), unbent, foretold)
            credibility = _credibility(target, foretold, author, voices.context, _jury(voices, weight))
            credibility[author[own]] = 1.0  # doubting one's own eyes is for the benchmark, not for here
            believed = np.where(credibility < UNHEARD, 0.0, credibility**STRICTNESS)
            weight = capped(voices, prior(voices) * believed[author])
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
    most = UNKNOWN_CAP * max(anchored, ANCHOR * STANDING_WEIGHT["own"])
    if anchored > 0 and loud > most:
        ready[unknown] *= most / loud
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


def _jury(voices: Voices, weight: Floats) -> Floats:
    """Return how much each row counts in saying what is typical: where anybody is known, the unknown have no majority.

    Learning is bolder (see ANCHOR): one own record is too little to learn from, but enough to tell a norm by.
    """
    unknown = voices.standing == "unknown"
    loud, anchored = weight[unknown].sum(), weight[~unknown].sum()
    if anchored <= 0 or loud <= UNKNOWN_CAP * anchored:
        return weight
    return np.where(unknown, weight * (UNKNOWN_CAP * anchored / loud), weight)


def _credibility(target: Floats, foretold: Floats, author: Ints, context: Ints, weight: Floats) -> Floats:
    """Return each author's precision in units of the typical, at most 1, shape (authors,)."""
    known = np.isfinite(foretold)
    error = np.where(known, target - foretold, 0.0)
    error = np.where(known, error - _weighted_median(error[known], weight[known]), 0.0)
    by_error = _by_error(error, known, author, context, weight)
    return np.minimum(by_error, _by_choice(target, foretold, author, context, weight))


def _by_error(error: Floats, known: NDArray[np.bool_], author: Ints, context: Ints, weight: Floats) -> Floats:
    """Return precisions by squared errors.

    An error has two parts: how a context as a whole was misjudged, which happens to honest records of new hardware,
    and how strategies were ordered within it, which hardly does. Each is judged by its own scale.
    """
    offset, inner = _parts(error, author, context)
    squares = np.zeros(len(error))
    for part, least in ((offset, LEAST_LEVEL), (inner, LEAST_INNER)):
        scale = max(_MAD * _weighted_median(np.abs(part[known]), weight[known]), least)
        squares += np.minimum((part / scale) ** 2, OUTLIER**2) / 2
    authors = int(author.max()) + 1
    count = _sums(author, known, authors)
    total = _sums(author, np.where(known, squares, 0.0), authors)
    precision = (FREEDOM + count) / (FREEDOM + total)
    voice = _sums(author, weight, authors)
    return np.minimum(TOLERANCE * precision / _weighted_median(precision, voice), 1.0)


def _by_choice(target: Floats, foretold: Floats, author: Ints, context: Ints, weight: Floats) -> Floats:
    """Return precisions by what choices lose, shape (authors,); 1 for who measured no two strategies in a context."""
    authors = int(author.max()) + 1
    known = np.flatnonzero(np.isfinite(foretold))
    _, where = np.unique(np.stack([author[known], context[known]]), axis=1, return_inverse=True)
    cut = Choices.of(where.reshape(-1))
    if not len(cut.starts):
        return np.ones(authors)
    told, thought = target[known][cut.order], foretold[known][cut.order]
    lost = cut.regret(thought, told) + cut.regret(told, thought)
    who = author[known][cut.order][cut.starts]
    count, total = _sums(who, np.ones(len(who)), authors), _sums(who, lost, authors)
    mean = total / np.maximum(count, 1.0)
    voice = np.where(count > 0, _sums(author, weight, authors), 0.0)
    typical = float(np.clip(_weighted_median(mean, voice), LEAST_LOSS, MOST_LOSS))
    # Who has said little is judged by the company of those who came alike: of a thousand who said one thing each, those
    # whom nothing contradicts are not likely to be of another kind than those who are caught.
    company = np.floor(np.log2(np.maximum(count, 1.0))).astype(np.int64)
    usual = (_sums(company, total, authors) / np.maximum(_sums(company, count, authors), 1.0))[company]
    expected = FREEDOM * np.maximum(usual / typical, 1.0)
    return np.minimum(TOLERANCE * (FREEDOM + count) / (expected + total / typical), 1.0)


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
