"""What a tuner remembers: the start, bans that double, and how long workloads last."""

from dataclasses import replace

import pytest

from node.core.strategy import DEFAULT, Strategy
from node.core.tuning_ledger import (
    BANS,
    DAY,
    HISTORY,
    LONGEST_BAN,
    Entry,
    Ledger,
    Trust,
    banned,
    bans_at,
    confirmed,
    horizon,
    initial,
    noted,
    opened,
    returned,
    serving,
    switched,
    target,
    workload_ended,
)

GOOD, BAD = Strategy(max_num_seqs=64), Strategy(max_num_seqs=1)
KEPT = Ledger(key="k", present=GOOD, good=GOOD)


@pytest.mark.parametrize(
    ("ledger", "key", "configured", "starts"),
    [
        (None, "k", None, DEFAULT),
        (None, "k", BAD, BAD),
        (KEPT, "k", None, GOOD),
        (KEPT, "another engine", None, DEFAULT),
        (KEPT, "k", BAD, BAD),
        (replace(KEPT, mode="fixed", fixed=BAD), "another engine", None, BAD),
        (Ledger(key="k"), "k", None, DEFAULT),
    ],
)
def test_the_engine_starts_with_what_its_owner_said_else_with_the_last_good(
    ledger: Ledger | None, key: str, configured: Strategy | None, starts: Strategy
) -> None:
    assert initial(ledger, key, configured, DEFAULT) == starts


def test_of_another_engine_what_ran_is_forgotten_and_the_rest_is_kept() -> None:
    before = banned(replace(KEPT, switches=3), BAD, reason="slow", now=0.0)
    after = opened(before, "another", None)
    assert (after.present, after.good, after.trust) == (None, None, None)
    assert after.switches == 3
    assert bans_at(after, 1.0) == ()
    assert [ban.strategy for ban in bans_at(opened(after, "k", None), 1.0)] == [BAD]


def test_a_ban_doubles_from_a_day_to_sixty_and_ends() -> None:
    ledger, lengths = KEPT, list[float]()
    for _ in range(9):
        ledger = banned(ledger, BAD, reason="slow", now=0.0)
        lengths.append(bans_at(ledger, 0.0)[0].until)
    assert lengths[:3] == [DAY, 2 * DAY, 4 * DAY]
    assert lengths[-1] == LONGEST_BAN
    assert len(ledger.bans) == 1
    assert bans_at(ledger, LONGEST_BAN) == ()


def test_what_is_forbidden_for_the_present_workload_may_be_chosen_for_the_next() -> None:
    ledger = banned(banned(KEPT, BAD, reason="slow", now=0.0), DEFAULT, reason="slow here", now=0.0, here=True)
    assert {ban.strategy for ban in bans_at(ledger, 100.0)} == {BAD, DEFAULT}
    after = workload_ended(ledger, 100.0, usual=6000.0)
    assert [ban.strategy for ban in bans_at(after, 100.0)] == [BAD]
    assert bans_at(banned(after, DEFAULT, reason="again", now=200.0, here=True), 200.0)[0].count == 2


def test_bans_and_history_are_bounded() -> None:
    ledger = KEPT
    for at in range(BANS + 10):
        ledger = banned(ledger, Strategy(max_num_seqs=at + 1), reason="slow", now=float(at))
    assert len(ledger.bans) == BANS
    for at in range(HISTORY + 10):
        ledger = noted(ledger, Entry(at=at, before="a", event="b", after="c", strategy="d", reason="e"))
    assert len(ledger.history) == HISTORY
    assert ledger.history[-1].at == HISTORY + 9


def test_a_strategy_is_good_only_once_it_was_confirmed() -> None:
    began = serving(Ledger(key="k"), DEFAULT, 0.0)
    tried = switched(began, Trust(strategy=GOOD, before=DEFAULT, since=5.0), down_s=3.0, now=5.0)
    assert (tried.present, tried.good, tried.lost_s, tried.switches) == (GOOD, DEFAULT, 3.0, 1)
    assert initial(tried, "k", None, DEFAULT) == DEFAULT
    assert confirmed(tried, good=True).good == GOOD
    assert confirmed(tried, good=False).good == DEFAULT
    back = returned(tried, DEFAULT, down_s=2.0, now=9.0)
    assert (back.present, back.rollbacks, back.lost_s, back.trust) == (DEFAULT, 1, 5.0, None)


def test_what_runs_no_more_is_no_longer_under_verification() -> None:
    tried = switched(KEPT, Trust(strategy=BAD, before=GOOD, since=0.0), down_s=0.0, now=0.0)
    assert serving(tried, BAD, 1.0).trust is not None
    assert serving(tried, GOOD, 1.0).trust is None


def test_the_way_back_leads_to_the_last_good_else_to_the_default_else_nowhere() -> None:
    assert target(replace(KEPT, present=BAD), DEFAULT) == GOOD
    assert target(KEPT, DEFAULT) == DEFAULT
    assert target(Ledger(present=DEFAULT, good=DEFAULT), DEFAULT) is None


def test_how_long_workloads_last_is_learnt_and_a_long_one_is_expected_to_last_as_long_again() -> None:
    assert horizon(Ledger(), 0.0, usual=6000.0) == 6000.0
    ended = workload_ended(replace(KEPT, workload_since=0.0), 2000.0, usual=6000.0)
    assert ended.span_s == pytest.approx(4800.0)
    assert horizon(ended, 2000.0, usual=6000.0) == pytest.approx(4800.0)
    assert horizon(ended, 12_000.0, usual=6000.0) == 10_000.0


def test_what_stood_in_the_settings_and_does_no_more_is_no_wish_any_more() -> None:
    configured = Strategy(max_num_seqs=4)
    kept = opened(None, "key", configured)
    assert (kept.mode, kept.fixed) == ("fixed", configured)
    assert initial(kept, "key", None, DEFAULT) == DEFAULT
    assert (opened(kept, "key", None).mode, opened(kept, "key", None).fixed) == ("auto", None)
    wished = Ledger(key="key", mode="fixed", fixed=configured)
    assert initial(wished, "key", None, DEFAULT) == configured
    assert opened(wished, "key", None).mode == "fixed"
