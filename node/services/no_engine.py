"""What stands in the engine's place on a node that runs none: a board that says so, and never changes."""

import trio

from node.core.engine_state import EngineSnapshot, EngineState, ServedModel
from node.ports import Endpoint


class NoEngine:
    """An `EngineBoard` that is off, with the keeper's verbs as far as they mean anything."""

    def __init__(self) -> None:
        self._snapshot = EngineSnapshot(
            state=EngineState.OFF, since=0.0, model=None, strategy=None, reason="this node runs no engine"
        )

    def snapshot(self) -> EngineSnapshot:
        """See the port."""
        return self._snapshot

    def endpoint(self) -> Endpoint | None:
        """See the port."""
        return None

    def models(self) -> tuple[ServedModel, ...]:
        """Return what it serves: nothing."""
        return ()

    async def changed(self, than: EngineSnapshot) -> EngineSnapshot:
        """See the port; nothing ever changes."""
        if than == self._snapshot:
            await trio.sleep_forever()
        return self._snapshot

    async def run(self) -> None:
        """Return at once."""
        await trio.lowlevel.checkpoint()

    def restart(self, *, reason: str, grace: float = 0.0) -> None:
        """Do nothing: there is nothing to restart."""

    async def stop(self, *, reason: str, grace: float = 0.0) -> None:
        """Return at once."""
        del reason, grace
        await trio.lowlevel.checkpoint()
