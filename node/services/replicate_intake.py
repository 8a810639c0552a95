"""The one way of others' records into the history, and what is held kept in digests beside it.

Knows no stream, no gossip and no neighbour: whoever brought records is a name that is held to what it brought.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import structlog
import trio

from node.core.ledger import Ledger
from node.core.record_checks import Doubt
from node.errors import Unavailable
from node.record_ports import Admitted, History, Holding, Standing
from protocol import limits
from protocol.errors import Reason
from protocol.gossip import Verdict, verdict_of
from protocol.history import Held
from protocol.ids import PeerId, RecordName

log = structlog.get_logger(__name__)

# What an honest node may hold that this one refuses: its clock, its version, its moment are others.
QUARANTINED: Final = "quarantined"
BLAMELESS: Final = frozenset(reason.value for reason in Reason if verdict_of(reason) is Verdict.IGNORE) | {
    QUARANTINED,
    "not_retained",
    Doubt.CLOCK.value,
}
REMEMBERED: Final = 4096  # authors in quarantine; the history knows all of them
AT_LEAST: Final = 2.0  # s between two full looks at what is held
SHARE: Final = 0.05  # of the time that full looks may take: of 100,000 authors one takes half a second
A_LOT: Final = 256  # authors digested at a stretch: 2 ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What became of records that somebody brought.

    Attributes:
        news: names of those that are here now and were not.
        known: how many were here.
        offence: why the bringer is to blame; None where it is not.
    """

    news: tuple[RecordName, ...] = ()
    known: int = 0
    offence: str | None = None


class Intake:
    """Takes records in, and knows what is held."""

    def __init__(
        self,
        history: History,
        *,
        blame: Callable[[PeerId, str], None],
        forked: Callable[[RecordName, bytes], None],
    ) -> None:
        """Prepare.

        Args:
            blame: gets whoever brought what no honest node passes on, with the reason's code.
            forked: gets a name of which a second body has come, and that, sealed; of each author the first.
        """
        self._history = history
        self._blame = blame
        self._forked = forked
        self._ledger = Ledger()
        self._turn = trio.Lock()
        self._records = -1  # that the ledger speaks of, unless it is stale
        self._stale = True
        self._look_at = float("-inf")
        self.rejected: Counter[str] = Counter()
        self.quarantined: OrderedDict[PeerId, None] = OrderedDict()  # of late: what they say is not passed on
        self._forkers: OrderedDict[PeerId, None] = OrderedDict()  # whose fork was told
        self.new = self.known = self.forks = self.bytes = 0

    async def take(self, sealed: Sequence[bytes], *, via: PeerId | None) -> Taken:
        """Have the history judge records, at most a page of them; blame whoever is to blame.

        What comes after a record that is to blame for is not looked into.

        Args:
            via: who brought them; None where nobody is to be held to it.

        Raises:
            Unavailable: the disk refused.
        """
        news: list[RecordName] = []
        known = 0
        offence: str | None = None
        forked: list[tuple[RecordName, bytes]] = []
        touched: set[PeerId] = set()
        self._stale |= self._history.facts().records != self._records
        try:
            for at in range(0, len(sealed), limits.BATCH_RECORDS):
                some = sealed[at : at + limits.BATCH_RECORDS]
                verdicts = await self._history.admit(some, via=via)
                self.bytes += sum(map(len, some))
                touched |= {each.name.author for each in verdicts if each.name is not None}
                news += [each.name for each in verdicts if each.standing is Standing.NEW and each.name is not None]
                known += sum(each.standing is Standing.KNOWN for each in verdicts)
                forked += [
                    (each.name, raw)
                    for each, raw in zip(verdicts, some, strict=True)
                    if each.standing is Standing.FORK and each.name is not None
                ]
                if offence := self._offence(verdicts):
                    break
        finally:
            self.new += len(news)
            self.known += known
            # What else came or went (of others, to make room) is not known by name: a full look finds it.
            self._stale |= self._history.facts().records != self._records + len(news)
            await self._relearn(touched)
        if offence is not None and via is not None:
            self._blame(via, offence)
        for name, raw in forked:
            # Its author is in quarantine for it, and not blamed as a peer: both bodies are replayed by others, and who
            # signs with a stolen key must not have its owner turned away.
            if name.author not in self._forkers:
                self.forks += 1
                _keep(self._forkers, name.author)
                self._forked(name, raw)
            self._quarantine(name.author)
        return Taken(news=tuple(news), known=known, offence=offence)

    def _offence(self, verdicts: Sequence[Admitted]) -> str | None:
        offence: str | None = None
        for each in verdicts:
            if each.standing is Standing.REJECTED:
                self.rejected[each.reason] += 1
                if each.reason == QUARANTINED and each.name is not None:
                    self._quarantine(each.name.author)
                if each.reason not in BLAMELESS:
                    offence = each.reason
        return offence

    def _quarantine(self, author: PeerId) -> None:
        _keep(self.quarantined, author)

    # -- what is held

    async def ledger(self) -> Ledger:
        """Return what is held, as digests, a few seconds old at most where others than this have changed it."""
        async with self._turn:  # while somebody looks, half of it would be told for the whole
            changed = self._stale or self._history.facts().records != self._records
            if changed and trio.current_time() >= self._look_at:
                began = trio.current_time()
                await self._learn_all()
                took = trio.current_time() - began
                self._look_at = trio.current_time() + max(AT_LEAST, took / SHARE)
        return self._ledger

    async def own_came(self, me: PeerId) -> None:
        """Note that records of our own have come into the history otherwise."""
        self._stale |= self._history.facts().records < self._records
        await self._relearn({me})

    async def held(self, authors: Collection[PeerId]) -> list[Held]:
        """Return what is held of these authors now, in order."""
        return [as_held(each) for each in await self._history.holdings(authors)] if authors else []

    async def _relearn(self, authors: Collection[PeerId]) -> None:
        if not authors:
            return
        with trio.CancelScope(shield=True):  # short; left undone, the digests would not tell the truth
            async with self._turn:
                self._records = self._history.facts().records
                held: dict[PeerId, list[Holding]] = {author: [] for author in authors}
                try:
                    held |= _by_author(await self._history.holdings(authors))
                except Unavailable as error:
                    self._stale = True  # what came is in; a full look finds it once the disk answers
                    log.warning("replicate.not_looked_at", reason=error.message)
                    return
                for author, theirs in held.items():
                    self._ledger.put(author, [as_held(each) for each in theirs])

    async def _learn_all(self) -> None:
        self._records, self._stale, whole = self._history.facts().records, False, False
        try:
            held = _by_author(await self._history.holdings())
            for author in self._ledger.authors - held.keys():
                self._ledger.put(author, ())
            for number, (author, theirs) in enumerate(held.items()):
                self._ledger.put(author, [as_held(each) for each in theirs])
                if number % A_LOT == A_LOT - 1:
                    await trio.lowlevel.checkpoint()
            whole = True
        finally:
            self._stale |= not whole  # cancelled: whoever asked had no time for all of it


def _keep(memory: OrderedDict[PeerId, None], author: PeerId) -> None:
    memory[author] = None
    if len(memory) > REMEMBERED:
        memory.popitem(last=False)


def _by_author(holdings: Sequence[Holding]) -> dict[PeerId, list[Holding]]:
    return {author: list(theirs) for author, theirs in groupby(holdings, key=lambda each: each.author)}


def as_held(holding: Holding) -> Held:
    """Return what is held in the words of the wire."""
    return Held(author=holding.author, epoch=holding.epoch, ranges=holding.ranges, digest=holding.digest)
