"""The bench of liars, in seconds, so that it cannot rot."""

from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import bench_liars
from tests.benchmarks.liars_swarm import AUTHORS, ME, Wish, bent, pushed, swarm
from tests.learner.synthetic import world

pytest.importorskip("lightgbm")

TABLE = world(240, families=("old", "new", "other"))


@pytest.mark.slow
def test_the_bench_prints_a_line_for_every_case_and_way_and_takes_up_where_it_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (TABLE, ["clean", "liars30"], ["defended", "huber"], ["other"], [0], tmp_path)
    bench_liars.run(*asked)
    found = bench_liars.run(*asked)
    assert capsys.readouterr().err.count(" s\n") == 4
    shown = bench_liars.lines(found)
    assert [line.split()[:2] for line in shown[1:]] == [
        ["clean", "defended"], ["clean", "huber"], ["liars30", "defended"], ["liars30", "huber"],
    ]  # fmt: skip
    assert set(found[("liars30", "defended")][0]) == {"own machine", "unseen family", "worth, honest", "worth, liars"}


def test_a_swarm_has_the_same_people_whether_they_lie_or_not_and_nobody_has_what_is_left_out() -> None:
    clean, lying, fresh = (
        swarm(TABLE, wish, np.random.default_rng(1))
        for wish in (Wish(left_out="other"), Wish(left_out="other", liars=0.25), Wish(left_out="other", fresh=30))
    )
    assert (clean.told.words("record.author") == lying.told.words("record.author")).all()
    assert len(lying.liars) == AUTHORS // 4
    assert len(fresh.liars) == 30
    assert ME in set(clean.told.words("record.author"))
    assert set(clean.told.words("hardware.family")) == {"old", "new"}
    judged = {int(number) for place in clean.places.values() for number in place.contexts}
    assert not judged & {int(number) for number in clean.told.contexts}


def test_liars_praise_one_strategy_as_far_as_physics_allows() -> None:
    strategy = pushed(TABLE)
    told = bent(TABLE, np.ones(TABLE.rows, dtype=bool), strategy)
    praised = TABLE.words("strategy.name") == strategy
    faster = told.numbers("outcome.latency_mean_s") / TABLE.numbers("outcome.latency_mean_s")
    assert (faster[praised] <= 1).all()
    assert (faster[praised] >= 1 / 2.5 - 1e-9).all()
    assert faster[~praised] == pytest.approx(1.5)
