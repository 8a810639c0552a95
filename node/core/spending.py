"""What this node used of its peers and what they used of it, by day and peer; and what is left of a limit.

Knows no clock and no disk: days go in as numbers (of UTC, since 1970), lines come out to be kept. Only what this node
saw itself is counted: seconds that it waited for an answer, tokens that passed by, at the price that a peer tells. It
is an account and no payment: nobody is paid by it, and nobody is asked to agree.

Seconds of a device are shared: who is there with others is counted its part, by the prompts that were outstanding.
Added up over all of them that is the time that the device was busy, whether they ran or waited their turn.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, TypeAlias

from protocol.ids import PeerId

MICRO: Final = 1_000_000
DAY_S: Final = 86_400
DAYS: Final = 31  # that are kept: the last 30 whole ones and today
MONTH: Final = 30
PEERS: Final = 1024  # of one day that are counted apart; whoever comes later is counted with the rest
REST: Final = None  # who those are
MOST: Final = 1 << 53  # of any sum: no honest one comes near, and files and JSON hold it exactly
HOUR_S: Final = 3600
PLEDGES: Final = 4096  # answers under way that are counted before their end; beyond it the oldest are not
PLEDGED_FOR: Final = 4.0  # times what was foretold that an answer is waited for, before its pledge counts no more
LEAST_PLEDGED: Final = 60.0  # s


@dataclass(slots=True, kw_only=True)
class Line:
    """Sums of one peer and one day, or of several. Whole numbers.

    Attributes:
        used_requests, used_input, used_output: prompts of ours that the peer answered, and their tokens.
        used_device_us: its devices' time for them.
        owed_micro: that at the price which it told, millionths of the unit.
        lent_requests, lent_tokens: prompts of the peer that we answered; tokens of prompts and answers together.
        lent_device_us, due_micro: our devices' time for them, and that at our own price.
    """

    used_requests: int = 0
    used_input: int = 0
    used_output: int = 0
    used_device_us: int = 0
    owed_micro: int = 0
    lent_requests: int = 0
    lent_tokens: int = 0
    lent_device_us: int = 0
    due_micro: int = 0

    def add(self, other: "Line") -> None:
        """Add another's sums. Written out: it is done twice for each answer."""
        self.used_requests += other.used_requests
        self.used_input += other.used_input
        self.used_output += other.used_output
        self.used_device_us += other.used_device_us
        self.owed_micro += other.owed_micro
        self.lent_requests += other.lent_requests
        self.lent_tokens += other.lent_tokens
        self.lent_device_us += other.lent_device_us
        self.due_micro += other.due_micro

    def bounded(self) -> "Line":
        """Return a copy that files can hold, whatever was claimed."""
        return Line(**{name: min(getattr(self, name), MOST) for name in FIELDS})


FIELDS: Final = tuple(field.name for field in fields(Line))
Who: TypeAlias = PeerId | None
Key: TypeAlias = tuple[int, Who]  # the day of UTC, and whom it is about
Kept: TypeAlias = tuple[int, Who, Line]


def used(
    seconds: float, *, devices: float, outstanding: float, price: float, prompt_tokens: int = 0, output_tokens: int = 0
) -> Line:
    """Return what one answer of a peer comes to.

    Args:
        seconds: that it took, from asking to its end.
        devices: of the peer's engine.
        outstanding: prompts that the peer had meanwhile, this one included.
        price: of a device for an hour, in the swarm's unit; NaN or 0 where it asks nothing.
    """
    device_us = _device_us(seconds, devices, outstanding)
    return Line(
        used_requests=1,
        used_input=min(max(prompt_tokens, 0), MOST),
        used_output=min(max(output_tokens, 0), MOST),
        used_device_us=device_us,
        owed_micro=_micro(device_us, price),
    )


def lent(seconds: float, *, devices: float, outstanding: float, price: float, tokens: int = 0) -> Line:
    """Return what one answer of ours to a peer comes to; as `used`, with our own devices, prompts and price."""
    device_us = _device_us(seconds, devices, outstanding)
    return Line(
        lent_requests=1,
        lent_tokens=min(max(tokens, 0), MOST),
        lent_device_us=device_us,
        due_micro=_micro(device_us, price),
    )


def _device_us(seconds: float, devices: float, outstanding: float) -> int:
    device_us = seconds * devices / max(outstanding, 1.0) * MICRO
    if not device_us > 0.0:  # NaN too, as no time of claims without end is
        return 0
    return round(min(device_us, float(MOST)))


def _micro(device_us: int, price: float) -> int:
    if not price > 0.0:  # NaN too
        return 0
    return round(min(device_us * price / HOUR_S, float(MOST)))


class Books:
    """The sums, by day and peer; bounded."""

    def __init__(self) -> None:
        self._lines: dict[Key, Line] = {}
        self._days: dict[int, Line] = {}  # what all lines of a day come to
        self._peers: Counter[int] = Counter()  # lines of each day
        self._changed: dict[Key, None] = {}

    def __len__(self) -> int:
        """Return how many lines there are."""
        return len(self._lines)

    def load(self, kept: Iterable[Kept]) -> None:
        """Take in what was kept of former runs, beside what was counted since this one began."""
        for day, peer, line in kept:
            self._count(day, peer, line)

    def add(self, day: int, peer: PeerId, line: Line) -> None:
        """Count one answer."""
        self._changed[self._count(day, peer, line)] = None

    def owed_on(self, day: int) -> int:
        """Return what is owed for one day, millionths of the unit."""
        line = self._days.get(day)
        return 0 if line is None else line.owed_micro

    def changed(self) -> list[Kept]:
        """Return the lines that were changed since this was last asked, as they are now, to be kept."""
        found = [(*key, self._lines[key].bounded()) for key in self._changed if key in self._lines]
        self._changed.clear()
        return found

    def again(self, kept: Iterable[Kept]) -> None:
        """Note that these could not be kept, and are to be asked for once more."""
        self._changed.update({(day, peer): None for day, peer, _ in kept})

    def forget(self, today: int) -> None:
        """Drop what is older than anybody asks for, and what a clock that was wrong has put into the future."""
        gone = {day for day in self._days if not today - DAYS < day <= today}
        if not gone:
            return
        self._lines = {key: line for key, line in self._lines.items() if key[0] not in gone}
        for day in gone:
            del self._days[day], self._peers[day]

    def total(self, first: int, last: int) -> Line:
        """Return the sums of some days, both included."""
        whole = Line()
        for day, line in self._days.items():
            if first <= day <= last:
                whole.add(line)
        return whole

    def by_peer(self, first: int, last: int) -> Mapping[Who, Line]:
        """Return the sums of some days by peer, those who are owed most first, then those who owe most."""
        found: dict[Who, Line] = {}
        for (day, peer), line in self._lines.items():
            if first <= day <= last:
                found.setdefault(peer, Line()).add(line)
        return dict(sorted(found.items(), key=lambda each: (-each[1].owed_micro, -each[1].due_micro)))

    def _count(self, day: int, peer: Who, more: Line) -> Key:
        key = (day, peer)
        line = self._lines.get(key)
        if line is None:
            key, line = self._begin(key)
        line.add(more)
        self._days[day].add(more)
        return key

    def _begin(self, key: Key) -> tuple[Key, Line]:
        """Begin a line, or go on with the rest's where the day has too many."""
        day = key[0]
        if self._peers[day] >= PEERS:
            key = (day, REST)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line()
            self._peers[day] += 1
            self._days.setdefault(day, Line())
        return key, line


class Pledges:
    """Answers under way, foretold to cost so much: a hundred that begin together must not each find the whole limit."""

    def __init__(self) -> None:
        self._made: OrderedDict[int, tuple[PeerId, int, float]] = OrderedDict()  # by number: whom, how much, until when
        self._of: dict[PeerId, deque[int]] = {}
        self._number = 0
        self.micro = 0

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._made)

    def make(self, peer: PeerId, micro: int, *, now: float, seconds: float) -> None:
        """Note an answer that is foretold to take so long."""
        if len(self._made) >= PLEDGES:
            self._drop(next(iter(self._made)))
        self._number += 1
        until = now + max(PLEDGED_FOR * seconds, LEAST_PLEDGED)
        self._made[self._number] = (peer, micro, until)
        self._of.setdefault(peer, deque()).append(self._number)
        self.micro += micro

    def keep(self, peer: PeerId) -> None:
        """Note that an answer of that peer has ended, and is counted: its oldest pledge is over."""
        if self._of.get(peer):
            self._drop(self._of[peer][0])

    def expire(self, now: float) -> None:
        """Drop those of answers that never came to anything."""
        for number in [number for number, (_, _, until) in self._made.items() if until <= now]:
            self._drop(number)

    def _drop(self, number: int) -> None:
        peer, micro, _ = self._made.pop(number)
        self.micro -= micro
        self._of[peer].remove(number)
        if not self._of[peer]:
            del self._of[peer]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendLimits:
    """What may be owed, in the unit that the swarm reckons in; None: without limit.

    Attributes:
        per_day: for all answers of a day of UTC.
        per_request: for one answer, as foretold.
    """

    per_day: float | None = None
    per_request: float | None = None

    def allowance(self, spent_micro: int) -> float | None:
        """Return what one more answer may cost after so much today; None where there is no limit."""
        bounds = [] if self.per_request is None else [self.per_request]
        if self.per_day is not None:
            bounds.append(max(self.per_day - spent_micro / MICRO, 0.0))
        return min(bounds, default=None)


def day_of(wall_us: int) -> int:
    """Return the day of UTC at that moment, microseconds since 1970."""
    return wall_us // (DAY_S * MICRO)


def left_of_day(wall_us: int) -> float:
    """Return the seconds until the next day of UTC."""
    return DAY_S - wall_us % (DAY_S * MICRO) / MICRO


def plain(line: Line) -> dict[str, Any]:
    """Return sums for people and machines: seconds, and amounts in the unit."""
    return {
        "used": {
            "requests": line.used_requests,
            "prompt_tokens": line.used_input,
            "output_tokens": line.used_output,
            "device_s": line.used_device_us / MICRO,
            "owed": line.owed_micro / MICRO,
        },
        "lent": {
            "requests": line.lent_requests,
            "tokens": line.lent_tokens,
            "device_s": line.lent_device_us / MICRO,
            "due": line.due_micro / MICRO,
        },
    }
