"""The chance of failure: memory first, then what failed, and nobody's word alone."""

from collections.abc import Mapping

import numpy as np
import pytest

from node.learner import failure, objective
from node.learner.brain import Brain
from node.learner.failure import Failures
from node.learner.prior import PhysicsHead
from node.learner.table import Table
from tests.learner.synthetic import world

pytest.importorskip("lightgbm")

BASE: dict[str, object] = {
    "model.name": "eight", "model.parameters": 8e9, "model.active_parameters": 8e9, "model.layers": 32,
    "model.hidden": 4096, "model.weight_dtype": "bfloat16", "model.kv_bytes_per_token": 131072,
    "hardware.name": "card", "hardware.family": "old", "hardware.count": 1, "hardware.memory_bytes": 80e9,
    "workload.prompt_tokens": 1000, "workload.output_tokens": 200, "workload.concurrency": 8,
    "strategy.engine_version": "1", "strategy.max_num_seqs": 64, "strategy.max_num_batched_tokens": 2048,
}  # fmt: skip
RAN = {"outcome.latency_mean_s": 1.0}
FELL = {"outcome.failure": "start_failed"}


def table(*rows: Mapping[str, object]) -> Table:
    return Table.of_rows([{**BASE, **row} for row in rows], merged=False)


def taught(rows: Table, weight: list[float] | None = None) -> Failures:
    voices = np.ones(rows.rows) if weight is None else np.array(weight)
    return failure.learn(rows, voices, np.random.default_rng(0))


def test_by_physics_alone_what_does_not_fit_fails_and_the_unknown_is_held_against_nobody() -> None:
    sizes = [{"hardware.memory_bytes": room * 1e9} for room in (80, 24, 19, 17, 12)]
    found = Failures().probability(table(*sizes, {"hardware.memory_bytes": None}))
    assert (np.diff(found[:5]) >= 0).all()
    assert found[0] == pytest.approx(failure.FLOOR, abs=0.002)
    assert found[4] > 0.95
    assert found[5] == pytest.approx(failure.FLOOR, abs=0.002)
    parallel = {"hardware.memory_bytes": 12e9, "hardware.count": 2, "strategy.tensor_parallel": 2}
    assert Failures().probability(table(parallel))[0] < 0.1  # two devices hold what one cannot


def test_a_setting_that_failed_is_feared_where_it_failed_and_not_elsewhere() -> None:
    rows = [{"strategy.kv_cache_dtype": "fp8", **FELL} for _ in range(2)]
    rows += [{"strategy.prefix_caching": bool(at % 2), **RAN} for at in range(12)]
    found = taught(table(*rows)).probability(
        table(
            {"strategy.kv_cache_dtype": "fp8", "strategy.max_num_seqs": 16},
            {"strategy.prefix_caching": True},
            {"strategy.kv_cache_dtype": "fp8", "hardware.family": "new", "hardware.name": "new card"},
            {"strategy.kv_cache_dtype": "fp8", "strategy.engine_version": "2"},
            {},
        )
    )
    assert found[0] > 0.2
    assert found[1:].max() < 0.05


def test_what_ran_here_fits_whatever_physics_thinks_of_its_memory() -> None:
    tight = {"hardware.memory_bytes": 18e9}
    before = Failures().probability(table(tight))[0]
    after = taught(table(*[{**tight, **RAN} for _ in range(40)])).probability(table(tight))[0]
    assert before > 0.4
    assert after < 0.1


def test_a_failure_that_memory_explains_is_not_held_against_the_settings() -> None:
    small = {"hardware.memory_bytes": 12e9, "hardware.name": "small card", "strategy.prefix_caching": True}
    found = taught(table(*[{**small, **FELL} for _ in range(5)])).probability(table({"strategy.prefix_caching": True}))
    assert found[0] < 0.03


def test_strangers_inventing_failures_weigh_little_beside_records_of_ones_own() -> None:
    lies = [{"strategy.chunked_prefill": True, **FELL} for _ in range(10)]
    own = [{"strategy.chunked_prefill": True, **RAN} for _ in range(5)]
    asked = table({"strategy.chunked_prefill": True})
    heard = taught(table(*lies, *own), [0.2] * 10 + [10.0] * 5).probability(asked)[0]
    believed = taught(table(*lies, *own)).probability(asked)[0]
    assert heard < 0.05
    assert believed > 0.3


def test_on_many_failures_trees_learn_a_rule_that_no_count_can_carry_to_another_family() -> None:
    rng = np.random.default_rng(3)
    rows: list[dict[str, object]] = []
    for number in range(400):
        seqs, family = int(rng.choice([16, 64, 256, 1024])), str(rng.choice(["old", "older"]))
        fails = seqs == 1024 and rng.random() < 0.9
        rows.append(
            {
                "hardware.family": family,
                "hardware.name": f"card {number % 7}",
                "strategy.max_num_seqs": seqs,
                "workload.concurrency": float(rng.choice([4, 32])),
                **(FELL if fails else RAN),
            }
        )
    known = taught(table(*rows))
    assert known.odds is not None
    new = {"hardware.family": "new", "hardware.name": "new card"}
    found = known.probability(table({**new, "strategy.max_num_seqs": 1024}, {**new, "strategy.max_num_seqs": 64}))
    assert found[0] > 0.5
    assert found[1] < 0.05
    assert known.failed == sum("outcome.failure" in row for row in rows)


def test_unanswered_requests_count_in_trials_and_not_in_traffic_and_silence_says_nothing() -> None:
    some = {"outcome.requests": 10, "outcome.failures": 4}
    found = failure.outcomes(
        table({**some, "record.origin": "trial"}, {**some, "record.origin": "traffic"}, FELL, RAN, {})
    )
    assert np.array_equal(found, [0.4, 0.0, 1.0, 0.0, np.nan], equal_nan=True)
    assert taught(table({}, {})) == Failures()


def test_a_brain_that_saw_a_strategy_fail_leaves_it_though_it_would_be_the_fastest() -> None:
    seen, goal = world(8, seed=1), objective.parse("latency")
    rows = seen.take(seen.context_groups()[0]).without("outcome.")
    fresh = Brain(make_heads=lambda prior, _rows: [PhysicsHead(prior=prior)])
    # On its own it would take what it foretells to be cheapest; the strategy that is so here fails everywhere.
    best = int(np.argmin(fresh.advise(rows, goal, None).forecast.cost))
    failed = seen.choice_names == rows.choice_names[best]
    latency = np.where(failed, np.nan, seen.numbers("outcome.latency_mean_s"))
    words = np.array(["start_failed" if each else None for each in failed], dtype=object)
    told = seen.with_columns({"outcome.latency_mean_s": latency, "outcome.failure": words})
    taught = fresh.taught(told, {}, [goal], np.random.default_rng(0), curves_too=False)
    assert fresh.advise(rows, goal, None).choice.index == best
    assert taught.advise(rows, goal, None).choice.index not in (None, best)
    assert taught.advise(rows, goal, best).choice.index == best  # as the default it is known to run here
    assert taught.failures.failed == 8
