"""The benchmark of adverts runs, in its short form; and its model of the flood is right where it can be counted."""

import pytest
import trio

from tests.benchmarks.bench_adverts import QUICK, flood, measure


@pytest.mark.slow
@pytest.mark.libp2p
def test_every_figure_is_taken() -> None:
    row = trio.run(measure, QUICK)
    assert row["delivered of all"] == 1
    assert row["KB per node and advert"] > row["advert bytes"] / 1e3
    assert row["500 nodes: KB per node and minute"] > row["10 nodes: KB per node and minute"] > 0
    assert all(value > 0 for key, value in row.items() if "CPU" not in key and "quiet" not in key), row


def test_the_flood_reaches_everybody_and_costs_a_node_its_degree_less_one() -> None:
    assert flood(2, 2).copies == 0.5
    assert flood(7, 2).copies == pytest.approx(1, abs=0.2)  # a ring: both ways round, and they meet
    for nodes in (100, 500):
        assert flood(nodes, 6).copies == pytest.approx(5, abs=0.2)
    assert 3 <= flood(500, 6).hops <= 10
