"""Proposals, on a made-up world whose optimum lies between the strategies that it has."""

import numpy as np
import pytest

from node.learner import brain, objective
from node.learner.brain import Brain
from node.learner.propose import propose
from node.learner.refine import PARAMETERS
from node.learner.table import Table
from tests.learner.synthetic import rows_of, world

pytest.importorskip("lightgbm")

LATENCY = objective.parse("latency")


def test_given_strategies_cost_in_a_proposal_what_they_cost_alone(taught: Brain) -> None:
    given = rows_of(world(4, seed=2), 1)
    found = propose(taught, given, LATENCY, parameters=PARAMETERS[:1])
    alone = taught.advise(Table.of_rows([{**row, "context": 0} for row in given], merged=False), LATENCY, None)
    assert np.allclose(found.forecast.cost[: found.given], alone.forecast.cost)
    assert found.given == len(given)
    assert found.names[: found.given] == tuple(str(row["strategy.name"]) for row in given)
    assert found.default is not None
    assert found.gain(found.default) == (0.0, 0.0, 0.0)
    assert found.learnt
    without = propose(taught, given, LATENCY, parameters=())
    assert without.looked_at == 0
    assert len(without.names) == len(given)


def test_what_is_found_between_is_better_than_all_given_less_sure_and_keeps_the_engines_rules() -> None:
    given = rows_of(world(4, seed=2), 0)[::2]
    unchunked = [{**row, "strategy.chunked_prefill": False} for row in given]
    for start in (given, unchunked):
        found = propose(Brain(make_heads=brain.trees), start, LATENCY)  # physics has slopes everywhere
        more = found.table.take(np.arange(found.given, found.table.rows))
        assert found.looked_at > 50
        assert (found.forecast.cost[found.given :] < found.forecast.cost[: found.given].min()).all()
        assert (found.forecast.half_width[found.given :] > found.forecast.half_width[: found.given].max()).all()
        budget, seats = (more.numbers(f"strategy.max_num_{name}") for name in ("batched_tokens", "seqs"))
        assert (budget >= seats).all()
        assert all(" with " in name for name in found.names[found.given :])
        if start is unchunked:
            assert (budget >= min(float(str(row["strategy.max_num_batched_tokens"])) for row in given)).all()


def test_lossy_strategies_and_those_that_may_fail_are_ranked_and_not_chosen() -> None:
    given = rows_of(world(4, seed=2), 0)
    quantised = {**given[0], "strategy.weight_quantization": "fp8", "strategy.name": "fp8", "strategy.is_default": 0.0}
    rows = [*given, quantised]
    shy, bold = (
        propose(Brain(make_heads=brain.trees), rows, LATENCY, lossy_allowed=may, parameters=()) for may in (False, True)
    )
    assert shy.lossy[len(given)]
    assert shy.choice.index != len(given)
    assert bold.choice.index is not None
    assert bold.lossy[bold.choice.index]
    small = [{**row, "hardware.memory_bytes": float(str(row["model.parameters"])) * 2.05} for row in rows]
    tight = propose(Brain(make_heads=brain.trees), small, LATENCY, parameters=())
    assert tight.failure[0] > 0.5
    assert tight.failure[len(given)] < 0.05
