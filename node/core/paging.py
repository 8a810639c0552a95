"""How an answer of the exchange of histories is put together piece by piece, within its bounds.

Knows no stream and no store: whoever answers reads a piece from the store for each place that is left.
"""

from collections.abc import Iterable, Sequence

from protocol import limits
from protocol.history import Fetch, Held, Holdings, List, Page, Want, is_in, point_after

_VALUES_OF_ONE = 12  # a holding's map, its four keys and values, and the list of ranges
_ROOM = limits.HISTORY_VALUES - 64  # values, less the message around


def listing(asked: List, held: Iterable[Held], *, more: bool) -> Holdings:
    """Return as much of what is held as one listing says.

    Args:
        held: of authors in order, of each the newest epoch first; at least all epochs of every author in it.
        more: whether there are authors behind them.
    """
    chosen: list[Held] = []
    values = 0
    for one in held:
        if not is_in(asked.buckets, one.author) or (asked.after is not None and one.place.rank <= asked.after.rank):
            continue
        values += _VALUES_OF_ONE + 2 * len(one.ranges)
        if len(chosen) == limits.HISTORY_HOLDINGS or values > _ROOM:
            return Holdings(held=tuple(chosen), more=True)
        chosen.append(one)
    return Holdings(held=tuple(chosen), more=more and bool(chosen))


class Paging:
    """One page in the making."""

    def __init__(self, asked: Fetch) -> None:
        self._asked = asked
        self._records: list[bytes] = []
        self._size = 0
        self._at = 0
        self._full = False
        self._lowest: int | None = None

    @property
    def records(self) -> int:
        """How many more the page may have."""
        return limits.HISTORY_RECORDS - len(self._records)

    @property
    def size(self) -> int:
        """How many bytes more."""
        return limits.HISTORY_PAGE_BYTES - self._size

    def want(self) -> Want | None:
        """Return what to look for now; None when the page is done."""
        if self._full or self._at == len(self._asked.wants):
            return None
        return self._asked.wants[self._at]

    def found(self, sealed: Sequence[bytes], lowest: int | None) -> None:
        """Take what was found of that want: the newest, within `records` and `size`.

        Args:
            lowest: the sequence number of the last of them; None where nothing was found.
        """
        self._records += sealed
        self._size += sum(map(len, sealed))
        # A store that stopped for want of room and one that has no more look alike, unless there was room to spare.
        self._full = self.records == 0 or self.size < limits.RECORD_BYTES
        self._lowest = lowest
        self._at += not self._full

    def page(self) -> Page:
        """Return the page."""
        if not self._full:
            return Page(records=tuple(self._records))
        return Page(records=tuple(self._records), next=point_after(self._asked.wants, self._at, self._lowest))
