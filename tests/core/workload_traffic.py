"""Made-up traffic for what watches workloads: arrivals, answers and the engine's counters, in a time of its own."""

import math
import random
from dataclasses import dataclass, field
from heapq import heappop, heappush

from node.core.answer_meter import Measured
from node.core.engine_counters import PREFIX_HITS, PREFIX_QUERIES
from node.core.workload import Timed, WorkloadWatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What arrives: so many a second as by chance, of lognormal lengths, answered at so many tokens a second."""

    rate: float = 0.1
    prompt: float = 300.0  # median, tokens
    output: float = 80.0
    spread: float = 0.7  # of the lengths' logarithms
    copied: float = 0.1
    prefix: float = 0.2
    speed: float = 40.0
    told: bool = True


@dataclass
class Stream:
    """Feeds a watch, one piece of time after another; each eighth answer tells what it copied."""

    watch: WorkloadWatch
    luck: random.Random
    now: float = 0.0
    answered: int = 0
    strategy: str = "default"
    _ends: list[tuple[float, float, Measured, int]] = field(default_factory=list[tuple[float, float, Measured, int]])
    _next_reading: float = 60.0

    def run(self, kind: Kind, seconds: float) -> None:
        """Let so much time pass under one kind of traffic."""
        until = self.now + seconds
        arrival = self.now + self.luck.expovariate(kind.rate)
        while min(arrival, self._next_reading, self._ends[0][0] if self._ends else until) < until:
            if self._ends and self._ends[0][0] <= min(arrival, self._next_reading):
                self._end()
            elif self._next_reading <= arrival:
                hits = min(max(self.luck.gauss(kind.prefix, 0.05), 0.0), 1.0)
                self.watch.counted({PREFIX_HITS: 1000 * hits, PREFIX_QUERIES: 1000.0}, self._next_reading)
                self._next_reading += 60.0
            else:
                self._arrive(kind, arrival)
                arrival += self.luck.expovariate(kind.rate)
        self.now = until

    def _arrive(self, kind: Kind, at: float) -> None:
        self.watch.arrived(at)
        prompt = max(round(kind.prompt * math.exp(self.luck.gauss(0, kind.spread))), 1)
        output = max(round(kind.output * math.exp(self.luck.gauss(0, kind.spread))), 1)
        took = 0.2 + output / kind.speed
        sampled = self.luck.random() < 1 / 8
        measured = Measured(
            streamed=True,
            latency=round(took * 1e6),
            prompt_tokens=prompt if kind.told else None,
            output_tokens=output,
            told=kind.told,
            copied=round(1e6 * min(max(self.luck.gauss(kind.copied, 0.1), 0.0), 1.0)) if sampled else None,
        )
        heappush(self._ends, (at + took, at, measured, 4 * prompt + 100))

    def _end(self) -> None:
        at, began, measured, size = heappop(self._ends)
        self.watch.gone(at)
        self.answered += 1
        self.watch.answered(Timed(began=began, at=at, strategy=self.strategy, measured=measured, asked_bytes=size))
