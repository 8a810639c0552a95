"""Hours of the day: over midnight, and on the two nights of the year that are longer or shorter."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.day_hours import AHEAD, DAY, Span, WallMinute, next_change, parse_span, within

MINUTE = 60.0
BERLIN = "Europe/Berlin"


def shown(zone: str) -> WallMinute:
    place = ZoneInfo(zone)

    def minute(instant: float) -> int:
        local = datetime.fromtimestamp(instant, place)
        return local.hour * 60 + local.minute

    return minute


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


minutes = st.integers(0, DAY - 1)
spans = st.builds(Span, minutes, minutes).filter(lambda span: span.begin != span.end)
zones = st.sampled_from(["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia"])
# Days about the changes of 2026 in Europe, America and Australia, and any others.
instants = st.one_of(
    st.floats(at("2026-03-28"), at("2026-03-31")),
    st.floats(at("2026-10-24"), at("2026-10-27")),
    st.floats(at("2026-03-07"), at("2026-03-10")),
    st.floats(at("2026-04-04"), at("2026-04-07")),
    st.floats(at("2026-01-01"), at("2027-12-31")),
)


@given(spans)
def test_a_span_reads_as_it_is_written(span: Span) -> None:
    assert parse_span(str(span)) == span


@given(spans, minutes)
def test_a_span_and_its_complement_share_the_day(span: Span, minute: int) -> None:
    assert span.holds(minute) is not Span(span.end, span.begin).holds(minute)


def test_over_midnight_the_night_is_one_span() -> None:
    night = parse_span("22:00-07:00")
    assert [night.holds(hour * 60) for hour in (21, 22, 0, 6, 7, 12)] == [False, True, True, True, False, False]
    assert night.holds(7 * 60 - 1)
    whole = parse_span("00:00-24:00")
    assert all(whole.holds(minute) for minute in range(DAY))


@pytest.mark.parametrize(
    "text", ["", "22-07", "24:00-07:00", "22:60-07:00", "12:00-24:01", "22:00-07:00x", "١٢:٠٠-١٣:٠٠"]
)
def test_what_is_no_span_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"24:00|22:00-07:00"):
        parse_span(text)


def test_no_time_at_all_is_no_span() -> None:
    for text in ("09:00-09:00", "00:00-00:00"):
        with pytest.raises(ValueError, match="whole day"):
            parse_span(text)


@given(st.lists(spans, max_size=3), instants, zones)
def test_until_the_next_change_nothing_changes_and_then_it_does(given_spans: list[Span], now: float, zone: str) -> None:
    wall = shown(zone)
    present = within(given_spans, wall(now))
    change = next_change(given_spans, now, wall)
    if change is None:
        ahead = (now + 17 * MINUTE * step for step in range((AHEAD - 20) // 17))
        assert all(within(given_spans, wall(instant)) is present for instant in ahead)
        return
    assert change > now
    assert within(given_spans, wall(change)) is not present
    assert within(given_spans, wall(change - 1e-3)) is present
    step = max((change - now) / 97, 1.0)
    assert all(within(given_spans, wall(now + step * k)) is present for k in range(97) if now + step * k < change)


def test_an_hour_that_is_left_out_lets_nothing_run_in_it_that_night() -> None:
    wall = shown(BERLIN)
    span = (parse_span("02:00-03:00"),)  # the clock goes from 01:59 to 03:00 on 29 March 2026
    assert next_change(span, at("2026-03-29T00:00"), wall) == at("2026-03-30T00:00")


def test_an_hour_that_comes_twice_runs_twice() -> None:
    wall = shown(BERLIN)
    span = (parse_span("02:00-03:00"),)  # it is 03:00, then 02:00 again, at 01:00 UTC on 25 October 2026
    begin = next_change(span, at("2026-10-24T12:00"), wall)
    assert begin == at("2026-10-25T00:00")
    assert next_change(span, at("2026-10-25T00:00"), wall) == at("2026-10-25T02:00")


def test_a_night_over_a_change_of_time_ends_when_the_wall_says_so() -> None:
    wall = shown(BERLIN)
    night = (parse_span("22:00-07:00"),)
    assert next_change(night, at("2026-03-28T21:30"), wall) == at("2026-03-29T05:00")  # 8 hours
    assert next_change(night, at("2026-10-24T20:30"), wall) == at("2026-10-25T06:00")  # 10 hours


def test_without_hours_everything_is_allowed_for_ever() -> None:
    assert within((), 0)
    assert next_change((), 0.0, shown("UTC")) is None
