"""The machine's owner: what is allowed of the engine, wired to the engine, the devices and the prompts.

The part of the composition that lets an engine give way. Decides nothing.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from node.core.operator_limits import OperatorLimits
from node.hands import Hands
from node.policies import Policies
from node.services.no_engine import NoEngine
from node.services.serve import LocalReplica
from node.services.tend import EngineKeeper
from node.services.yield_engine import EngineYielding

Tell = Callable[[str, Mapping[str, Any]], None]
Owning = EngineYielding


def owning_of(
    hands: Hands, policies: Policies, *, engine: EngineKeeper | NoEngine, local: LocalReplica, tell: Tell
) -> Owning:
    """Return what stops the engine at its owner's wish, and lets it go on."""
    return EngineYielding(
        engine=engine if isinstance(engine, EngineKeeper) else None,
        limits=OperatorLimits(policies.limits, slots=policies.admission.running, wall_minute=_wall_minute),
        read=hands.owner.read,
        running=lambda: local.counts().running,
        cap=local.set_cap,
        keep=hands.owner.keep,
        wall=lambda: hands.wall() / 1e6,
        tell=tell,
        grace=policies.drain,
        paused=hands.owner.paused,
    )


def _wall_minute(seconds: float) -> int:
    local = time.localtime(seconds)
    return local.tm_hour * 60 + local.tm_min
