"""What an owner may ask of trials, as a value that travels from the command line to a running node.

Knows bounds and defaults; knows neither options nor pages.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final, cast

import msgspec
from msgspec import Meta

from node.core.trial_plan import FOREIGN_LIMIT, WAITED_LIMIT
from node.core.workloads import KINDS, MIRROR

MINUTES: Final = 15.0  # nine strategies, three workloads, three repetitions on two cores
PPM_PER_PERCENT: Final = 10_000
WORKLOADS: Final = (*KINDS, MIRROR)  # the last is made like the node's own traffic, and only where one is known

_PerCent = Annotated[float, Meta(ge=0, le=100)]


class InvalidRequest(ValueError):
    """It is no request for trials."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRequest:
    """How much is to be tried.

    Attributes:
        budget: minutes until no further session is begun.
        strategies: only the first so many. `wide`: of more of them. `fresh`: a new run.
        foreign, waited: beyond which a trial is discarded, in per cent.
    """

    budget: Annotated[float, Meta(gt=0, le=10_080)] = MINUTES
    repetitions: Annotated[int, Meta(ge=1, le=100)] = 3
    workloads: Annotated[tuple[str, ...], Meta(min_length=1, max_length=len(WORKLOADS))] = KINDS[:3]
    strategies: Annotated[int, Meta(ge=1)] | None = None
    wide: bool = False
    fresh: bool = False
    foreign: _PerCent = FOREIGN_LIMIT / PPM_PER_PERCENT
    waited: _PerCent = WAITED_LIMIT / PPM_PER_PERCENT


def to_plain(request: TrialRequest) -> dict[str, Any]:
    """Return the request as JSON has it. `from_plain` undoes it."""
    return asdict(request)


def from_plain(plain: object) -> TrialRequest:
    """Read a request; what it does not say is as by default.

    Raises:
        InvalidRequest: what is wrong with it.
    """
    try:
        request = msgspec.convert(plain, TrialRequest)
    except msgspec.ValidationError as error:
        raise InvalidRequest(str(error)) from error
    if unknown := set(request.workloads) - set(WORKLOADS):
        raise InvalidRequest(f"no workload is called {min(unknown)[:64]}; there are {', '.join(WORKLOADS)}")
    more = {str(key) for key in cast("Mapping[object, object]", plain)} - set(to_plain(request))
    if more:  # a word misspelt would be an hour of the wrong trials
        raise InvalidRequest(f"there is no {min(more)[:64]} in a request for trials")
    return request
