"""Watching what this node's own engine does with the prompts that it gets, and having records of it written.

Knows no prompt and no record's arithmetic: it opens a window over the engine's life, reads the engine's counters at
both ends, and hands what came together to whoever writes. At most one window in ten minutes becomes a record, however
busy the node is and however often its engine is started: a record is signed, kept and passed on by everybody. What the
counters grew by each minute it tells the traffic's watch too, and that alone where nothing is to be written.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import inf

import structlog
import trio

from node.core.engine_counters import PREEMPTIONS, Counters, growth, read_counters
from node.core.engine_state import EngineState
from node.core.own_records import Compose, Setting
from node.core.strategy import Strategy
from node.core.traffic import LONGEST, SPAN, Traffic, Verdict, Window, life_of
from node.core.traffic_records import record_of
from node.errors import NodeError
from node.ports import EngineBoard
from protocol.errors import LocalProtocolError

TICK = 60.0  # s between looks at a window that is open: an engine that dies takes its counters with it
FLUSH_SECONDS = 5.0  # for the last look at the counters of an engine that is about to end
SETTING_DEADLINE = 60.0  # s; reading a model's configuration from a slow disk fits

log = structlog.get_logger(__name__)


class Observer:
    """Turns traffic into records. `run` is its one long-lived task; without it nothing is recorded."""

    def __init__(
        self,
        traffic: Traffic,
        *,
        board: EngineBoard,
        strategy: Callable[[], Strategy],
        setting: Callable[[], Awaitable[Setting | None]],
        metrics: Callable[[], Awaitable[bytes]],
        write: Callable[[Sequence[Compose]], Awaitable[Sequence[object]]] | None,
    ) -> None:
        """Prepare.

        Args:
            strategy: that the engine runs now.
            setting: model, machine and engine, as records tell of them; None where that is not known. It measures
                nothing: prompts are being answered.
            metrics: the engine's own metrics page, b"" where it has none; ends by itself in time.
            write: signs and keeps records, and returns those that it kept; what was once begun there ends by itself.
                None: nothing is to be told of traffic.
        """
        self._traffic = traffic
        self._board = board
        self._strategy = strategy
        self._setting = setting
        self._metrics = metrics
        self._write = write
        self._records = self._dropped = 0
        self._next_record = -inf  # the loop's time before which none is written
        self._taken: trio.Event | None = None  # set when the window that is open has had its last look

    def facts(self) -> Mapping[str, int]:
        """Tell how many windows became records, how many did not, and how many answers the open one has."""
        window = self._traffic.window
        return {
            "records": self._records,
            "dropped": self._dropped,
            "answers": 0 if window is None else len(window.answers),
        }

    async def flush(self) -> None:
        """End the window that is open and have it written with ten answers or more: its strategy is being given up.

        Returns when the engine was looked at for the last time, in `FLUSH_SECONDS` at most; the record follows, ten
        minutes after the one before.
        """
        taken = self._taken
        if taken is None or not self._traffic.hurry():
            return
        with trio.move_on_after(FLUSH_SECONDS):
            await taken.wait()

    async def run(self) -> None:
        """Watch one window after another; return never."""
        while True:
            snapshot = self._board.snapshot()
            strategy = self._strategy()
            if snapshot.state is not EngineState.READY or snapshot.strategy != strategy.name:
                await self._board.changed(snapshot)
                continue
            kept = await self._watch(strategy)
            if self._write is not None and kept is not None and kept.began is not None:
                # Until its ten minutes are over, whatever becomes of the engine: a restart begins no shorter ones.
                await trio.sleep_until(kept.began + SPAN)

    async def _watch(self, strategy: Strategy) -> Window | None:
        """Watch one window to its end; return it if it is kept."""
        snapshot = self._board.snapshot()
        opening = latest = await self._read()
        if life_of(self._board.snapshot()) != life_of(snapshot):
            return None
        woken, taken = trio.Event(), trio.Event()
        self._traffic.on_full = woken.set
        self._taken = taken
        window = self._traffic.open(life_of(snapshot), trio.current_time())
        try:
            seen = 0
            while (verdict := window.verdict(trio.current_time())) is Verdict.GO_ON:
                with trio.move_on_after(self._patience(window)):
                    await woken.wait()
                self._traffic.look(self._board.snapshot())
                if not window.over and seen != window.arrivals.count:
                    seen = window.arrivals.count
                    latest = await self._look(latest)
            if not window.over and verdict is Verdict.KEEP:
                latest = await self._look(latest)
        finally:
            self._traffic.close(trio.current_time())
            self._taken = None
            taken.set()
        if verdict is Verdict.DROP:
            self._dropped += 1
            log.debug("traffic.dropped", answers=len(window.answers), failures=window.failures)
            return None
        grown = growth(opening, latest)
        if window.over:  # the last reading was up to a minute before: good for shares, and too low for a count
            grown = {name: value for name, value in grown.items() if name != PREEMPTIONS}
        await self._tell(window, strategy, grown)
        return window

    def _patience(self, window: Window) -> float:
        """Return how long until the window has to be looked at, in seconds."""
        if window.began is None:
            return TICK
        ends = [window.began + SPAN, window.began + LONGEST]
        return min([TICK, *(end - trio.current_time() for end in ends if end > trio.current_time())])

    async def _look(self, before: Counters) -> Counters:
        """Read the counters and tell the watch what they grew by; return them, or the earlier where there are none."""
        latest = await self._read()
        if not latest:
            return before
        self._traffic.watch.counted(growth(before, latest), trio.current_time())
        return latest

    async def _tell(self, window: Window, strategy: Strategy, grown: Counters) -> None:
        if self._write is None:
            return
        setting: Setting | None = None
        try:
            with trio.move_on_after(SETTING_DEADLINE):
                setting = await self._setting()
            if setting is None:
                self._dropped += 1
                log.info("traffic.unwritten", reason="model or machine is not known")
                return
            compose = record_of(window, strategy=strategy, setting=setting, grown=grown)
            # One that was long in coming may be followed by one that was full at once.
            await trio.sleep_until(self._next_record)
            kept = await self._write([compose])
            self._next_record = trio.current_time() + SPAN
        except (NodeError, LocalProtocolError) as error:
            # The disk is full, the model's folder is gone, a draft model has no name: the next may go better.
            self._dropped += 1
            log.warning("traffic.unwritten", reason=str(error))
        else:
            self._records += len(kept)
            self._dropped += not kept
            log.info("traffic.recorded", kept=len(kept), answers=len(window.answers), failures=window.failures)

    async def _read(self) -> Counters:
        return read_counters(await self._metrics())
