"""What a switch of the engine's strategy may come to, and the figures that it is decided by.

Knows strategies and plain numbers; knows no engine, launcher or clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from node.core.strategy import Strategy

DONE = "done"
START_FAILED = "start_failed"  # it ended, or could not be begun, before it was ready
OUT_OF_MEMORY = "out_of_memory"
TIMED_OUT = "timed_out"  # it was not ready in time
CRASHED = "crashed"  # killed by a fault of its own while it started
WRONG_ANSWERS = "wrong_answers"  # it answers, but not what the model says
WORSE = "worse"  # it was heard beside the one that serves, is worse, and never took over
NOT_DRAINED = "not_drained"  # what ran did not end in time; nobody was cut off, the old one serves on
OVERRULED = "overruled"  # somebody wished something else meanwhile: the node's end, a restart, trials

RESULTS = (DONE, START_FAILED, OUT_OF_MEMORY, TIMED_OUT, CRASHED, WRONG_ANSWERS, WORSE, NOT_DRAINED, OVERRULED)

LEAST_START_TIMEOUT = 120.0  # s: a start of 17 s takes a minute and more while the owner compiles something
START_PATIENCE = 4.0  # times the usual start: compilation costs five times an eager start's engine, not its imports
TROUBLE_SPAN = 600.0  # s in which unplanned ends are counted together: backoff brings a loop of crashes to six in it


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one try.

    Attributes:
        result: one of RESULTS.
        reason: for a person; the engine's own words where it failed.
    """

    result: str
    reason: str

    @property
    def done(self) -> bool:
        """Whether the engine runs as it was to."""
        return self.result == DONE

    @property
    def failed(self) -> bool:
        """Whether the new engine is to blame: it was tried, and is of no use."""
        return self.result in FAILINGS


def usual_start(starts: Sequence[float]) -> float | None:
    """Return the median of the seconds that the last starts took; None before the first."""
    return median(starts) if starts else None


def start_timeout(starts: Sequence[float], longest: float) -> float:
    """Return for how long a new strategy may start, in seconds.

    An engine that is known to start in 17 s and has not in two minutes is not going to, and meanwhile nobody is
    served. `longest` is the patience with a first start, which may download its model: nobody is more patient.
    """
    usual = usual_start(starts)
    return longest if usual is None else min(max(LEAST_START_TIMEOUT, START_PATIENCE * usual), longest)


def same_answers(one: Strategy, other: Strategy) -> bool:
    """Whether a model's greedy answers under both are the same, up to near ties.

    Two that round weights and cache alike agree as well as two that round nothing.
    """
    if one.external or other.external:
        return False
    rounding = (one.kv_cache_dtype, one.weight_quantization) == (other.kv_cache_dtype, other.weight_quantization)
    return rounding or (one.lossless and other.lossless)


def back_on(strategy: Strategy, tried: Strategy, outcome: Outcome) -> str:
    """Return why an engine runs what it ran before, for `metainf status`."""
    return f"back on {strategy.name}: '{tried.name}' {FAILINGS[outcome.result]}: {outcome.reason}"


FAILINGS = {
    START_FAILED: "did not start",
    OUT_OF_MEMORY: "did not start, out of memory",
    TIMED_OUT: "did not start in time",
    CRASHED: "crashed while it started",
    WRONG_ANSWERS: "gave wrong answers",
}
