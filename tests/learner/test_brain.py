"""The brain: physics from nothing, records where they help, liars unheard, curves that rise."""

import json
from dataclasses import replace

import numpy as np
import pytest

from node.core.curves import LEARNER, LOADS, PHYSICS, PROMPTS, read_curve
from node.learner import brain, curves, groups, objective
from node.learner.brain import Brain
from node.learner.objective import Promises
from node.learner.select import Limits
from node.learner.table import Table
from tests.learner.synthetic import world

pytest.importorskip("lightgbm")

LATENCY = objective.parse("latency")
LEARNT, ASKED = world(80, seed=1), world(12, seed=2)
CELL = {
    name: LEARNT.columns[name][0] for name in LEARNT.columns if name.startswith(("model.", "hardware.", "strategy."))
}


def empty() -> Brain:
    return Brain(make_heads=brain.trees)


def one_context(table: Table, number: int) -> tuple[Table, int]:
    """Return a context's rows, and which of them is the default."""
    rows = table.take(table.context_groups()[number])
    return rows, int(np.flatnonzero(rows.is_default)[0])


def test_from_no_record_at_all_it_chooses_and_draws_curves_by_physics() -> None:
    rows, default = one_context(ASKED, 0)
    advice = empty().advise(rows, LATENCY, default)
    assert not advice.learnt
    assert advice.choice.index is not None
    assert np.isfinite(advice.forecast.cost).all()
    taught = empty().taught(Table.of({}), {}, [LATENCY], np.random.default_rng(0))
    assert taught.rows == 0
    assert np.array_equal(taught.advise(rows, LATENCY, default).forecast.cost, advice.forecast.cost)


def test_what_it_learnt_makes_its_choices_better_and_its_figures_are_of_contexts_left_out() -> None:
    taught = empty().taught(LEARNT, {}, [LATENCY], np.random.default_rng(0), curves_too=False)
    learnt = taught.learnt["latency"]
    assert learnt.rows == LEARNT.rows
    assert learnt.error_median is not None
    bare = learnt.prior.log_cost(LEARNT) - LATENCY.of(LEARNT)
    assert learnt.error_median < 0.5 * np.median(np.abs(bare - np.median(bare)))
    gains, best = [], []
    for number in range(12):
        rows, default = one_context(ASKED, number)
        cost = LATENCY.of(rows)
        chosen = taught.advise(rows, LATENCY, default).choice.index
        assert chosen is not None
        gains.append(cost[default] - cost[chosen])
        best.append(cost[default] - cost.min())
    assert min(gains) > -0.02
    assert sum(gains) > 0.7 * sum(best)


def test_liars_among_the_authors_lose_their_say_and_one_s_own_records_keep_it() -> None:
    table = world(80, seed=1)
    author = np.array([f"author {number % 10}" for number in table.contexts], dtype=object)
    latency = table.numbers("outcome.latency_mean_s")
    lying = np.isin(author, ["author 1", "author 2", "author 3"])
    prefix = table.numbers("strategy.prefix_caching") == 1
    bent = np.where(lying & prefix, latency * 5, latency)
    told = table.with_columns({"record.author": author, "outcome.latency_mean_s": bent})
    taught = empty().taught(told, {"author 0": "own"}, [LATENCY], np.random.default_rng(0), curves_too=False)
    assert taught.credibility["author 0"] == 1.0
    honest = [taught.credibility[f"author {number}"] for number in range(4, 10)]
    assert max(taught.credibility[f"author {number}"] for number in (1, 2, 3)) < 0.5 * min(honest)


def test_what_a_stranger_says_of_a_machine_that_cannot_be_stops_nobody_from_learning() -> None:
    table = world(40, seed=1)
    columns = {name: list(column) for name, column in table.columns.items()}
    silly = {"hardware.measured_gemv_bytes_per_s": 0.0, "model.parameters": 0.0, "hardware.memory_bytes": float("inf")}
    for name, value in silly.items():
        for each, column in columns.items():
            column.append(value if each == name else "no such machine" if each == "hardware.name" else column[0])
    told = Table.of(columns, merged=False)
    taught = empty().taught(told, {}, [LATENCY], np.random.default_rng(0), curves_too=False)
    assert taught.learnt["latency"].error_median is not None
    assert np.isfinite(taught.advise(*one_context(ASKED, 0)[:1], LATENCY, None).forecast.cost).all()


def test_families_without_number_are_left_out_together() -> None:
    table = world(60, seed=1)
    named = table.with_columns({"hardware.family": np.array([f"family {c}" for c in table.contexts], dtype=object)})
    folds = list(groups.hardware_folds(named))
    assert len(folds) == groups.MOST_FOLDS
    assert np.sum(folds, axis=0).tolist() == [1] * named.rows


def test_promises_are_kept_by_forecasts_of_what_was_promised() -> None:
    rows, _ = one_context(ASKED, 3)
    truth = objective.parse("latency").of(rows)
    slo = objective.parse("slo", Promises(latency_s=float(np.exp(np.median(truth)))))
    taught = empty().taught(LEARNT, {}, [LATENCY], np.random.default_rng(0), curves_too=False)
    chosen = taught.advise(rows, slo, None, Limits()).choice.index
    assert chosen is not None
    assert truth[chosen] <= np.median(truth)


def test_curves_rise_with_prompt_and_load_and_a_router_can_read_what_is_said_of_them() -> None:
    (curve,) = empty().curves([CELL])
    assert curve.ttft_s.shape == (len(PROMPTS), len(LOADS))
    assert (np.diff(curve.ttft_s, axis=0) >= 0).all()
    assert (np.diff(curve.ttft_s, axis=1) >= 0).all()
    assert (np.diff(curve.tpot_s) >= 0).all()
    assert curve.ttft_s[-1, 0] > 2 * curve.ttft_s[0, 0]
    assert 0 < curve.queued_token_s < 1e-3
    read = read_curve(json.loads(json.dumps(curve.to_plain())))
    assert np.exp(read.log_ttft) == pytest.approx(curve.ttft_s, rel=1e-3)
    assert np.exp(read.log_tpot) == pytest.approx(curve.tpot_s, rel=1e-3)
    assert read.ttft_width == pytest.approx(curve.ttft_half_width, rel=1e-3)
    assert read.queued_token_s == pytest.approx(curve.queued_token_s, rel=1e-3)
    assert empty().curves([]) == []
    with pytest.raises(ValueError, match="cells"):
        empty().curves([CELL] * (curves.CELLS + 1))


def test_a_prompt_waits_for_typical_ones_and_not_for_others_like_itself() -> None:
    cells = [CELL, CELL | {"workload.prompt_tokens": 128}, CELL | {"model.max_length": 128}]
    usual, short, narrow = empty().curves(cells)
    long, load = len(PROMPTS) - 1, 3
    alone, wait = usual.ttft_s[:, 0], usual.ttft_s[0, load] - usual.ttft_s[0, 0]
    assert usual.ttft_s[:, load] == pytest.approx(alone + wait)
    assert usual.ttft_s[long, load] < 1.5 * alone[long]
    assert short.ttft_s[0, load] - short.ttft_s[0, 0] < 0.5 * wait
    assert narrow.ttft_s[0, load] - narrow.ttft_s[0, 0] < 0.5 * wait
    assert short.ttft_s[:, 0] == pytest.approx(alone)


def test_curves_say_who_speaks() -> None:
    assert empty().curves([CELL])[0].to_plain()["source"] == PHYSICS
    table = world(24, seed=1)
    ttft = table.numbers("outcome.latency_mean_s") * 0.3
    tpot = table.numbers("outcome.latency_mean_s") * 0.01
    half = table.with_columns({"outcome.ttft_mean_s": ttft})
    for told, who in ((half, PHYSICS), (half.with_columns({"outcome.tpot_mean_s": tpot}), LEARNER)):
        taught = empty().taught(told, {}, [], np.random.default_rng(0))
        (curve,) = taught.curves([CELL])
        assert read_curve(curve.to_plain()).source == who
    # a third of what such requests take in all, at the load that a row was measured under
    assert 0.05 < curve.ttft_s[3, 2] / np.median(ttft) < 20


def test_how_sure_a_gain_is_hangs_on_whether_the_hardware_is_known() -> None:
    table = world(24)
    learnt = Brain(make_heads=brain.trees).taught(table, {}, [LATENCY], np.random.default_rng(0), curves_too=False)
    mine = learnt.learnt[LATENCY.name]
    assert mine.stack is not None
    stack = replace(
        mine.stack,
        on_known=replace(mine.stack.on_known, gain_half_width=0.07),
        on_strange=replace(mine.stack.on_strange, gain_half_width=0.2),
    )
    taught, strange = (
        replace(mine, stack=stack),
        table.with_columns({"hardware.name": np.full(table.rows, "new", object)}),
    )

    assert np.allclose(taught.choice_width(table), 0.07)
    assert np.allclose(taught.choice_width(strange), 0.2)
    assert taught.gain_half_width == 0.2
    unchecked = replace(stack, on_strange=replace(stack.on_strange, gain_half_width=float("nan")))
    assert replace(mine, stack=unchecked).gain_half_width == mine.choice_half_width
