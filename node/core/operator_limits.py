"""What the machine's owner allows the engine now: all, less at once, or nothing.

Knows no driver, engine or clock: the time, readings of the devices and the owner's wish go in, a verdict comes out with
the time at which to look again at the latest. A measured limit is left only well below it and after two minutes, so
that nothing flaps; hours and pauses are the owner's and hold to the second.

Too much power halves what runs at once, and it grows by a quarter every two minutes once there is room again: down
fast and up slowly, as the Internet's senders keep within what a line bears. Too much heat does the same; five degrees
beyond, the devices are left alone until it is five degrees below.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import ceil, inf
from typing import Final

from node.core.day_hours import Span, WallMinute, next_change, within

DWELL: Final = 120.0  # s that a measured limit is felt at least: an engine takes half a minute to start again
SETTLE: Final = 20.0  # s for the devices to follow a lower cap: prompts that run go on until they end
ROOM: Final = 0.9  # of the power allowed, below which more may run at once again
HEAT: Final = 5.0  # degrees beyond the limit that end it, and below it that let it begin again
GROWTH: Final = 1.25  # of the cap, with each step up
LOOK: Final = 5.0  # s between readings: a card warms by a degree or two in that time
LONGEST_PAUSE: Final = 366 * 86_400.0  # s; who wants longer does not say for how long
FAR: Final = 60.0  # s between looks where only the hours can change anything: the clock may be set

PAUSED: Final = "paused by its owner"  # how the engine's reason and refusals of prompts begin


class Action(Enum):
    """What the engine may do."""

    RUN = "running"
    SLOWER = "slower"  # fewer prompts at once
    YIELD = "yielded"  # it is stopped, and its device free for others


class Why(Enum):
    """Which wish or limit decides."""

    NONE = ""
    PAUSE = "pause"
    HOURS = "hours"
    HEAT = "temperature"
    OTHERS = "others"  # another program wants the device
    WATTS = "watts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the owner set; None and () are no limit.

    Attributes:
        hours: in which the engine may run, on the local clock.
        watts: of all devices together. temperature_c: of the hottest.
        others_bytes: of device memory that other programs may hold before the device is theirs (a game has begun).
    """

    hours: tuple[Span, ...] = ()
    watts: float | None = None
    temperature_c: float | None = None
    others_bytes: int | None = None

    @property
    def measured(self) -> bool:
        """Whether devices must be read."""
        return not (self.watts is None and self.temperature_c is None and self.others_bytes is None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What the devices say at one moment; None where they, or the driver, do not.

    Attributes:
        watts: of all together. temperature_c: of the hottest.
        others_bytes: device memory held by programs that are not this node's. others: how many those are.
    """

    watts: float | None = None
    temperature_c: float | None = None
    others_bytes: int | None = None
    others: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """The owner wants the device. Times in seconds since 1970.

    Attributes:
        until: when it ends by itself; None: when the owner says so.
        now: what runs is cut off.
    """

    since: float
    until: float | None = None
    now: bool = False

    def holds(self, wall: float) -> bool:
        """Tell whether it is still on."""
        return self.until is None or wall < self.until


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is allowed now.

    Attributes:
        why: which limit decides. reason: in words, "" while everything is allowed.
        cap: prompts at once, with SLOWER.
        until: seconds since 1970 at which it ends by itself, where that is known.
        cut: what runs is to be cut off at once.
        look: seconds after which to look again at the latest.
        blind: limits that are set and cannot be kept, since nothing here can be read of it.
    """

    action: Action
    why: Why = Why.NONE
    reason: str = ""
    cap: int | None = None
    until: float | None = None
    cut: bool = False
    look: float = FAR
    blind: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What a verdict is made of.

    Attributes:
        now: seconds of a clock that only rises. wall: seconds since 1970.
        running: prompts at the engine now.
    """

    now: float
    wall: float
    readings: Readings
    running: int
    pause: Pause | None = None


class OperatorLimits:
    """The limits, and what is remembered so that nothing flaps. `slots`: prompts at once that the engine takes."""

    def __init__(self, limits: Limits, *, slots: int, wall_minute: WallMinute) -> None:
        self._limits = limits
        self._slots = slots
        self._wall_minute = wall_minute
        self._hot_since = self._others_since = -inf  # the last moment that it was beyond the limit, while yielded
        self._hot = self._others = False
        self._cap: int | None = None
        self._stepped = -inf  # when the cap was changed
        self._over = ""  # what it was lowered for

    @property
    def limits(self) -> Limits:
        """What the owner set."""
        return self._limits

    def judge(self, moment: Moment) -> Verdict:
        """Return what is allowed now. Called at least as often as the verdicts ask for."""
        self._note(moment)
        blind = self._blind(moment.readings)
        look = self._look(moment)
        pause = moment.pause
        if pause is not None and pause.holds(moment.wall):
            return Verdict(
                action=Action.YIELD, why=Why.PAUSE, reason=PAUSED, until=pause.until, cut=pause.now, look=look,
                blind=blind,
            )  # fmt: skip
        if not within(self._limits.hours, self._wall_minute(moment.wall)):
            hours = ", ".join(map(str, self._limits.hours))
            until = next_change(self._limits.hours, moment.wall, self._wall_minute)
            reason = f"outside the hours that its owner allows ({hours})"
            return Verdict(action=Action.YIELD, why=Why.HOURS, reason=reason, until=until, look=look, blind=blind)
        if self._hot:
            reason = f"too hot: {_figure(moment.readings.temperature_c)} °C of {self._limits.temperature_c:g} allowed"
            return Verdict(action=Action.YIELD, why=Why.HEAT, reason=reason, look=look, blind=blind)
        if self._others:
            reason = f"another program uses the device ({_gib(moment.readings.others_bytes)} of its memory)"
            return Verdict(action=Action.YIELD, why=Why.OTHERS, reason=reason, look=look, blind=blind)
        if self._cap is not None:
            why = Why.HEAT if self._over.startswith(Why.HEAT.value) else Why.WATTS
            return Verdict(
                action=Action.SLOWER, why=why, reason=f"{self._over}: at most {self._cap} prompts at once",
                cap=self._cap, look=look, blind=blind,
            )  # fmt: skip
        return Verdict(action=Action.RUN, look=look, blind=blind)

    # -- what is remembered

    def _note(self, moment: Moment) -> None:
        limits, read, now = self._limits, moment.readings, moment.now
        if limits.temperature_c is not None:
            degrees = read.temperature_c if read.temperature_c is not None else -inf
            edge = limits.temperature_c - HEAT if self._hot else limits.temperature_c + HEAT
            beyond = degrees > edge if self._hot else degrees >= edge
            self._hot, self._hot_since = _held(beyond, was=self._hot, since=self._hot_since, now=now)
        if limits.others_bytes is not None:
            beyond = (read.others_bytes or 0) > limits.others_bytes
            self._others, self._others_since = _held(beyond, was=self._others, since=self._others_since, now=now)
        self._step(moment, _excess(limits, read))

    def _step(self, moment: Moment, over: str) -> None:
        """Change the cap by a step, if it is time."""
        if over:
            if moment.now - self._stepped >= SETTLE:
                # From what runs: to lower a cap that nobody reaches does nothing.
                present = min(self._cap or self._slots, max(moment.running, 1))
                self._cap, self._stepped = max(present // 2, 1), moment.now
            self._over = over
        elif self._cap is not None and moment.now - self._stepped >= DWELL and self._room(moment.readings):
            grown = ceil(self._cap * GROWTH)
            self._cap, self._stepped = (grown if grown < self._slots else None), moment.now

    def _room(self, read: Readings) -> bool:
        limits = self._limits
        power = limits.watts is None or (read.watts or 0.0) <= ROOM * limits.watts
        heat = limits.temperature_c is None or (read.temperature_c or 0.0) <= limits.temperature_c - HEAT / 2
        return power and heat

    # -- what is said

    def _look(self, moment: Moment) -> float:
        """Return when to look again: soon where devices are read, else at the next change that the clock brings."""
        if self._limits.measured:
            return LOOK
        ends = [FAR]
        if moment.pause is not None and moment.pause.until is not None and moment.pause.holds(moment.wall):
            ends.append(moment.pause.until - moment.wall)
        if (change := next_change(self._limits.hours, moment.wall, self._wall_minute)) is not None:
            ends.append(change - moment.wall)
        return max(min(ends), 0.0)

    def _blind(self, read: Readings) -> tuple[str, ...]:
        """Name the limits that are set and of which nothing can be read."""
        pairs: Sequence[tuple[str, object, object]] = (
            ("watts", self._limits.watts, read.watts),
            ("temperature_c", self._limits.temperature_c, read.temperature_c),
            ("others_bytes", self._limits.others_bytes, read.others_bytes),
        )
        return tuple(name for name, limit, reading in pairs if limit is not None and reading is None)


def _held(beyond: bool, *, was: bool, since: float, now: float) -> tuple[bool, float]:
    """Return whether a limit is felt, and when it was last exceeded: for `DWELL` longer than it is."""
    if beyond:
        return True, now
    return was and now - since < DWELL, since


def _excess(limits: Limits, read: Readings) -> str:
    """Say which limit is exceeded, "" for none; heat first, which harms."""
    degrees, watts = read.temperature_c, read.watts
    if limits.temperature_c is not None and degrees is not None and degrees > limits.temperature_c:
        return f"temperature {degrees:g} °C of {limits.temperature_c:g} allowed"
    if limits.watts is not None and watts is not None and watts > limits.watts:
        return f"power {watts:.0f} W of {limits.watts:g} allowed"
    return ""


def _figure(value: float | None) -> str:
    return "?" if value is None else f"{value:g}"


def _gib(value: int | None) -> str:
    return "?" if value is None else f"{value / (1 << 30):.1f} GiB"
