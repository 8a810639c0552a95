"""What to ask a neighbour for next, to have what it has and this node lacks: one exchange from the opener's side.

Knows no stream and no store. Answers go in, questions come out; what the neighbour says is held to the rules of
`protocol.history` and to bounds, so that a liar wastes a bounded time and a bounded memory and nothing else.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from protocol import limits, ranges
from protocol.history import (
    Alike,
    Buckets,
    Compare,
    Fetch,
    Held,
    Holdings,
    List,
    Page,
    Place,
    Question,
    Want,
    check_listing,
    rest_of,
    root,
    unlike,
)
from protocol.ids import Epoch, PeerId, RecordName
from protocol.ranges import Ranges

SLICE: Final = 32  # records of one author in one turn: a new node hears a little of everybody before all of anybody
WANTED: Final = 4096  # authors and epochs that are wanted at a time; listing goes on when these are done
PROMISED: Final = 16_384  # in one exchange: the next takes up what is left
EMPTY_PAGES: Final = 8  # in a row: whoever lists that much and has none of it is not asked on

Series = tuple[PeerId, Epoch]  # an author's records of one epoch


@dataclass(slots=True)
class _Wanted:
    promised: Ranges
    left: Ranges
    digest: bytes
    news: bool = False


class Pull:
    """One exchange. Ask `question()`, hand in the answer, until there is nothing more to ask."""

    def __init__(self, digests: bytes, *, skip: Callable[[Held], bool]) -> None:
        """Begin.

        Args:
            digests: of this node's buckets (`Ledger.digests`).
            skip: whether a holding is not worth asking for: the same brought nothing a while ago.
        """
        self._ours = digests
        self._skip = skip
        self._question: Question | None = Compare(digest=root(digests))
        self._unlike = b""
        self._after: Place | None = None
        self._more = False
        self._wanted: dict[Series, _Wanted] = {}
        self._turns: deque[Series] = deque()  # those of which there is something left to ask
        self._promised = 0
        self._empty = 0

    def question(self) -> Question | None:
        """Return what to ask now; None when the exchange is over."""
        if self._question is None:
            self._question = self._next()
        return self._question

    @property
    def cut_short(self) -> bool:
        """Whether there is more to be had than this exchange would ask for."""
        return self._more or bool(self._turns)

    @property
    def in_vain(self) -> bool:
        """Whether the neighbour promised much and had nothing of it."""
        return self._empty >= EMPTY_PAGES

    def compared(self, answer: Alike | Buckets) -> None:
        """Take the answer to `Compare`. Raises: RemoteProtocolError."""
        self._question = None
        if isinstance(answer, Buckets):
            self._unlike = unlike(self._ours, answer.digests)
            self._more = True

    def listed(self, answer: Holdings, ours: Mapping[Series, Held]) -> None:
        """Take the answer to `List`, given what this node holds of the authors in it. Raises: RemoteProtocolError."""
        asked, self._question = self._question, None
        assert isinstance(asked, List)  # noqa: S101 -- the dialogue lets no other answer through
        check_listing(asked, answer)
        for theirs in answer.held:
            series = theirs.author, theirs.epoch
            missing = _missing(theirs, ours.get(series))
            if missing and not self._skip(theirs):
                self._wanted[series] = _Wanted(missing, missing, theirs.digest)
                self._turns.append(series)
                self._promised += 1
        self._more = answer.more
        if answer.held:
            self._after = answer.held[-1].place

    def paged(self, answer: Page) -> None:
        """Take the answer to `Fetch`. Raises: RemoteProtocolError."""
        asked, self._question = self._question, None
        assert isinstance(asked, Fetch)  # noqa: S101 -- likewise
        rest = rest_of(asked, answer)
        self._empty = 0 if answer.records else self._empty + 1
        if rest:
            self._question = Fetch(wants=rest)
        if self.in_vain:
            self._question = None

    def brought(self, news: Iterable[RecordName]) -> bool:
        """Note records that were new; return whether all of them were among those that the neighbour promised."""
        promised = True
        for name in news:
            wanted = self._wanted.get((name.author, name.epoch))
            if wanted is None or not any(first <= name.seq <= last for first, last in wanted.promised):
                promised = False
            else:
                wanted.news = True
        return promised

    def fruitless(self) -> list[tuple[Series, bytes]]:
        """Return what was asked for to the end and brought nothing, with the digest that was promised."""
        return [
            (series, wanted.digest)
            for series, wanted in self._wanted.items()
            if not wanted.left and not wanted.news and not self._asks_for(series)
        ]

    def _asks_for(self, series: Series) -> bool:
        asked = self._question
        return isinstance(asked, Fetch) and any((want.author, want.epoch) == series for want in asked.wants)

    def _next(self) -> Question | None:
        if self.in_vain:
            return None
        if self._more and len(self._turns) < WANTED and self._promised < PROMISED:
            return List(buckets=self._unlike, after=self._after)
        if not self._turns:
            return None
        return Fetch(wants=tuple(self._take() for _ in range(min(limits.HISTORY_WANTS, len(self._turns)))))

    def _take(self) -> Want:
        series = self._turns.popleft()
        wanted = self._wanted[series]
        now = ranges.newest(wanted.left, pieces=limits.HISTORY_WANT_RANGES, numbers=SLICE)
        wanted.left = ranges.minus(wanted.left, now)
        if wanted.left:
            self._turns.append(series)
        return Want(author=series[0], epoch=series[1], ranges=now)


def _missing(theirs: Held, ours: Held | None) -> Ranges:
    if ours is None:
        return theirs.ranges
    if theirs.ranges == ours.ranges:
        return () if theirs.digest == ours.digest else theirs.ranges  # one record at least is not the same
    return ranges.minus(theirs.ranges, ours.ranges)
