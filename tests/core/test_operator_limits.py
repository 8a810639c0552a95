"""What the owner's limits allow: pauses and hours to the second, measured limits without flapping."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from node.core.day_hours import parse_span
from node.core.operator_limits import (
    DWELL,
    FAR,
    HEAT,
    LOOK,
    PAUSED,
    SETTLE,
    Action,
    Limits,
    Moment,
    OperatorLimits,
    Pause,
    Readings,
    Verdict,
    Why,
)

NOON = 43_200.0
COOL = Readings(watts=100.0, temperature_c=50.0, others_bytes=0, others=0)


@dataclass(slots=True)
class Bench:
    """Limits under a clock that both walls share; UTC is the local time."""

    rules: OperatorLimits
    now: float = NOON
    running: int = 8
    pause: Pause | None = None

    def look(self, readings: Readings = COOL, *, after: float = LOOK) -> Verdict:
        self.now += after
        return self.rules.judge(
            Moment(now=self.now, wall=self.now, readings=readings, running=self.running, pause=self.pause)
        )


def bench(*, slots: int = 32, **limits: object) -> Bench:
    rules = OperatorLimits(
        Limits(**limits),  # pyright: ignore[reportArgumentType]
        slots=slots,
        wall_minute=lambda instant: int(instant // 60) % 1440,
    )
    return Bench(rules)


def test_without_limits_everything_runs_and_nobody_looks_often() -> None:
    verdict = bench().look()
    assert (verdict.action, verdict.reason, verdict.look) == (Action.RUN, "", FAR)


def test_a_pause_holds_until_its_end_and_not_longer() -> None:
    owner = bench()
    owner.pause = Pause(since=owner.now, until=owner.now + 100.0, now=True)
    verdict = owner.look(after=1.0)
    assert (verdict.action, verdict.why, verdict.reason) == (Action.YIELD, Why.PAUSE, PAUSED)
    assert (verdict.cut, verdict.until, verdict.look) == (True, NOON + 100.0, FAR)
    verdict = owner.look(after=98.0)
    assert (verdict.action, verdict.look) == (Action.YIELD, 1.0)
    assert owner.look(after=verdict.look).action is Action.RUN


def test_a_pause_without_an_end_lasts() -> None:
    owner = bench()
    owner.pause = Pause(since=owner.now)
    assert owner.look(after=1e7).action is Action.YIELD


def test_outside_its_hours_the_engine_yields_until_they_begin() -> None:
    owner = bench(hours=(parse_span("22:00-07:00"),))
    verdict = owner.look()
    assert (verdict.action, verdict.why, verdict.until) == (Action.YIELD, Why.HOURS, 22 * 3600.0)
    assert "22:00-07:00" in verdict.reason
    assert owner.look(after=22 * 3600.0 - owner.now).action is Action.RUN


def test_shortly_before_the_hours_end_it_looks_exactly_then() -> None:
    owner = bench(hours=(parse_span("09:00-13:00"),))
    assert owner.look(after=3600.0 - 20.0).look == 20.0


def test_too_much_power_halves_what_runs_and_no_faster_than_it_can_tell() -> None:
    owner = bench(watts=200.0)
    hungry = Readings(watts=260.0)
    verdict = owner.look(hungry)
    assert (verdict.action, verdict.why, verdict.cap) == (Action.SLOWER, Why.WATTS, 4)  # of the 8 that run
    assert "260 W of 200" in verdict.reason
    assert owner.look(hungry).cap == 4
    assert owner.look(hungry, after=SETTLE).cap == 2
    assert owner.look(hungry, after=SETTLE).cap == 1
    assert owner.look(hungry, after=SETTLE).cap == 1  # it never ends for power


def test_with_room_again_it_grows_by_steps_of_two_minutes_until_nothing_is_left_of_it() -> None:
    owner = bench(watts=200.0, slots=4)
    assert owner.look(Readings(watts=260.0)).cap == 2
    assert owner.look(Readings(watts=195.0), after=DWELL).cap == 2  # below the limit, and not well below
    assert owner.look(Readings(watts=150.0)).cap == 3
    assert owner.look(Readings(watts=150.0), after=DWELL - 1.0).cap == 3
    assert owner.look(Readings(watts=150.0), after=1.0).action is Action.RUN


def test_heat_slows_then_ends_and_lets_begin_again_well_below() -> None:
    owner = bench(temperature_c=80.0)
    assert owner.look(Readings(temperature_c=80.0)).action is Action.RUN
    assert owner.look(Readings(temperature_c=81.0)).why is Why.HEAT
    hot = owner.look(Readings(temperature_c=80.0 + HEAT))
    assert (hot.action, hot.why) == (Action.YIELD, Why.HEAT)
    assert "85 °C of 80" in hot.reason
    assert owner.look(Readings(temperature_c=76.0), after=DWELL * 3).action is Action.YIELD  # not five below
    assert owner.look(Readings(temperature_c=75.0)).action is Action.YIELD  # not for two minutes
    assert owner.look(Readings(temperature_c=60.0), after=DWELL).action is not Action.YIELD


def test_a_game_gets_the_device_and_it_comes_back_two_minutes_after() -> None:
    owner = bench(others_bytes=2 << 30)
    assert owner.look(Readings(others_bytes=1 << 30)).action is Action.RUN
    gone = owner.look(Readings(others_bytes=6 << 30))
    assert (gone.action, gone.why) == (Action.YIELD, Why.OTHERS)
    assert "6.0 GiB" in gone.reason
    assert owner.look(Readings(others_bytes=0), after=DWELL - 1.0).action is Action.YIELD
    assert owner.look(Readings(others_bytes=0), after=1.0).action is Action.RUN


def test_limits_that_cannot_be_kept_here_are_named_and_stop_nothing() -> None:
    verdict = bench(watts=1.0, temperature_c=30.0, others_bytes=1).look(Readings())
    assert verdict.action is Action.RUN
    assert verdict.blind == ("watts", "temperature_c", "others_bytes")


def test_the_owner_s_pause_comes_before_every_other_reason() -> None:
    owner = bench(hours=(parse_span("22:00-07:00"),), temperature_c=80.0)
    owner.pause = Pause(since=owner.now)
    assert owner.look(Readings(temperature_c=99.0)).why is Why.PAUSE


readings = st.builds(
    Readings,
    watts=st.none() | st.floats(0, 700),
    temperature_c=st.none() | st.floats(20, 110),
    others_bytes=st.none() | st.integers(0, 1 << 36),
)


@given(st.lists(st.tuples(readings, st.floats(0.1, 90.0), st.integers(0, 64)), min_size=1, max_size=60))
def test_measured_limits_never_flap_and_always_leave_one_prompt(steps: list[tuple[Readings, float, int]]) -> None:
    owner = bench(watts=300.0, temperature_c=80.0, others_bytes=1 << 30, slots=64)
    yielded_at: float | None = None
    cap, capped_at = None, float("-inf")
    for read, after, running in steps:
        owner.running = running
        verdict = owner.look(read, after=after)
        if verdict.action is Action.YIELD:
            yielded_at = owner.now if yielded_at is None else yielded_at
            continue
        if yielded_at is not None:
            assert owner.now - yielded_at >= DWELL
            yielded_at = None
            cap, capped_at = verdict.cap, owner.now - DWELL  # it may have changed unseen
            continue
        assert verdict.cap is None or 1 <= verdict.cap < 64
        assert (verdict.cap is None) == (verdict.action is Action.RUN)
        if (verdict.cap or 64) > (cap or 64):
            assert owner.now - capped_at >= DWELL
        if verdict.cap != cap:
            cap, capped_at = verdict.cap, owner.now
