"""One engine process, held by a task of its own: so that two may live at once, and either may go first.

Knows the launcher as a port, and nothing of health, states or plans beyond handing them over.
"""

import trio

from node.core.engine_end import describe_end, hopeless, lacked_memory
from node.core.switching import CRASHED, OUT_OF_MEMORY, START_FAILED
from node.errors import EngineUnavailable
from node.ports import EngineExit, EngineLauncher, EngineProcess, LaunchPlan
from node.services.engine_watch import Fault


class Held:
    """A process, from its birth until nothing of it is left. Made by `hold`."""

    def __init__(self, process: EngineProcess, plan: LaunchPlan, *, now: float) -> None:
        self.process = process
        self.plan = plan
        self.born = now
        self._release = trio.Event()
        self._gone = trio.Event()

    async def let_go(self) -> None:
        """Kill what is left of it; return once nothing is. Cannot be cancelled: it ends as soon as a kill does."""
        with trio.CancelScope(shield=True):
            self._release.set()
            await self._gone.wait()

    async def keep(self) -> None:
        """Wait until it is to go. For the task that holds it."""
        await self._release.wait()

    def vanished(self) -> None:
        """Say that it is gone. For the task that holds it."""
        self._gone.set()

    def fault(self, ended: EngineExit, *, starting: bool) -> Fault:
        """Return what an end means that was not asked for."""
        when = "while starting" if starting else "while serving"
        if lacked_memory(ended.signal, ended.log_tail):
            result = OUT_OF_MEMORY
        else:
            result = START_FAILED if ended.signal is None else CRASHED
        return Fault(
            result=result,
            words=f"the engine {describe_end(ended.code, ended.signal, ended.log_tail)} ({when})",
            log_tail=ended.log_tail,
            hopeless=starting and hopeless(ended.code, ended.log_tail),
        )


async def hold(nursery: trio.Nursery, launcher: EngineLauncher, plan: LaunchPlan) -> Held:
    """Launch an engine in a task of the nursery. Cancelled before it returns, nothing is left.

    Raises:
        EngineUnavailable: it cannot be started here.
    """
    told = await nursery.start(_holding, launcher, plan)
    if isinstance(told, EngineUnavailable):
        raise told  # carried out by hand: raised in the task it would come wrapped into a group
    return told


async def _holding(
    launcher: EngineLauncher,
    plan: LaunchPlan,
    *,
    task_status: trio.TaskStatus[Held | EngineUnavailable],
) -> None:
    held: Held | None = None
    try:
        async with launcher.launch(plan) as process:
            held = Held(process, plan, now=trio.current_time())
            task_status.started(held)
            await held.keep()
    except EngineUnavailable as error:
        if held is not None:
            raise  # no launch is refused once it is made
        task_status.started(error)
    finally:
        if held is not None:
            held.vanished()
