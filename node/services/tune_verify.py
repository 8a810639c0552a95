"""One verification under way: what came before the switch, what came since, and what is made of it.

Knows traffic as answers and a strategy by its name; knows no engine and no ledger. It lives in memory: after a restart
of the node the last good strategy runs, and nothing is left to verify.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log
from typing import Final

from node.core.answer_costs import MICRO, Sample, busy_s, samples
from node.core.answer_meter import Measured
from node.core.tuning_ledger import Trust
from node.core.verification import LEAST_PAIRS, Basis, Case, Judged, Level, Verdict, basis, hopeless, judge, judge_pairs
from node.core.workload import Timed
from node.tuner_ports import TrafficWatch

BEFORE: Final = 512  # answers of before that are compared with: all that traffic keeps
BEFORE_SPAN: Final = 7200.0  # s
LEAVES_WITHIN: Final = 60.0  # s for an old engine to end, after which the new one is judged beside it
LOOK_ANYWAY: Final = 60.0  # s between judgements when nothing came: time passes, too
LEAST_FOR_LEVEL: Final = 16  # answers, of which a description can be had, and the level of before asked for
TAILS: Final = ("tail", "slo")  # objectives in which the slowest answers count


@dataclass(slots=True, kw_only=True)
class Proof:
    """What is known of a strategy since its switch. Times are the loop's.

    Attributes:
        began: when it began to serve. since: when what it answers began to count.
        earlier: answers of before, as load of the first ones after.
        first: answers to a rehearsal before the switch. rehearsed: what was made of the same after it.
        level: what the strategy before would take, as foretold; asked for where nothing was seen before.
    """

    trust: Trust
    began: float
    before: Basis
    earlier: Sequence[Timed]
    failed_before: int
    tail: bool
    first: Sequence[Measured] = ()
    rehearsed: Judged | None = None
    level: Level | None = None
    level_asked: bool = False
    latest: Judged | None = None
    since: float = field(init=False)
    _seen: tuple[int, int] = (0, 0)
    _in_a_row: int = 0
    _judged_at: float = field(default=float("-inf"))

    def __post_init__(self) -> None:
        self.since = self.began

    def wait(self, leaving: bool, now: float) -> None:
        """Leave out what it answers while the engine of before still ends: that has its share of the machine."""
        if leaving and now - self.began < LEAVES_WITHIN:
            self.since = now

    def look(self, watch: TrafficWatch, now: float) -> Judged | None:
        """Judge by what came so far; None where nothing new did."""
        if self.rehearsed is not None and self.rehearsed.verdict is Verdict.CONTRADICTED:
            return self.rehearsed
        answers, failures = self.after(watch), watch.failures(self.since, self.trust.strategy.name)
        answered, failed = self._seen
        if (len(answers), failures) == self._seen and now - self._judged_at < LOOK_ANYWAY:
            return None
        self._in_a_row = 0 if len(answers) != answered else self._in_a_row + failures - failed
        self._seen, self._judged_at = (len(answers), failures), now
        self.latest = judge(self._case(answers, failures))
        return self.latest

    def compare(self, second: Sequence[Measured]) -> None:
        """Take the answers to the rehearsal after the switch, as far as it came."""
        judged = judge_pairs(times(self.first), times(second))
        if self.rehearsed is None or len(second) >= LEAST_PAIRS:
            self.rehearsed = judged

    def hopeless(self, second: Sequence[Measured]) -> bool:
        """Tell whether the answers so far to that rehearsal say enough; more would only take time."""
        return hopeless(times(self.first), times(second))

    @property
    def pairs_enough(self) -> bool:
        """Whether the rehearsal after the switch came far enough to tell."""
        if self.rehearsed is None or self.rehearsed.observed is None:
            return False
        return self.rehearsed.verdict is Verdict.CONTRADICTED or self.rehearsed.observed.answers >= LEAST_PAIRS

    def wants_level(self) -> bool:
        """Tell whether a foretold level would help, and was not asked for yet."""
        return not self.level_asked and self.before.latency is None and self._seen[0] >= LEAST_FOR_LEVEL

    def after(self, watch: TrafficWatch) -> tuple[Timed, ...]:
        """Return the answers that the new strategy gave from their beginning."""
        name = self.trust.strategy.name
        return tuple(
            each for each in watch.answers(self.since) if each.began >= self.since and each.strategy in (None, name)
        )

    def _case(self, answers: Sequence[Timed], failures: int) -> Case:
        points: list[Sample] = samples(answers, self.earlier)
        foretold = self.trust.foretold
        return Case(
            before=self.before,
            after=points,
            failed_before=self.failed_before,
            failed_after=failures,
            in_a_row=self._in_a_row,
            busy_s=busy_s(answers),
            promised=None if foretold is None else (foretold.gain, foretold.low, foretold.high),
            level=self.level,
            tail=self.tail,
        )


def times(answers: Sequence[Measured]) -> list[float]:
    """Return the logs of the times that whole answers took."""
    return [log(max(one.latency, 1)) for one in answers]


def seen_before(
    watch: TrafficWatch, strategy: str, *, rehearsal: Sequence[Measured], objective: str, now: float
) -> tuple[Basis, Sequence[Timed], int]:
    """Return what is usual under the strategy that still runs, people's answers that say so, and failures among them.

    Only answers of the traffic as it is now count: what came before it changed is not in its description either.

    Args:
        rehearsal: answers to requests of our own, which say so as well.
    """
    shape = watch.description(now)
    begin = now - BEFORE_SPAN if shape is None else max(now - BEFORE_SPAN, now - shape.span_s)
    theirs = (each for each in watch.answers(begin) if each.began >= begin and each.strategy in (None, strategy))
    answers = list(theirs)[-BEFORE:]
    since = answers[0].at if answers else begin
    ours = [Timed(began=now - one.latency / MICRO, at=now, strategy=strategy, measured=one) for one in rehearsal]
    points = [point for one in ours for point in samples([one])] + samples(answers)  # ours came one by one: no load
    return basis(points, tail=tails(objective)), answers, watch.failures(since, strategy)


def tails(objective: str) -> bool:
    """Tell whether the slowest answers count in an objective, or in a part of a mix."""
    return any(part.split(":")[0].strip() in TAILS for part in objective.split(","))
