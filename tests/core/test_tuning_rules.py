"""What a tuner makes of advice: what was never measured here waits for idle time, unless nobody is hurt."""

from dataclasses import replace
from math import inf

import pytest

from node.core.learning import Advice, Gain, Probe
from node.core.strategy import DEFAULT, Strategy
from node.core.tuning_rules import (
    DARED_AGAIN,
    EXPLORED_AGAIN,
    OPEN,
    PATIENCE,
    TRIED_ENOUGH,
    UNASKED,
    Decision,
    Moment,
    Past,
    decide,
    exposure,
    waiting,
    worth_trials,
)
from node.core.workload import Description

GOOD, OTHER = Strategy(max_num_seqs=64), Strategy(max_num_seqs=1)
CANDIDATES = (DEFAULT, GOOD, OTHER)
BUSY = Description(
    requests=100,
    prompt_tokens=None,
    output_tokens=None,
    shared_prefix_share=None,
    prefix_groups=None,
    concurrency=2.0,
    requests_per_s=0.4,
    burstiness=1.0,
    streaming_share=1.0,
    copy_share=None,
    busy_share=0.9,
    span_s=3600.0,
    latency_s=5.0,
)
ASKED = Moment(now=1e6, quiet_s=3.0, unasked=False, peers=False, start_s=30.0, description=BUSY)
IDLE = replace(ASKED, quiet_s=700.0, description=None)


def advice(*, measured: int = 0, worth: bool = True, index: int | None = 1) -> Advice:
    gain = Gain(mean=0.3, low=0.2, high=0.4)
    return Advice(
        index=index,
        why="best",
        learnt=True,
        estimated=False,
        gain=0.3,
        gain_low=0.2,
        gain_high=0.4,
        over_current=gain,
        harm_probability=0.0,
        gains=(Gain(mean=0, low=0, high=0), gain, None),
        cost=(1.0, 0.7, None),
        half_width=(0.0, 0.1, None),
        level=(0.2, 0.2, None),
        measured=(5, measured, 0),
        failed=(),
        worth=worth,
        saved_s=100.0,
        cost_s=10.0,
        pays_after_s=50.0,
        probes=(Probe(index=2, value=0.2, saves=0.1), Probe(index=1, value=0.1, saves=0.1)),
    )


def made(said: Advice, moment: Moment = ASKED, past: Past | None = None, *, gapless: bool = False) -> Decision:
    return decide(said, CANDIDATES, current=0, moment=moment, past=past or Past(), gapless=gapless, most_a_day=24)


def test_what_was_measured_here_and_pays_is_gone_for_and_nothing_else() -> None:
    assert made(advice(measured=2)).chosen == GOOD
    assert made(advice(measured=2, worth=False)).chosen is None
    assert made(advice(measured=2, index=None)).chosen is None
    assert made(advice(measured=2), past=Past(switches=24)).chosen is None


def test_others_word_is_enough_only_at_first_and_while_nobody_asks() -> None:
    first = Past(first=True)
    assert made(advice(), IDLE, first, gapless=True).chosen == GOOD
    assert made(advice(), IDLE, Past(first=False), gapless=True).chosen is None
    assert made(advice(), ASKED, first, gapless=True).untried
    early = replace(IDLE, quiet_s=UNASKED - 1, unasked=True)
    assert made(advice(), early, first, gapless=True).untried
    assert made(advice(), replace(early, quiet_s=UNASKED), first, gapless=True).chosen == GOOD
    assert made(advice(), replace(early, quiet_s=UNASKED, unasked=False), first, gapless=True).untried


def test_with_a_gap_others_word_is_enough_only_where_nobody_ever_asked_or_peers_answer() -> None:
    first, unasked = Past(first=True), replace(IDLE, unasked=True)
    assert made(advice(), IDLE, first).untried
    assert made(advice(), unasked, first).chosen == GOOD
    assert made(advice(), replace(unasked, quiet_s=UNASKED), first).untried
    assert made(advice(), replace(unasked, quiet_s=UNASKED, peers=True), first).chosen == GOOD


def test_what_is_put_off_is_the_first_to_be_tried_beside_the_default() -> None:
    assert made(advice()).probes == (DEFAULT, GOOD, OTHER)
    assert made(advice(measured=1)).probes == (DEFAULT, OTHER)


def test_what_was_tried_twice_under_this_workload_is_not_tried_a_third_time() -> None:
    assert made(replace(advice(measured=1), measured=(5, 1, TRIED_ENOUGH - 1))).probes == (DEFAULT, OTHER)
    assert made(replace(advice(measured=1), measured=(5, 1, TRIED_ENOUGH))).probes == ()


def test_idle_minutes_are_kept_for_the_next_workload_unless_the_best_is_untried_or_much_is_open() -> None:
    little = replace(advice(measured=2), probes=(Probe(index=2, value=0.2, saves=OPEN),))
    assert worth_trials(made(little), since_s=inf)
    assert not worth_trials(made(little), since_s=EXPLORED_AGAIN - 1)
    assert worth_trials(made(little), since_s=EXPLORED_AGAIN)
    assert worth_trials(made(replace(little, measured=(5, 0, 0))), since_s=0.0)
    much = replace(little, probes=(Probe(index=2, value=0.2, saves=OPEN + 0.01),))
    assert worth_trials(made(much), since_s=0.0)
    assert not worth_trials(made(replace(much, measured=(5, 2, 1))), since_s=0.0)
    assert not worth_trials(made(replace(little, measured=(5, 2, TRIED_ENOUGH))), since_s=inf)


def test_without_advice_what_runs_goes_on_though_it_is_not_the_default() -> None:
    kept = decide(advice(index=None), CANDIDATES, current=1, moment=ASKED, past=Past(), gapless=False, most_a_day=24)
    assert (kept.chosen, kept.best) == (None, GOOD)


def test_a_node_that_is_never_idle_dares_after_a_while_and_once_a_day() -> None:
    waited = Past(put_off_since=ASKED.now - PATIENCE)
    assert made(advice(), past=waited).dared
    assert made(advice(), past=replace(waited, put_off_since=ASKED.now - PATIENCE + 1)).untried
    assert made(advice(), past=replace(waited, dared_at=ASKED.now - DARED_AGAIN + 1)).untried
    assert made(advice(), past=replace(waited, dared_at=ASKED.now - DARED_AGAIN)).dared


def test_a_busy_node_without_a_gap_or_with_peers_may_try_at_once() -> None:
    quick = replace(ASKED, description=replace(BUSY, requests_per_s=5.0, latency_s=1.0), start_s=10.0)
    assert made(advice(), quick, gapless=True).chosen == GOOD
    assert made(advice(), replace(quick, peers=True)).chosen == GOOD
    assert made(advice(), replace(quick, start_s=60.0)).untried


def test_exposure_grows_with_the_start_and_shrinks_with_the_rate() -> None:
    often = replace(ASKED, description=replace(BUSY, requests_per_s=10.0))
    assert exposure(often, gapless=False) < exposure(ASKED, gapless=False)
    assert exposure(replace(ASKED, start_s=5.0), gapless=False) < exposure(ASKED, gapless=False)
    assert waiting(0.0, 5.0) == 0.0
    assert waiting(30.0, 5.0) == pytest.approx(1.27, abs=0.01)


def test_a_quiet_node_loses_nothing_by_a_restart_and_is_tuned_for_what_is_to_come() -> None:
    assert (IDLE.lost_share, ASKED.lost_share, replace(ASKED, peers=True).lost_share) == (0.0, 1.0, 0.0)
    assert IDLE.busy_share > 0
    assert replace(IDLE, quiet_s=inf).quiet


def test_the_regret_is_what_is_foretold_to_be_lost() -> None:
    assert made(advice()).regret == pytest.approx(0.3)
