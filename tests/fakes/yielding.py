"""An engine that is stopped and started, and devices that say what a test wants: for what gives way to the owner."""

from dataclasses import dataclass, field, replace

import trio

from node.core.engine_state import EngineSnapshot, EngineState
from node.core.operator_limits import Pause, Readings


class FakeYieldingEngine:
    """Keeps the promises of `node.services.yield_engine.YieldingEngine` as the keeper does, without a process."""

    def __init__(self, state: EngineState = EngineState.READY) -> None:
        self.running = 0  # prompts
        self.wanted = state is not EngineState.STOPPED
        self.deadline = float("-inf")
        self.started: list[str] = []
        self.cut = 0  # prompts that did not end by themselves
        self._snapshot = EngineSnapshot(state=state, since=0.0, model="tiny", strategy="default", reason="")
        self._news = trio.Event()

    def snapshot(self) -> EngineSnapshot:
        return self._snapshot

    async def changed(self, than: EngineSnapshot) -> EngineSnapshot:
        while self._snapshot == than:
            await self._news.wait()
        return self._snapshot

    def start(self, *, reason: str) -> None:
        self.wanted = True
        self.started.append(reason)
        self.become(EngineState.READY, reason)

    async def stop(self, *, reason: str, grace: float = 0.0) -> None:
        self.wanted, self.deadline = False, trio.current_time() + grace
        if self._snapshot.state is not EngineState.STOPPED:
            self.become(EngineState.DRAINING, reason)
        while self.running and trio.current_time() < self.deadline:  # noqa: ASYNC110 -- a count that tests set
            await trio.sleep(0.05)
        if not self.wanted and self._snapshot.state is not EngineState.STOPPED:
            self.cut, self.running = self.cut + self.running, 0
            self.become(EngineState.STOPPED, reason)

    def become(self, state: EngineState, reason: str = "") -> None:
        self._snapshot = replace(self._snapshot, state=state, reason=reason, since=trio.current_time())
        self._news.set()
        self._news = trio.Event()


@dataclass(slots=True)
class FakeDevices:
    """Readings, and how long the driver takes to say them."""

    says: Readings = field(default_factory=Readings)
    takes: float = 0.0
    asked: int = 0

    async def read(self) -> Readings:
        self.asked += 1
        await trio.sleep(self.takes)
        return self.says


@dataclass(slots=True)
class FakePauseFile:
    """Keeps the last pause."""

    kept: Pause | None = None
    writes: int = 0

    async def keep(self, pause: Pause | None) -> None:
        await trio.sleep(0.01)  # the disk's
        self.kept, self.writes = pause, self.writes + 1
