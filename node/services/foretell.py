"""Curves for every peer: what this node's own learner foretells of each, kept on the shelf that decisions read.

Knows adverts, what records tell of machines, and the learner as somebody who may be late, mad or dead; knows no router.
A decision reads the shelf and waits for nothing here; what is not on it yet counts as nothing known. Cells that are
alike are asked about once, a few at a time, so that the loop never stands still for them.

    a peer said another advert, or came or went   its cells are made anew; what is new is asked about
    a lesson ended well                           everything is asked about again
    an hour went by                               likewise
    the learner does not answer                   asked again later and later; what it said last counts for a day, then
                                                  what memory and arithmetic alone say, or nothing: the composite
    it answers by physics what it had learnt      (it died, and was not taught again yet) what it had learnt counts on
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Final, Protocol

import structlog
import trio

from node.core.curves import LEARNER, ROWS, Curve, Shelf, read_curve, widened
from node.core.own_records import Setting
from node.core.peer_cells import OURS, Cell, Key, Known, own_cell
from node.core.rough_curves import rough_curve
from node.core.strategy import Strategy
from node.errors import NodeError, Unavailable
from protocol.advert import SERVE, Advert
from protocol.ids import PeerId
from protocol.records import Signed

log = structlog.get_logger(__name__)

LOOK: Final = 60.0  # s between looks at the book where nobody says that it changed
SETTLE: Final = 2.0  # s that other changes have to come too: in a large swarm there is always one
REST: Final = (
    20.0  # times as long as a look took is rested after it: of two thousand peers it takes a tenth of a second
)
BATCH: Final = 32  # cells in one question: its JSON takes the loop a millisecond
SLICE: Final = 8  # curves read or put between two looks at what else the loop has to do: half a millisecond
ASK: Final = 30.0  # s for one question; the learner's own deadline is shorter
AGAIN: Final = (5.0, 30.0, 120.0, 600.0)  # s after questions without an answer, by how many in a row
FRESH: Final = 3600.0  # s after which a curve is asked about again
VALID: Final = 86_400.0  # s that it counts where nobody answers
RELEARN: Final = 15.0  # s between changes of what records tell: with each, every cell is made anew
SETTING: Final = 60.0  # s for what this node's own engine serves; reading a configuration from a slow disk fits
WORDS: Final = 160


class Learner(Protocol):
    """Whom to ask (`node.services.learn`)."""

    @property
    def lessons(self) -> int:
        """How many lessons went well."""
        ...

    async def learnt(self, than: int) -> int:
        """Wait until more lessons than that went well; return how many did."""
        ...

    async def curves(self, cells: Sequence[Mapping[str, object]]) -> Sequence[Mapping[str, Any]]:
        """Return the curve of each cell. Raises `Unavailable`."""
        ...


class Book(Protocol):
    """Who is in the swarm (`node.core.peerbook`)."""

    def members(self, now: float) -> tuple[PeerId, ...]:
        """Return everybody."""
        ...

    def connections(self) -> frozenset[PeerId]:
        """Return who is connected."""
        ...

    def advert_of(self, peer: PeerId, now: float) -> Signed[Advert] | None:
        """Return the advert that counts now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """An engine of one's own.

    Attributes:
        now: its model's name and the strategy that it works under; None where it serves nothing.
        setting: what it serves, and on what; None where that is not known. Measures nothing.
    """

    now: Callable[[], tuple[str, Strategy] | None]
    setting: Callable[[], Awaitable[Setting | None]]


@dataclass(slots=True, kw_only=True)
class _Held:
    """A curve as it was said, when, and after how many lessons; None: what was said is none."""

    curve: Curve | None
    said_at: float
    asked_at: float
    lesson: int


@dataclass(slots=True, kw_only=True)
class _Wanted:
    """A replica's cell, what stands on the shelf for it, and what does where nobody says anything better."""

    cell: Cell
    put: Curve | None = None
    rough: Curve | None = None
    roughly: bool = False  # whether that was made

    def without_learner(self) -> Curve | None:
        """Return what the laws of memory and arithmetic alone say; None where too little is known."""
        if not self.roughly:
            self.rough, self.roughly = rough_curve(self.cell.row), True
        return self.rough


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """A peer's cells by model, and of what they were made."""

    rank: tuple[int, int]
    known: int
    cells: Mapping[str, Cell]


class Foretell:
    """Keeps the shelf. `run` is its one long-lived task."""

    def __init__(  # noqa: PLR0913 -- a list of capabilities
        self,
        shelf: Shelf,
        learner: Learner,
        *,
        me: PeerId,
        book: Book,
        known: Known,
        own: Own | None = None,
        most: int = ROWS - 1,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        """Prepare.

        Args:
            known: what records tell of machines and models; whoever changes it says so by `look_again`.
            own: None on a node without an engine.
            most: curves that are kept; of a larger swarm those connected come first.
        """
        self._shelf = shelf
        self._learner = learner
        self._me = me
        self._book = book
        self._known = known
        self._own = own
        self._most = most
        self._clock = clock
        self._own_setting: tuple[str, Setting] | None = None  # by the model's name
        self._own_tried_at = -inf
        self._facts_at = -inf
        self._facts = 0  # which version of what is known the cells are made of
        self._made: dict[PeerId, _Made] = {}
        self._wanted: dict[tuple[PeerId, str], _Wanted] = {}
        self._held: dict[Key, _Held] = {}
        self._news = trio.Event()
        self._lessons = 0
        self._failures = 0  # in a row
        self._not_before = -inf
        self._trouble = ""
        self._asked = self._answered = self._nonsense = self._unanswered = 0

    async def run(self) -> None:
        """Keep the shelf up to date; return never."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_lessons)
            while True:
                self._news = trio.Event()
                took = await self._look()
                await trio.sleep(min(REST * took, LOOK))
                with trio.move_on_after(self._rest()):
                    await self._news.wait()
                await trio.sleep(SETTLE)

    def look_again(self) -> None:
        """Note that the book, or this node's own engine, has changed."""
        self._news.set()

    def facts(self) -> dict[str, Any]:
        """Return how it stands, for `metainf status` and the metrics."""
        now = self._clock()
        ages = [now - held.said_at for held in self._held.values() if held.curve is not None]
        return {
            "wanted": len(self._wanted),
            "cells": len(self._held),
            "curves": dict(self._shelf.sources()),
            "asked": self._asked,
            "answered": self._answered,
            "unanswered": self._unanswered,
            "nonsense": self._nonsense,
            "oldest_s": max(ages, default=None),
            "authors": len(self._known),
            "trouble": self._trouble,
        }

    # -- what is wanted

    async def _look(self) -> float:
        """Make the cells of everybody who serves, put what is known of them, and ask for what is not.

        Returns the seconds that it took but for the asking.
        """
        await self._learn_own()
        began = self._clock()
        self._take_facts()
        wanted = await self._cells()
        for replica, model in [place for place in self._wanted if place not in wanted]:
            self._shelf.drop(replica, model)
        self._wanted = wanted
        self._tidy()
        await self._put()
        now = self._clock()
        took = now - began
        alone = all(replica == self._me for replica, _ in wanted)  # then there is nothing to decide
        if alone or now < self._not_before:
            return took
        rows = {each.cell.key: each.cell.row for each in wanted.values() if self._is_due(each.cell.key, now)}
        due = list(rows)
        for keys in (due[at : at + BATCH] for at in range(0, len(due), BATCH)):
            if not await self._ask(keys, [rows[key] for key in keys]):
                break
            await self._put()
        return took

    async def _cells(self) -> dict[tuple[PeerId, str], _Wanted]:
        """Return the cell of each replica and model, this node's own engine's first, then of those connected."""
        now = self._clock()
        found: dict[tuple[PeerId, str], Cell] = {}
        ours = None if self._own is None else self._own.now()
        if ours is not None and self._own_setting is not None and self._own_setting[0] == ours[0]:
            found[self._me, ours[0]] = own_cell(self._own_setting[1], ours[1])
        near = self._book.connections()
        members = sorted(self._book.members(now), key=lambda peer: peer not in near)
        self._made = {peer: self._made[peer] for peer in members if peer in self._made}
        for at, peer in enumerate(members):
            if len(found) >= self._most:
                break
            signed = self._book.advert_of(peer, now)
            if signed is not None and SERVE in signed.body.roles:
                for model, cell in (await self._cells_of(peer, signed.body)).items():
                    if len(found) < self._most:
                        found[peer, model] = cell
            await _breathe(at)
        before = self._wanted
        return {
            place: before[place] if place in before and _same(before[place].cell, cell) else _Wanted(cell=cell)
            for place, cell in found.items()
        }

    async def _cells_of(self, peer: PeerId, advert: Advert) -> Mapping[str, Cell]:
        made = self._made.get(peer)
        if made is None or (made.rank, made.known) != (advert.rank, self._facts):
            cells: dict[str, Cell] = {}
            for offer in advert.models:
                if offer.name not in cells:  # the first counts
                    cells[offer.name] = self._known.cell(advert, offer)  # a quarter of a millisecond
                    await trio.lowlevel.checkpoint()
            made = self._made[peer] = _Made(rank=advert.rank, known=self._facts, cells=cells)
        return made.cells

    async def _learn_own(self) -> None:
        """Find out what this node's own engine is, once for each model that it serves."""
        ours = None if self._own is None else self._own.now()
        if self._own is None or ours is None or (self._own_setting is not None and self._own_setting[0] == ours[0]):
            return
        if self._clock() < self._own_tried_at + LOOK:
            return
        self._own_tried_at = self._clock()
        setting = None
        with trio.move_on_after(SETTING):
            try:
                setting = await self._own.setting()
            except NodeError as error:
                self._trouble = str(error)[:WORDS]
        if setting is not None:
            self._own_setting = ours[0], setting
            self._known.hear(self._me, [setting], OURS)

    def _take_facts(self) -> None:
        """Have cells made of what is known now; not with every author that is read: then all cells are made anew."""
        now = self._clock()
        if self._known.version != self._facts and now >= self._facts_at + RELEARN:
            self._facts, self._facts_at = self._known.version, now

    # -- what the learner says

    def _is_due(self, key: Key, now: float) -> bool:
        held = self._held.get(key)
        return held is None or held.lesson != self._lessons or now - held.asked_at >= FRESH

    async def _ask(self, keys: Sequence[Key], rows: Sequence[Mapping[str, object]]) -> bool:
        """Ask about these cells and keep the answers; tell whether there was one."""
        lesson, said = self._lessons, None
        self._asked += len(keys)
        why = f"no curves came within {ASK:.0f} s"
        try:
            with trio.move_on_after(ASK):
                said = await self._learner.curves(rows)
        except Unavailable as error:
            why = str(error)
        if said is None:
            self._unanswered += len(keys)
            self._not_before = self._clock() + AGAIN[min(self._failures, len(AGAIN) - 1)]
            self._failures += 1
            self._tell(why)
            return False
        self._failures, self._trouble = 0, ""
        self._answered += len(keys)
        for at, (key, each) in enumerate(zip(keys, said, strict=False)):
            self._keep(key, each, lesson)
            await _breathe(at)
        return True

    def _keep(self, key: Key, said: Mapping[str, Any], lesson: int) -> None:
        now, before = self._clock(), self._held.pop(key, None)
        try:
            curve = read_curve(said)
        except ValueError as error:
            self._nonsense += 1
            self._tell(f"the learner said no curve: {error}")
            curve = None
        kept = None if before is None or now >= before.said_at + VALID else before
        if kept is not None and _better(kept.curve, curve):
            self._held[key] = replace(kept, asked_at=now, lesson=lesson)
        else:
            self._held[key] = _Held(curve=curve, said_at=now, asked_at=now, lesson=lesson)

    async def _put(self) -> None:
        """Have the shelf show what is held of what is wanted; what is held too long, or of nobody, is forgotten."""
        now = self._clock()
        for at, ((replica, model), each) in enumerate(list(self._wanted.items())):
            held = self._held.get(each.cell.key)
            curve = None if held is None or now >= held.said_at + VALID else held.curve
            if curve is None:
                if not each.roughly:
                    await trio.lowlevel.checkpoint()  # a third of a millisecond
                curve = each.without_learner()
            if curve is not each.put:
                each.put = curve
                if curve is None:
                    self._shelf.drop(replica, model)
                else:
                    self._shelf.put(replica, model, widened(curve, each.cell.doubt))
            await _breathe(at)

    def _tidy(self) -> None:
        """Forget what was said of cells that nobody has any more; for a while it is kept: peers come back."""
        now, keys = self._clock(), {each.cell.key for each in self._wanted.values()}
        self._held = {key: held for key, held in self._held.items() if key in keys or now < held.asked_at + FRESH}
        while len(self._held) > 2 * self._most:
            del self._held[next(iter(self._held))]

    def _rest(self) -> float:
        """Return how long to wait for news: until the learner may be asked again where it did not answer."""
        return min(LOOK, max(self._not_before - self._clock(), SETTLE)) if self._failures else LOOK

    def _tell(self, trouble: str) -> None:
        if trouble[:WORDS] != self._trouble:
            log.debug("foretell.trouble", reason=trouble[:WORDS])
        self._trouble = trouble[:WORDS]

    async def _follow_lessons(self) -> None:
        while True:
            self._lessons = await self._learner.learnt(self._lessons)
            self._not_before, self._failures = -inf, 0
            self._news.set()


def _same(one: Cell, other: Cell) -> bool:
    return one is other or (one.key, one.doubt) == (other.key, other.doubt)


def _better(held: Curve | None, said: Curve | None) -> bool:
    """Tell whether what was said before counts more: what was learnt than physics, and anything than nonsense."""
    return held is not None and (said is None or (held.source == LEARNER and said.source != LEARNER))


async def _breathe(at: int) -> None:
    """Let others have the loop after every few of many."""
    if at % SLICE == SLICE - 1:
        await trio.lowlevel.checkpoint()
