"""What runs of trials are for, in the terms of those who make them: an owner's request, and what idle time is for.

Knows requests, probes and the workshop; knows no engine, no clock and no book.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from node.core.probes import Probes
from node.core.strategy import DEFAULT
from node.core.trial_plan import Limits
from node.core.trial_request import PPM_PER_PERCENT, TrialRequest
from node.core.workload import Description
from node.core.workloads import MIRROR
from node.services.trials import Wish
from node.trial_ports import Workshop

RETRIES = 10  # in idle time, of a cell whose trials are discarded: its machine's owner may be at work for days

WishFor = Callable[[Workshop, float], Wish]  # for so many seconds


def wish_of(
    request: TrialRequest,
    workshop: Workshop,
    budget: float,
    *,
    retries: int = 2,
    description: Description | None = None,
) -> Wish:
    """Return the request in the terms of those who act on it. `budget` in seconds."""
    return Wish(
        kinds=request.workloads,
        description=description,
        repetitions=request.repetitions,
        retries=retries,
        limits=Limits(foreign=round(request.foreign * PPM_PER_PERCENT), waited=round(request.waited * PPM_PER_PERCENT)),
        budget=budget,
        wide=request.wide,
        most=request.strategies,
        again=request.fresh,
        gpus=workshop.gpus,
        context=workshop.context,
    )


def idle_wishes(probes: Probes | None) -> Sequence[WishFor]:
    """Return what idle time is for, in order: what somebody wants tried, then the plan that all nodes work off.

    Strategies that are wanted are tried beside the engine's own choice: a record is worth most as one of a pair.
    """

    def standard(workshop: Workshop, budget: float) -> Wish:
        return wish_of(TrialRequest(), workshop, budget, retries=RETRIES)

    if probes is None or not probes.strategies:
        return (standard,)
    strategies, description = tuple(dict.fromkeys((DEFAULT, *probes.strategies))), probes.description
    kinds = TrialRequest().workloads if description is None else (MIRROR,)

    def probing(workshop: Workshop, budget: float) -> Wish:
        return replace(standard(workshop, budget), strategies=strategies, kinds=kinds, description=description)

    return (probing, standard)
