"""What a node's first own records change: the level of its own machine, as far as machines differ, and no choice."""

from collections.abc import Sequence

import numpy as np
import pytest

from node.learner import local
from node.learner.local import Scales
from node.learner.table import Table
from tests.learner.synthetic import world

WIDE = Scales(machine=1.0, context=0.01, row=0.01)
NARROW = Scales(machine=0.0001, context=0.01, row=0.01)


def rows_of(machine: str, contexts: int = 6, prompts: Sequence[float] = (100.0,)) -> Table:
    table = world(contexts)
    prompt = np.array([prompts[context % len(prompts)] for context in table.contexts])
    return table.with_columns(
        {"hardware.name": np.full(table.rows, machine, dtype=object), "workload.prompt_tokens": prompt}
    )


def test_where_machines_differ_by_factors_one_record_moves_the_level_and_other_machines_stay() -> None:
    mine = rows_of("mine").take(np.array([0]))
    found = local.shift(mine, np.array([0.7]), lambda: WIDE)
    assert found is not None
    assert found.of(rows_of("mine", prompts=[9000.0])) == pytest.approx(0.7, rel=0.05)
    assert not found.of(rows_of("another")).any()


def test_where_the_swarm_foretells_new_machines_well_one_record_hardly_moves_it() -> None:
    found = local.shift(rows_of("mine").take(np.array([0])), np.array([0.7]), lambda: NARROW)
    assert found is not None
    assert np.abs(found.of(rows_of("mine", prompts=[9000.0]))).max() < 0.02


def test_one_absurd_record_counts_as_an_outlier_and_the_rows_of_a_context_move_alike() -> None:
    found = local.shift(rows_of("mine").take(np.array([0])), np.array([50.0]), lambda: WIDE)
    assert found is not None
    here = rows_of("mine", prompts=[100.0, 4000.0])
    moved = found.of(here)
    assert np.abs(moved).max() < 4
    assert all(np.ptp(moved[rows]) == 0 for rows in here.context_groups())


def test_alike_contexts_are_moved_by_what_was_seen_in_one_and_unlike_ones_less() -> None:
    mine = rows_of("mine").take(np.array([0, 1]))
    found = local.shift(mine, np.array([0.5, 0.5]), lambda: Scales(machine=0.001, context=0.25, row=0.01))
    assert found is not None
    near, far = (found.of(rows_of("mine", contexts=2, prompts=[prompt]).take(np.arange(6))) for prompt in (110.0, 9e3))
    assert near.mean() > 5 * np.abs(far).mean()


def test_without_records_there_is_no_correction_and_enough_of_them_are_left_to_the_heads() -> None:
    assert local.shift(rows_of("mine").take(np.zeros(0, dtype=np.int64)), np.zeros(0)) is None
    table = world(20)
    author = np.array(["me" if number < 5 else "you" for number in range(table.rows)], dtype=object)
    told = table.with_columns({"author": author})
    assert local.few(told, {"me": "own"}, "author").sum() == 5
    assert not local.few(told, {"you": "own"}, "author").any()
    assert not local.few(table, {"you": "own"}, "author").any()


@pytest.mark.parametrize(("apart", "least", "most"), [(1.0, 0.4, 2.0), (0.0, 0.0, 0.03)])
def test_how_far_machines_lie_apart_is_learnt_by_leaving_them_out(apart: float, least: float, most: float) -> None:
    table = world(60, families=("a", "b", "c", "d", "e", "f"))
    where = np.unique(table.words("hardware.name").astype(str), return_inverse=True)[1]
    target = apart * np.linspace(-1.5, 1.5, 6)[where]

    found = local.learn_scales(table, target)
    assert least <= found.machine <= most
    assert found.row == pytest.approx(local.LEAST_ROW**2)
