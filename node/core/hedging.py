"""Whether somebody else is asked as well because a first byte is late: when that is looked at, whom, and how often.

Knows no stream, no task and no clock. What is foretold of a prompt goes in with how long it has waited; a time to look
at it, the seconds that are left to be expected, and a second choice come out.

Theory. A second request after the 95th percentile is at most one in twenty more (Dean and Barroso, The Tail at Scale,
2013). But first bytes are foretold as log-normal, and the tail of that is light: who is honest and late is nearly
there. What makes lateness dear are those that will not answer soon at all: hung, thrashing, lost behind a bad link. One
replica in a hundred is taken to be such a one. S(t) is the share of honest first bytes that take longer than t:

    broken(t) = f / (f + (1 - f) S(t))      one in six at the 95th percentile, nine in ten at the 99.9th
    left(t)   = broken(t) max(t, FAULT_SECONDS) + (1 - broken(t)) (what an honest one takes yet, as likely more as less)

What is broken stays so for as long again as it was: the longer a first byte is overdue the longer it will be. Where a
first byte takes ten seconds at the best, asking somebody else at the 95th percentile gains nothing and costs a prefill;
where it takes a tenth of one, it gains a lot. That follows from the same line.
"""

from collections.abc import Container
from dataclasses import replace
from math import erfc, exp, log, pi, sqrt
from typing import Final

from node.core.corrections import TTFT_NOISE
from node.core.forecast import Guess
from node.core.prompt import Prompt
from node.core.router import Choice, Route
from node.core.wanted import Aims
from node.core.worth import FAULT_SECONDS
from protocol.ids import PeerId

HEDGE: Final = "hedge"  # the reason of a second choice
# Endpoints whose answers can be asked for twice: what `/v1/responses` answers is stored, and of the others the first
# byte says nothing. Of an answer that is no stream it comes with the last: nobody knows when that is due.
HEDGED: Final = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/messages"})
HASTY: Final = frozenset({"latency", "tail", "slo"})  # objectives that a first byte counts for
PERCENT: Final = 5.0  # of the prompts that may be hedged: what a swarm in which all are late has to bear on top
BURST: Final = 4.0  # prompts: as many wait when a peer hangs that was thought to be good
PATIENCE_S: Final = 10.0  # s that a prompt waits by itself until it may be hedged although others have used all up
FLOOR: Final = 0.25  # s: no forecast is so sure, and a person hardly notices
Z95: Final = 1.645  # of the 95th percentile
FAULTY: Final = 0.01  # of prompts meet a replica that is broken: as in `node.core.worth` of one without a history
CLEARLY: Final = 0.5  # of what is left here the other's first byte may take at most: it costs a prefill
AGAIN: Final = 1.25  # times as long as it has waited, a prompt is looked at again
LN2: Final = log(2.0)
DEEP: Final = 1e-12  # a share below which a tail is not computed any more


def may_be_hedged(prompt: Prompt) -> bool:
    """Whether a prompt is one that somebody else may be asked as well."""
    return prompt.stream and prompt.via is None and prompt.method == "POST" and prompt.path in HEDGED


def is_hasty(aims: Aims) -> bool:
    """Whether an asker's aims are served by an earlier first byte; who wants it cheap does not pay for two."""
    return aims.ttft_s is not None or any(word in HASTY for word, _ in aims.weights)


def due_after(guess: Guess) -> float:
    """Return how many seconds after it was asked for a first byte is late, which is when to look first."""
    engine = guess.turn + exp(guess.ttft)
    return max(guess.net + engine * exp(Z95 * _sigma(guess)), FLOOR)


def left(guess: Guess, waited: float) -> float:
    """Return how many seconds a first byte is to be expected to take yet that has not come after so many."""
    sigma = _sigma(guess)
    engine = max(waited - guess.net, 1e-6)
    z = log(engine / (guess.turn + exp(guess.ttft))) / sigma
    longer = 0.5 * erfc(z / sqrt(2.0))
    broken = FAULTY / (FAULTY + (1.0 - FAULTY) * longer)
    # The hazard of a normal distribution, by which half of those that are left are gone in ln 2 / hazard.
    hazard = exp(-0.5 * z * z) / sqrt(2.0 * pi) / longer if longer > DEEP else z
    honest = engine * (exp(min(sigma * LN2 / hazard, 10.0)) - 1.0)
    return broken * max(waited, FAULT_SECONDS) + (1.0 - broken) * honest


def second(route: Route, asked: Container[PeerId], wait: float) -> Choice | None:
    """Return whom to ask as well, of a route that was decided just now; None where nobody is worth it.

    Args:
        route: in the order of the asker's objective. Who has no slot free, and of whom there is but an advert, is none.
        asked: who was asked with the prompt already.
        wait: seconds that are left to be expected of who is at it.
    """
    forecast = route.forecast
    if forecast is None or not is_hasty(forecast.wanted.aims):
        return None
    candidates = forecast.candidates
    for choice in route.choices:
        at = candidates.index.get(choice.replica)
        if at is None or choice.replica in asked or forecast.full[at] or forecast.closed[at]:
            continue
        guess = forecast.guess(choice.replica)
        there = bool(forecast.known[at] or candidates.connected[at])
        if guess is not None and there and guess.first_byte <= CLEARLY * wait:
            return replace(choice, reason=HEDGE)
    return None


class Budget:
    """How many prompts may be hedged: a share of them, saved up to a few, and one now and then whatever came before."""

    __slots__ = ("_burst", "_saved", "_share")

    def __init__(self, *, percent: float = PERCENT, burst: float = BURST) -> None:
        """`percent`: of the prompts that may be hedged; 0: none is. `burst`: prompts, and what is there at first."""
        self._share = percent / 100.0
        self._burst = self._saved = burst if percent > 0.0 else 0.0

    def earn(self) -> None:
        """Count a prompt that may be hedged."""
        self._saved = min(self._saved + self._share, self._burst)

    def pass_time(self, seconds: float) -> None:
        """Count time during which a prompt waited: where nobody else comes, nobody else earns what would help it."""
        if self._share and self._saved < 1.0:
            self._saved = min(self._saved + seconds / PATIENCE_S, 1.0)

    @property
    def suffices(self) -> bool:
        """Whether one more may be."""
        return self._saved >= 1.0

    def spend(self) -> None:
        """Count one that is."""
        self._saved -= 1.0


def _sigma(guess: Guess) -> float:
    return sqrt(guess.ttft_variance + TTFT_NOISE)
