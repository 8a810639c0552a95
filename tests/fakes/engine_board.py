"""An engine board that a test writes on."""

import trio

from node.core.engine_state import EngineSnapshot, EngineState
from node.ports import Endpoint

READY = EngineSnapshot(state=EngineState.READY, since=0.0, model="tiny", strategy="default", reason="answers")


class FakeEngineBoard:
    """Shows what it was last told."""

    def __init__(self, snapshot: EngineSnapshot = READY, endpoint: Endpoint | None = None) -> None:
        self._snapshot = snapshot
        self._endpoint = endpoint or Endpoint(host="engine.invalid", port=1)
        self._changed = trio.Event()

    def show(self, snapshot: EngineSnapshot) -> None:
        self._snapshot = snapshot
        self._changed.set()
        self._changed = trio.Event()

    def show_state(self, state: EngineState, *, reason: str = "a test says so", progress: str = "") -> None:
        self.show(
            EngineSnapshot(state=state, since=0.0, model="tiny", strategy="default", reason=reason, progress=progress)
        )

    def snapshot(self) -> EngineSnapshot:
        return self._snapshot

    def endpoint(self) -> Endpoint | None:
        up = self._snapshot.state in {EngineState.READY, EngineState.DRAINING}
        return self._endpoint if up else None

    async def changed(self, than: EngineSnapshot) -> EngineSnapshot:
        while self._snapshot == than:
            await self._changed.wait()
        return self._snapshot
