"""The bench of own evidence on made-up runs: what was measured elsewhere leads to the best, what was not does not."""

import pytest

from tests.benchmarks.bench_own_evidence import lines, run
from tests.learner.trials_made import trial

TRUE = {"default": 2.0, "few": 3.0, "small": 1.5, "plain": 2.02}


def runs(count: int, noise: float = 0.03) -> list[dict[str, object]]:
    """Return runs of one node, each of two workloads."""
    return [
        {**row, "record.epoch_us": number, "context": 10 * number + at}
        for number in range(count)
        for at, tokens in enumerate((100.0, 120.0))
        for row in trial(TRUE, pair=f"{number}-{at}", noise=noise, seed=number * 7 + at, workload_output_tokens=tokens)
    ]


def test_what_other_runs_measured_makes_the_choice_of_the_one_left_out() -> None:
    for words in ("latency", "throughput", "tail"):
        found = run(runs(4), words)
        regret = {way: sum(pick.regret for pick in picks) / len(picks) for way, picks in found.items()}
        assert len(found["evidence"]) == 8
        assert regret["evidence"] < 0.02 < 0.1 < regret["default"]
        assert min(pick.gain for pick in found["evidence"]) > -0.02


@pytest.mark.parametrize("words", ["latency", "energy"])
def test_an_objective_that_the_records_lack_says_so(words: str) -> None:
    shown = "\n".join(lines([dict(row) for row in runs(2)], [words]))
    assert ("lack it" in shown) == (words == "energy")
    assert "2 runs" in shown
