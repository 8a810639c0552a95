"""Taking turns at taking the engine away: the intent announced, the turn waited for, the intent withdrawn.

Knows no transport: the announcer says what `intends` returns, the book and the standings tell of the others. Whose
turn it is, is decided in `node.core.turns`.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import structlog
import trio

from node.core.peerbook import SHORTLIST, Peerbook
from node.core.standings import Standings
from node.core.turns import Other, Wait
from protocol.advert import SWITCH, SWITCHING, model_name
from protocol.ids import PeerId

LOOK = 1.0  # s between two looks

log = structlog.get_logger(__name__)


class Watch(Protocol):
    """Keeps an eye on peers (`node.services.watch_load`)."""

    def want(self, peers: tuple[PeerId, ...]) -> None:
        """Note that somebody is interested in how busy these are."""
        ...


class Turns:
    """The turns of one node among those that serve the same model."""

    def __init__(  # noqa: PLR0913 -- each is one capability
        self,
        *,
        me: PeerId,
        book: Peerbook,
        standings: Standings,
        watch: Watch,
        running: Callable[[], int],
        announce: Callable[[], None],
        luck: Callable[[], float],
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        """Prepare.

        Args:
            running: prompts at this node's engine.
            announce: has the advert said anew, soon.
            luck: uniform in [0, 1).
        """
        self._me = me
        self._book = book
        self._standings = standings
        self._watch = watch
        self._running = running
        self._announce = announce
        self._luck = luck
        self._clock = clock
        self._intends: str | None = None
        self._one = trio.Lock()

    def intends(self) -> str | None:
        """Return the word for the advert (`protocol.advert`); None while nothing is intended."""
        return self._intends

    @asynccontextmanager
    async def taken(self, model: str) -> AsyncIterator[None]:
        """Enter once it is this node's turn to take the engine of a model away; leave once it serves again.

        A node that is connected with nobody has its turn at once; otherwise it takes seconds, and 15 minutes at most.
        One at a time; cancelled, the intent is withdrawn.
        """
        async with self._one:
            try:
                if self._book.connections():
                    self._say(SWITCH)
                    await self._until_next(model)
                self._say(SWITCHING)
                yield
            finally:
                self._say(None)

    def _say(self, word: str | None) -> None:
        self._intends = word
        self._announce()

    async def _until_next(self, model: str) -> None:
        began = self._clock()
        wait, told = Wait(self._me, began=began, luck=self._luck()), ""
        while True:
            look = wait.look(self._others(model), running=self._running(), now=self._clock())
            if look.why != told:
                log.info("turn.go" if look.go else "turn.waits", why=look.why)
                told = look.why
            if look.go:
                return
            await trio.sleep(LOOK)

    def _others(self, model: str) -> tuple[Other, ...]:
        """Return the others that offer the model: those who intend something all, of the rest as many as are asked."""
        now, wanted = self._clock(), model_name(model)
        if wanted is None:
            return ()  # nobody can ask for it by such a name
        candidates = self._book.candidates(wanted, now)
        stay = [each for each in candidates if not each.advert.intends]
        stay.sort(key=lambda each: not each.connected)
        asked = [each for each in candidates if each.advert.intends] + stay[:SHORTLIST]
        self._watch.want(tuple(each.peer for each in asked))
        others: list[Other] = []
        for each in asked:
            standing = self._standings.standing(each.peer, now)
            serves = standing.known and not standing.closed
            others.append(Other(peer=each.peer, intends=each.advert.intends or "", serves=serves))
        return tuple(others)
