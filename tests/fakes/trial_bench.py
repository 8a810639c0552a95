"""A bench without engines: answers each load with figures that the test decides, in virtual time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import trio

from node.core.strategy import Strategy
from node.core.trial_plan import Failure
from node.trial_ports import Answered, BenchFacts, Built, Hear, Order, Raw

BUILD_SECONDS = 5.0
PREFILL_PER_S, DECODE_PER_S = 1000, 40

FACTS = BenchFacts(vllm="0.32.0", torch="2.13.0", build="cpu", model="tiny")

Fate = Callable[[Strategy, str, int], dict[str, Any] | Failure]


def figures(order: Order, load: str, *, speed: float = 1.0, **more: Any) -> dict[str, Any]:
    """What an engine reports that works requests off one after the other."""
    rows: list[dict[str, int]] = []
    at = 0
    for request in dict(order.loads)[load]:
        first = max(at, request.at_us) + int(request.prompt_tokens * 1e6 / PREFILL_PER_S / speed)
        at = first + int((request.max_tokens - 1) * 1e6 / DECODE_PER_S / speed)
        rows.append(
            {
                "at": request.at_us,
                "prompt": request.prompt_tokens,
                "first": first,
                "end": at,
                "tokens": request.max_tokens,
                "cached": 0,
            }
        )
    machine = {"cores": 2, "wall_us": at, "cpu_us": at, "busy_us": at, "waited_us": 0, "drafted": 0}
    return {"requests": rows, **machine, **more}


@dataclass
class FakeBench:
    """Keeps the port `Bench`. `fate` decides the figures (changes to them) or the failure of each load."""

    fate: Fate = lambda _strategy, _load, _number: {}
    facts: BenchFacts = FACTS
    max_model_len: int = 2048
    orders: list[Order] = field(default_factory=list)

    async def run(self, order: Order, hear: Hear) -> None:
        """Build, answer, end; a failure ends the order."""
        self.orders.append(order)
        await trio.sleep(BUILD_SECONDS)
        first = self.fate(order.strategy, "build", len(self.orders))
        if isinstance(first, Failure):
            await hear(first)
            return
        await hear(Built(seconds=BUILD_SECONDS, facts={"max_model_len": self.max_model_len}))
        for load, requests in order.loads:
            fate = self.fate(order.strategy, load, len(self.orders))
            if isinstance(fate, Failure):
                await hear(fate)
                return
            made = figures(order, load) | fate
            await trio.sleep(made["wall_us"] / 1e6)
            await hear(Answered(load=load, answered=len(requests), of=len(requests)))
            await hear(Raw(load=load, figures=made))
