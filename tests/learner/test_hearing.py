"""What is heard: nothing faster than light, no one who misleads, and oneself alone where the swarm is of no use."""

import numpy as np
import pytest

from node.learner import hearing, objective
from node.learner.features import prepare
from node.learner.floor import log_floor
from node.learner.hearing import AUTHOR, Heard, Ranks
from node.learner.prior import Prior
from node.learner.table import Table
from tests.learner.synthetic import world

pytest.importorskip("lightgbm")

LATENCY = objective.parse("latency")
ME: Ranks = {"me": "own"}


def told(latency: np.ndarray, table: Table, authors: int = 8) -> Table:
    author = np.array([f"author {number % authors}" for number in table.contexts], dtype=object)
    author[np.isin(table.contexts, np.unique(table.contexts)[:12])] = "me"
    return table.with_columns({AUTHOR: author, objective.LATENCY: latency})


def possible_world(contexts: int) -> Table:
    """Return the small world three times as slow: its prefixes save more than light allows."""
    table = world(contexts)
    return table.with_columns({objective.LATENCY: 3 * table.numbers(objective.LATENCY)})


def heard(table: Table) -> Heard:
    ready = prepare(table)
    return hearing.hear(ready, LATENCY.of(ready), Prior.of(LATENCY, ready), ME, np.random.default_rng(0))


def test_what_no_machine_can_do_is_heard_of_nobody_but_oneself() -> None:
    table = possible_world(20)
    floor = np.exp(log_floor(table))
    assert (table.numbers(objective.LATENCY) > floor).all()
    faster = told(np.where(table.contexts % 4 == 3, floor / 2, table.numbers(objective.LATENCY)), table)
    kept = hearing.possible(faster, ME)
    own = faster.words(AUTHOR) == "me"
    assert kept[own].all()
    assert (kept[~own] == (faster.contexts[~own] % 4 != 3)).all()


def test_the_bound_falls_with_what_is_unknown_and_is_none_where_a_cache_may_hold_the_model() -> None:
    table = world(4)
    bare = Table(columns={n: c for n, c in table.columns.items() if not n.startswith("hardware.spec_fl")},
                 contexts=table.contexts)  # fmt: skip
    assert (log_floor(bare) <= log_floor(table)).all()
    on_cpu = table.with_columns({"hardware.platform": np.full(table.rows, "cpu", dtype=object)})
    assert np.isnan(log_floor(on_cpu)).all()


def test_authors_who_mislead_are_left_out_whole_and_the_honest_are_all_heard() -> None:
    table = world(120)
    latency = table.numbers(objective.LATENCY)
    lying = np.isin(table.contexts % 8, (1, 2)) & (table.contexts >= 12)
    worst = table.numbers("strategy.max_num_batched_tokens") == 256
    found = heard(told(np.where(lying, np.where(worst, latency / 2, latency * 1.5), latency), table))
    rows = np.zeros(table.rows, dtype=bool)
    rows[found.rows] = True
    assert not rows[lying].any()
    assert rows[~lying].all()
    assert (found.weight > 0).all()


def test_where_the_swarm_only_misleads_about_this_machine_a_node_listens_to_itself_alone() -> None:
    table = world(120)
    rng = np.random.default_rng(1)
    noise = np.where(table.contexts >= 12, 1.5 * rng.standard_normal(table.rows), 0.0)
    words = told(table.numbers(objective.LATENCY) * np.exp(noise), table)
    found = heard(words)
    assert (words.words(AUTHOR)[found.rows] == "me").all()
    assert len(found.rows) == 72


def test_observations_that_nobody_signed_count_alike() -> None:
    found = heard(world(10))
    assert len(found.rows) == 60
    assert (found.weight == 1).all()
    assert not found.credibility
