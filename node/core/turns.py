"""Whose turn it is to take an engine away for a moment, so that a swarm never takes all of a model's at once.

Knows no network and no clock: what the others say goes in with the time, a decision with its reason comes out.
Specification: docs/protocol/advert.md, "Taking turns".

Theory. All who serve a model see about the same adverts, so one rule puts them in one order without a vote: whoever
has its turn keeps it, and of those who want one the lowest peer id is next. Words need a moment to get around; so
everybody waits for that first, and a moment longer by luck, before it looks whether it is next. A node that waits for
us still serves, so two that both want to go need no third.

Adverts are claims, and their authors die. So an intent counts only in an advert that counts, for a bounded share of
our wait, and the wait itself is bounded: coordination is a courtesy and must not be a lock that a liar can hold.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from protocol.advert import SWITCHING
from protocol.ids import PeerId

SPREAD = 3.0  # s for an advert to reach all: gossip takes less than one, and changes of one node share half of one
LUCK_FIRST, LUCK_LAST = 0.5, 2.0  # s beside it, by luck: who wants to go by the same event asks one after another
INTENT_COUNTS = 300.0  # s of our wait that one peer may keep us from our turn: most engines are back sooner
LONGEST = 900.0  # s after which anybody goes, whatever the others say
AT_ONCE = 4  # one in so many of those that serve may be away at once: where they are many, turns come sooner
QUIET = 30.0  # s that the only replica looks for a moment without prompts, for its prompts will have to be held


@dataclass(frozen=True, slots=True, kw_only=True)
class Other:
    """Another node that offers the model now.

    Attributes:
        intends: its word (`protocol.advert`), "" for none.
        serves: whether it said a moment ago that it would take a prompt.
    """

    peer: PeerId
    intends: str = ""
    serves: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """Whether we go now, and why (not), in words."""

    go: bool
    why: str


class Wait:
    """One node's wait for its turn."""

    def __init__(self, me: PeerId, *, began: float, luck: float) -> None:
        """Begin it, as the intent is announced. `began`: the loop's time; `luck`: in [0, 1)."""
        self._me = me
        self._began = began
        self._heard_at = began + SPREAD + LUCK_FIRST + (LUCK_LAST - LUCK_FIRST) * luck
        self._counted: dict[PeerId, float] = {}  # seconds of this wait in which a peer kept us
        self._looked = began

    def look(self, others: Iterable[Other], *, running: int, now: float) -> Look:
        """Decide. `others` without ourselves; `running`: prompts at our engine. Look about once a second."""
        present = tuple(others)
        self._count(present, now)
        if now - self._began >= LONGEST:
            return Look(go=True, why=f"waited for {LONGEST / 60:.0f} minutes, which is long enough")
        if now < self._heard_at:
            return Look(go=False, why="the swarm is being told")
        ahead = sum(map(self._is_ahead, present))
        if ahead >= max(1, (1 + sum(each.serves for each in present)) // AT_ONCE):
            return Look(go=False, why=f"{ahead} of those who serve the model go first")
        if any(each.serves and self._defers(each) for each in present):
            return Look(go=True, why="others serve the model meanwhile")
        if any(each.intends for each in present):
            # Not ours to go by what we no longer believe: those may well be away.
            return Look(go=False, why="nobody else serves the model now")
        return self._alone(running, now)

    def _alone(self, running: int, now: float) -> Look:
        if not running:
            return Look(go=True, why="nobody else serves the model, and nothing runs")
        if now - self._heard_at >= QUIET:
            return Look(go=True, why="nobody else serves the model, and it is never quiet")
        return Look(go=False, why="nobody else serves the model: waiting for a quiet moment")

    def _count(self, present: tuple[Other, ...], now: float) -> None:
        """Note for how long each has kept us; those who wait like us keep nobody while another one is away."""
        passed, self._looked = now - self._looked, now
        away = [each for each in present if each.intends == SWITCHING and self._is_ahead(each)]
        for each in away or present:
            if each.intends:
                self._counted[each.peer] = self._counted.get(each.peer, 0.0) + passed

    def _is_ahead(self, other: Other) -> bool:
        if not other.intends or self._counted.get(other.peer, 0.0) > INTENT_COUNTS:
            return False
        return other.intends == SWITCHING or other.peer < self._me

    def _defers(self, other: Other) -> bool:
        """Whether it stays while we are away: it wants nothing, or waits for us."""
        return not other.intends or (other.intends != SWITCHING and other.peer > self._me)
