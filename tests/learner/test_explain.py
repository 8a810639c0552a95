"""Reasons: parts that add up, and what was never seen."""

from typing import Any

import pytest

from node.learner import brain, objective
from node.learner.brain import Brain
from node.learner.explain import explain
from node.learner.propose import propose
from tests.learner.synthetic import rows_of, world

pytest.importorskip("lightgbm")

LATENCY = objective.parse("latency")


def test_a_reason_adds_up_and_names_the_prefix_cache_where_prompts_share_their_beginning(taught: Brain) -> None:
    table = world(30, seed=2)
    shared = [at for at in range(30) if rows_of(table, at)[0]["workload.shared_prefix_tokens"]]
    given = [{**row, "strategy.is_default": row["strategy.name"] == "budget 4096"} for row in rows_of(table, shared[0])]
    found = propose(taught, given, LATENCY, parameters=())
    reason = explain(taught, found, LATENCY)
    assert reason is not None
    assert found.names[reason.other] == "budget 4096"
    assert "prefix" in found.names[reason.chosen]
    assert reason.gain == pytest.approx(reason.physics + reason.learnt)
    assert reason.gain == pytest.approx(sum(head.advantage * head.gain for head in reason.heads))
    assert reason.gain == pytest.approx(
        float(found.forecast.cost[reason.other] - found.forecast.cost[reason.chosen]), abs=1e-6
    )
    assert reason.gain > 0
    assert len(reason.moved) <= 8
    assert not reason.unheard
    assert max(reason.distance.values()) < 1


def test_a_reason_says_what_was_never_seen_and_without_records_physics_is_all_of_it(taught: Brain) -> None:
    strange = [{**row, "hardware.name": "novel", "hardware.family": "novel"} for row in rows_of(world(4, seed=2), 0)]
    reason = explain(taught, propose(taught, strange, LATENCY, parameters=()), LATENCY)
    assert reason is not None
    assert reason.unheard == (("hardware.name", "novel"), ("hardware.family", "novel"))
    assert not reason.known_hardware
    empty = Brain(make_heads=brain.trees)
    alone: Any = explain(empty, propose(empty, strange, LATENCY, parameters=()), LATENCY)
    assert alone.gain == alone.physics
    assert alone.heads == ()
    assert explain(empty, propose(empty, strange[:1], LATENCY, parameters=()), LATENCY) is None
