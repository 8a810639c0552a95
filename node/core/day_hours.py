"""Hours of the day in which something is allowed, on the clock of the wall, midnight and time changes included.

Knows no clock: an instant comes in with what the wall shows at any instant. Hours are the wall's: on the night that an
hour is left out or comes twice, so do the spans that lie in it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

DAY: Final = 1440  # minutes
AHEAD: Final = 2 * DAY + 120  # minutes looked ahead: an hour that is left out once a year comes again the day after
MINUTE_S: Final = 60.0
_SPAN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)", re.ASCII)

WallMinute = Callable[[float], int]  # seconds since 1970 -> minute of the local day, 0 to 1439


@dataclass(frozen=True, slots=True)
class Span:
    """From one minute of the day until another, which is not in it; over midnight where it ends before it begins."""

    begin: int
    end: int

    def holds(self, minute: int) -> bool:
        """Tell whether a minute of the day lies in it."""
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end

    def __str__(self) -> str:
        return f"{self.begin // 60:02}:{self.begin % 60:02}-{self.end // 60:02}:{self.end % 60:02}"


def parse_span(text: str) -> Span:
    """Read `22:00-07:00`.

    Raises:
        ValueError: it is none; the message says what would be one.
    """
    found = _SPAN.fullmatch(text.strip())
    if found is None:
        raise ValueError(f'{text[:32]!r} is no span of the day; write it as "22:00-07:00"')
    hour, minute, end_hour, end_minute = (int(each) for each in found.groups())
    span = Span(hour * 60 + minute, end_hour * 60 + end_minute)
    if span.end > DAY:
        raise ValueError(f'{text[:32]!r} ends after the day; write midnight as "24:00" or "00:00"')
    if span.begin == span.end % DAY and span.end != DAY:
        raise ValueError(f"{text[:32]!r} is no time at all; leave the hours out for the whole day")
    return span


def within(spans: Sequence[Span], minute: int) -> bool:
    """Tell whether a minute of the day is allowed; without spans all are."""
    return not spans or any(span.holds(minute) for span in spans)


def next_change(spans: Sequence[Span], now: float, wall_minute: WallMinute) -> float | None:
    """Return the instant at which it becomes allowed, or ceases to be; None where it stays as it is for two days.

    Args:
        now: seconds since 1970.
        wall_minute: what the local clock shows at an instant, time changes included.
    """
    if not spans:
        return None
    present = within(spans, wall_minute(now))
    whole = now - now % MINUTE_S  # the world's zones are whole minutes off, so its minutes begin together
    for ahead in range(1, AHEAD):
        instant = whole + ahead * MINUTE_S
        if within(spans, wall_minute(instant)) is not present:
            return instant
    return None
