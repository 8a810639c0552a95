"""The bench of the router, in a second, so that it cannot rot."""

import pytest

from tests.benchmarks import bench_router


def test_the_bench_prints_what_a_decision_costs_for_each_number_of_candidates(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = bench_router.main(["--candidates", "3,60", "--seconds", "0.05"])
    assert [line["candidates"] for line in lines] == [3, 60]
    assert all(0 < line[name] < 50_000 for line in lines for name in ("decision", "wanted", "least outstanding"))
    assert capsys.readouterr().out.count("\n") == 3


def test_the_world_of_the_bench_exercises_what_a_decision_reads() -> None:
    world = bench_router.World(50)
    route = world.predictive.choose(world.candidates, world.wish, now=1.0, luck=world.luck)
    forecast = route.forecast
    assert forecast is not None
    assert forecast.cached is not None
    assert forecast.cached.any()
    assert forecast.added.any()
    assert forecast.known.all()
    assert len(set(forecast.curve_rows.tolist())) == 50
