"""Sets of sequence numbers as ranges: ascending (first, last) pairs that neither touch nor overlap.

Knows no record and no author. Every set has one such form, so equal sets are equal tuples. On the wire a set is the
list of its bounds, first, last, first, last: half the containers of a list of pairs.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Final, cast

from protocol import limits
from protocol.errors import Flaw, Reason
from protocol.schema import Int
from protocol.wire import Value

Ranges = tuple[tuple[int, int], ...]

_SEQ: Final = Int(0, limits.SEQ_MAX)


def of(numbers: Iterable[int]) -> Ranges:
    """Return the set of these numbers, each given at least once, in any order."""
    made: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if made and made[-1][1] == number - 1:
            made[-1] = made[-1][0], number
        else:
            made.append((number, number))
    return tuple(made)


def count(ranges: Sequence[tuple[int, int]]) -> int:
    """Return how many numbers there are."""
    return sum(last - first + 1 for first, last in ranges)


def minus(ranges: Sequence[tuple[int, int]], others: Sequence[tuple[int, int]]) -> Ranges:
    """Return what of the first is not in the second. Takes time linear in both."""
    left: list[tuple[int, int]] = []
    at = 0
    for first, last in ranges:
        while at < len(others) and others[at][1] < first:
            at += 1
        here, begin = at, first
        while here < len(others) and others[here][0] <= last:
            if others[here][0] > begin:
                left.append((begin, others[here][0] - 1))
            begin = others[here][1] + 1
            here += 1
        if begin <= last:
            left.append((begin, last))
    return tuple(left)


def up_to(ranges: Sequence[tuple[int, int]], highest: int) -> Ranges:
    """Return what of it is not above `highest`."""
    return tuple((first, min(last, highest)) for first, last in ranges if first <= highest)


def newest(ranges: Sequence[tuple[int, int]], *, pieces: int, numbers: int) -> Ranges:
    """Return its highest numbers, at most so many, in at most so many ranges."""
    chosen: list[tuple[int, int]] = []
    for first, last in reversed(ranges):
        if len(chosen) == pieces or numbers <= 0:
            break
        begin = max(first, last - numbers + 1)
        chosen.append((begin, last))
        numbers -= last - begin + 1
    return tuple(reversed(chosen))


@dataclass(frozen=True, slots=True)
class Bounded:
    """A rule of `protocol.schema`: a set of 1 to `most` ranges."""

    most: int

    def load(self, value: Value) -> Ranges:
        """See `protocol.schema.Rule`."""
        if type(value) is not list:
            raise Flaw(Reason.WRONG_TYPE, f"{type(value).__name__} where list belongs")
        bounds = [_SEQ.load(bound) for bound in cast("list[Value]", value)]
        if len(bounds) % 2 or not 0 < len(bounds) <= 2 * self.most:
            raise Flaw(Reason.OUT_OF_BOUNDS, f"{len(bounds)} bounds, where 1 to {self.most} pairs belong")
        found = tuple(zip(bounds[::2], bounds[1::2], strict=True))
        if any(first > last for first, last in found) or any(one[1] + 1 >= two[0] for one, two in pairwise(found)):
            raise Flaw(Reason.MALFORMED, "ranges ascend and neither touch nor overlap")
        return found

    def dump(self, value: Ranges) -> Value:
        """See `protocol.schema.Rule`."""
        flat = list(chain.from_iterable(value))
        self.load(cast("list[Value]", flat))
        return cast("list[Value]", flat)
