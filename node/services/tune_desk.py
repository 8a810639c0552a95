"""What the parts of the tuner share: its ledger, its phase, the news that wait for a decision, and how a step is told.

Knows its hands (`node.tuner_ports`) and the table; decides nothing. Every step of the table is taken here, so that none
goes unsaid.
"""

from math import inf
from typing import Final

import structlog
import trio

from node.core.engine_state import EngineState
from node.core.strategy import Strategy
from node.core.tuner_policy import TunerPolicy
from node.core.tuning import Phase, TuningEvent, after
from node.core.tuning_ledger import Entry, Ledger, noted
from node.core.workload import Description
from node.services.tune_verify import Proof
from node.tuner_ports import TunerHands

log = structlog.get_logger(__name__)

SAVING: Final = 30.0  # s for a small file
REASON_CHARS: Final = 600  # of a history's entry; an engine's last words may be long
NEWS: Final = 32  # reasons that wait for one decision; more say nothing new
# Each minute's news and the engine's own comings and goings are logged; in the history they would drown the rest.
UNTOLD: Final = frozenset({TuningEvent.QUESTION, TuningEvent.KEEP, TuningEvent.SERVES, TuningEvent.SERVES_FIXED})


class Desk:
    """The tuner's state. `news`: reasons to decide anew, in their order. Times are the loop's, `ledger`'s are wall."""

    def __init__(self, hands: TunerHands, policy: TunerPolicy, ledger: Ledger, *, off: str) -> None:
        self.hands = hands
        self.policy = policy
        self.ledger = ledger
        self.phase = Phase.OFF if off else Phase.AWAY
        self.reason = off or "the engine does not serve yet"
        self.news: dict[str, None] = {}
        self.wish: Strategy | None = None
        self.wish_after = -inf  # it is done no sooner
        self.proof: Proof | None = None  # under way
        self.last_proof: Proof | None = None  # ended
        self.not_before = -inf  # no further switch, unless something urgent is said
        self.woken = trio.Event()
        self._saved = ledger
        self._asked = self._asked_first = hands.asked()
        self._asked_at = self.served_since = hands.clock()

    def go(self, event: TuningEvent, reason: str) -> None:
        """Take a step of the table, and say so everywhere."""
        before, self.phase = self.phase, after(self.phase, event)
        self.reason = reason[:REASON_CHARS]
        name, phase = self.hands.switch.strategy().name, self.phase.value
        log.info("tuner.step", before=before.value, step=event.value, phase=phase, strategy=name, reason=self.reason)
        told = {"phase": phase, "step": event.value, "strategy": name, "reason": self.reason}
        self.hands.tell("tuner", told)
        if event not in UNTOLD:
            step = Entry(
                at=self.hands.wall(),
                before=before.value,
                event=event.value,
                after=phase,
                strategy=name,
                reason=self.reason,
            )
            self.ledger = noted(self.ledger, step)

    async def save(self) -> None:
        """Have the ledger kept, if it is another than was kept last."""
        ledger = self.ledger
        if ledger is self._saved:
            return
        with trio.move_on_after(SAVING):
            await self.hands.file.save(ledger)
            self._saved = ledger

    def want(self, reason: str) -> None:
        """Note a reason to decide anew."""
        if len(self.news) < NEWS:
            self.news[reason] = None
        self.wake()

    def wake(self) -> None:
        """Have the loop look at once."""
        self.woken.set()
        self.woken = trio.Event()

    def note_prompts(self) -> None:
        """Note whether prompts came since the last look."""
        if (asked := self.hands.asked()) != self._asked:
            self._asked, self._asked_at = asked, self.hands.clock()

    @property
    def quiet_s(self) -> float:
        """Seconds since a prompt was seen, or since the engine serves, whatever is later."""
        return self.hands.clock() - max(self._asked_at, self.served_since)

    @property
    def unasked(self) -> bool:
        """Whether no prompt ever came."""
        return self.hands.asked() == self._asked_first

    @property
    def serves(self) -> bool:
        """Whether the engine serves."""
        return self.hands.engine().state is EngineState.READY

    @property
    def broken(self) -> bool:
        """Whether it does not come up, or is waited with until it is started once more."""
        return self.hands.engine().state in (EngineState.BACKOFF, EngineState.FAILED)

    @property
    def runs(self) -> Strategy:
        """What it runs, or is on its way to."""
        return self.hands.switch.strategy()

    @property
    def default(self) -> Strategy:
        """What it runs where nobody knows better."""
        return self.hands.candidates()[0]

    def description(self) -> Description | None:
        """Return the traffic of late."""
        return self.hands.watch.description(self.hands.clock())
