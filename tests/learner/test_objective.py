"""What objectives make of an observation table."""

import numpy as np
import pytest

from node.learner import objective
from node.learner.objective import InvalidObjective, Promises
from node.learner.table import Table

ROWS = [
    {
        "hardware.count": 2,
        "workload.concurrency": 4,
        "workload.output_tokens": 100,
        "strategy.x": 1,
        "outcome.latency_mean_s": 2.0,
        "outcome.latency_p95_s": 4.0,
        "outcome.stall_p95_s": 1.0,
        "outcome.output_tokens_per_s": 200.0,
    },
    {
        "hardware.count": 2,
        "workload.requests_per_s": 1,
        "workload.output_tokens": 100,
        "strategy.x": 1,
        "outcome.latency_mean_s": 1.0,
        "outcome.output_tokens_per_s": 50.0,
    },
]
TABLE = Table.of_rows(ROWS)


def test_each_objective_is_what_the_contracts_say_and_unknown_where_a_column_lacks() -> None:
    def cost(words: str) -> list[float]:
        return np.exp(objective.parse(words).of(TABLE)).round(6).tolist()

    assert cost("latency") == [2.0, 1.0]
    assert cost("throughput") == [1 / 200, 1 / 50]
    assert cost("cost") == [1.0, 4.0]  # closed load: 2 devices * 2 s / 4; open load: 2 devices * 100 / 50 per s
    assert cost("tail")[0] == 2.0
    assert np.isnan(cost("tail")[1])
    assert np.isnan(cost("energy")).all()
    assert cost("latency:3,throughput:1")[0] == pytest.approx((2.0**3 / 200) ** 0.25, abs=1e-6)


def test_a_price_of_the_hour_turns_device_seconds_into_money() -> None:
    priced = TABLE.with_columns({"hardware.price_per_hour": np.array([3.6, np.nan])})
    assert np.exp(objective.parse("cost").of(priced)).round(6).tolist() == [0.001, 4.0]


def test_a_broken_promise_outweighs_a_tenfold_latency() -> None:
    slo = objective.parse("slo", Promises(latency_s=0.5))
    kept, broken = slo.of(TABLE.take(np.array([1, 0])))
    assert broken - kept > np.log(10)
    assert objective.parse("slo").of(TABLE).tolist() == objective.parse("latency").of(TABLE).tolist()


def test_what_must_be_foretold_follows_from_the_columns_that_there_are() -> None:
    assert objective.parse("latency:1,cost:1").targets(TABLE.has) == ("outcome.latency_mean_s",)
    assert objective.parse("energy").targets(TABLE.has) == ()
    assert objective.parse("latency:1,energy:1").targets(TABLE.has) == ()


@pytest.mark.parametrize("words", ["", "speed", "latency:0", "latency:x", "latency,latency:2", "latency:inf"])
def test_what_is_no_objective_is_refused_in_words(words: str) -> None:
    with pytest.raises(InvalidObjective):
        objective.parse(words)


def test_a_name_reads_back_as_the_same_objective() -> None:
    mixed = objective.parse("latency:0.5,cost:0.5")
    assert objective.parse(mixed.name) == mixed
    assert objective.parse("tail").name == "tail"


def test_a_single_outcome_is_made_small_as_it_stands() -> None:
    ttft = objective.outcome("outcome.output_tokens_per_s")
    assert np.exp(ttft.of(TABLE)).round(6).tolist() == [200.0, 50.0]
    assert ttft.targets(TABLE.has) == ("outcome.output_tokens_per_s",)
    assert objective.outcome("outcome.energy_j").targets(TABLE.has) == ()
