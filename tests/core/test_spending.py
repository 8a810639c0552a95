"""The account in numbers: shares of devices, sums by day and peer, pledges, limits; bounded whatever peers do."""

from math import nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core import spending
from node.core.spending import DAYS, MICRO, MOST, PLEDGES, REST, Books, Line, Pledges, SpendLimits, plain
from node.core.spending import PEERS as MOST_PEERS
from tests.core.routing import PEERS

ANNE, BERT = PEERS[:2]


def answer(*, price: float = 3.6, seconds: float = 10.0, outstanding: float = 1.0, devices: float = 1.0) -> Line:
    return spending.used(
        seconds, devices=devices, outstanding=outstanding, price=price, prompt_tokens=5, output_tokens=7
    )


def test_an_answer_costs_its_share_of_the_devices_at_the_price_that_was_told() -> None:
    assert answer().owed_micro == 10_000  # 10 s of 3.6 an hour
    assert answer(devices=2.0, outstanding=4.0).owed_micro == 5_000
    assert answer(devices=2.0, outstanding=4.0).used_device_us == 5 * MICRO
    ours = spending.lent(10.0, devices=1.0, outstanding=1.0, price=3.6, tokens=12)
    assert (ours.due_micro, ours.lent_requests, ours.lent_tokens, ours.owed_micro) == (10_000, 1, 12, 0)


@pytest.mark.parametrize("price", [nan, 0.0])
def test_nobody_owes_what_nobody_asked_for(price: float) -> None:
    line = answer(price=price)
    assert (line.owed_micro, line.used_device_us, line.used_requests) == (0, 10 * MICRO, 1)


@given(
    st.floats(allow_nan=False), st.floats(0, 1e300), st.floats(-1, 1e9), st.floats(0, 1e300), st.integers(-5, 1 << 70)
)
def test_no_claim_makes_a_sum_that_files_cannot_hold(
    seconds: float, price: float, outstanding: float, devices: float, tokens: int
) -> None:
    line = spending.used(seconds, devices=devices, outstanding=outstanding, price=price, output_tokens=tokens)
    whole = Line()
    for _ in range(3):
        whole.add(line)
    kept = whole.bounded()
    for name in spending.FIELDS:
        assert 0 <= getattr(kept, name) == min(getattr(whole, name), MOST)


def test_sums_are_by_day_and_peer() -> None:
    books = Books()
    books.add(10, ANNE, answer())
    books.add(10, ANNE, answer())
    books.add(10, BERT, spending.lent(5.0, devices=1.0, outstanding=1.0, price=3.6))
    books.add(11, ANNE, answer(price=36.0))
    assert (books.owed_on(10), books.owed_on(11), books.owed_on(12)) == (20_000, 100_000, 0)
    assert books.total(10, 11).used_requests == 3
    assert books.total(11, 11).used_requests == 1
    assert list(books.by_peer(10, 11)) == [ANNE, BERT]  # who is owed most first
    assert books.by_peer(10, 10)[BERT].due_micro == 5_000
    told = plain(books.total(10, 10))
    assert told["used"] == {
        "requests": 2, "prompt_tokens": 10, "output_tokens": 14, "device_s": 20.0, "owed": 0.02,
    }  # fmt: skip


def test_what_was_kept_is_loaded_beside_what_was_counted_meanwhile() -> None:
    before = Books()
    before.add(10, ANNE, answer())
    kept = before.changed()
    assert before.changed() == []
    books = Books()
    books.add(10, ANNE, answer())
    books.load(kept)
    assert books.owed_on(10) == 20_000
    (line,) = books.changed()
    assert line[:2] == (10, ANNE)
    assert line[2].owed_micro == 20_000
    books.again([line])
    assert books.changed() == [line]


def test_what_is_given_out_to_be_kept_does_not_change_any_more() -> None:
    books = Books()
    books.add(10, ANNE, answer())
    ((_, _, line),) = books.changed()
    books.add(10, ANNE, answer())
    assert line.used_requests == 1


def test_a_flood_of_names_is_counted_with_the_rest_and_nothing_is_lost() -> None:
    books = Books()
    for number in range(MOST_PEERS + 100):
        books.add(10, PEERS[number], answer())
    assert len(books) == MOST_PEERS + 1
    assert books.by_peer(10, 10)[REST].used_requests == 100
    assert books.total(10, 10).used_requests == MOST_PEERS + 100


def test_old_days_are_forgotten_and_days_that_are_still_to_come_too() -> None:
    books = Books()
    for day in (100 - DAYS, 100 - DAYS + 1, 100, 101):
        books.add(day, ANNE, answer())
    books.forget(100)
    assert [day for day in range(200) if books.owed_on(day)] == [100 - DAYS + 1, 100]
    assert len(books) == 2
    books.add(101, ANNE, answer())
    assert books.total(0, 200).used_requests == 3


def test_a_pledge_lasts_until_its_answer_ends_or_long_after_it_should_have() -> None:
    pledges = Pledges()
    pledges.make(ANNE, 100, now=0.0, seconds=1.0)
    pledges.make(ANNE, 30, now=0.0, seconds=100.0)
    pledges.make(BERT, 7, now=0.0, seconds=1.0)
    assert pledges.micro == 137
    pledges.keep(ANNE)
    pledges.keep(PEERS[2])
    assert pledges.micro == 37
    pledges.expire(59.0)
    assert pledges.micro == 37
    pledges.expire(60.0)
    assert pledges.micro == 30
    pledges.expire(400.0)
    assert (pledges.micro, len(pledges)) == (0, 0)


def test_pledges_are_bounded() -> None:
    pledges = Pledges()
    for number in range(PLEDGES + 10):
        pledges.make(PEERS[number % 50], 1, now=0.0, seconds=1.0)
    assert (len(pledges), pledges.micro) == (PLEDGES, PLEDGES)


def test_the_narrower_limit_counts() -> None:
    assert SpendLimits().allowance(10**9) is None
    assert SpendLimits(per_request=0.5).allowance(10**9) == 0.5
    both = SpendLimits(per_day=1.0, per_request=0.5)
    assert both.allowance(0) == 0.5
    assert both.allowance(700_000) == pytest.approx(0.3)
    assert both.allowance(2_000_000) == 0.0


def test_days_are_those_of_utc() -> None:
    assert spending.day_of(0) == 0
    assert spending.day_of(86_400 * MICRO - 1) == 0
    assert spending.day_of(86_400 * MICRO) == 1
    assert spending.left_of_day(86_400 * MICRO) == 86_400
    assert spending.left_of_day(86_399 * MICRO) == 1
