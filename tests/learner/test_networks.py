"""The two heads of torch: the MetaInf replica and the ensemble of small networks."""

import numpy as np
import pytest
from numpy.typing import NDArray

from node.learner import metainf_head, objective
from node.learner.metainf_head import MetaInfHead
from node.learner.mlp import MlpHead
from node.learner.mlp import Settings as MlpSettings
from node.learner.prior import Prior
from node.learner.table import Table, stack
from node.learner.texts import Embedder
from tests.learner.synthetic import regret, world

pytest.importorskip("torch")

LATENCY = objective.parse("latency")
LEARNT, ASKED = world(60, seed=1), world(20, seed=2)


def letters(batch: list[str]) -> NDArray[np.float32]:
    """Hashes of words, as a sentence encoder would give if it knew nothing of meaning."""
    found = np.zeros((len(batch), 32), dtype=np.float32)
    for at, text in enumerate(batch):
        for word in text.split():
            found[at, sum(word.encode()) * 31 % 32] += 1
    return found


def replica(epochs: int = 30, held_out: float = 0.1) -> MetaInfHead:
    settings = metainf_head.Settings(
        width=32, epochs=epochs, batch=8, rate=3e-3, members=1, jitter=0.0, held_out=held_out
    )
    return MetaInfHead(embedder=Embedder(letters, "letters", 32), settings=settings)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_replica_learns_from_texts_alone_and_records_how() -> None:
    target = LATENCY.of(LEARNT)
    fitted = replica().fit(LEARNT, target, np.ones(LEARNT.rows), rng())
    foretold = fitted.predict(ASKED)
    truth = LATENCY.of(ASKED)
    assert foretold.spread is None
    assert np.abs(foretold.mean - truth).mean() < 0.3 * np.abs(truth - target.mean()).mean()
    assert regret(ASKED, foretold.mean, truth) < 0.75 * regret(ASKED, np.zeros(ASKED.rows), truth)
    (curve,) = fitted.curves
    assert curve[0].held_out > 2 * curve[-1].held_out
    assert curve[0].held_out_within > 2 * curve[-1].held_out_within
    assert len(curve) == 30


def test_the_same_seed_gives_the_same_heads_and_leaves_torch_s_own_luck_alone() -> None:
    import torch

    target, ones = LATENCY.of(LEARNT), np.ones(LEARNT.rows)
    prior = Prior.of(LATENCY, LEARNT)
    for head in (replica(epochs=3), MlpHead(prior=prior, settings=MlpSettings(epochs=2))):
        torch.manual_seed(5)
        first = head.fit(LEARNT, target, ones, rng()).predict(ASKED).mean
        drawn = torch.rand(1)
        torch.manual_seed(6)
        second = head.fit(LEARNT, target, ones, rng()).predict(ASKED).mean
        assert np.array_equal(first, second)
        torch.manual_seed(5)
        assert drawn == torch.rand(1)


def test_a_strategy_s_time_hangs_on_no_other_that_is_asked_about_with_it() -> None:
    target = LATENCY.of(LEARNT)
    fitted = replica(epochs=2).fit(LEARNT, target, np.ones(LEARNT.rows), rng())
    together = fitted.predict(ASKED).mean
    backwards = np.arange(ASKED.rows)[::-1]
    assert np.allclose(fitted.predict(ASKED.take(backwards)).mean, together[backwards], atol=1e-5)
    each = [fitted.predict(ASKED.take(np.array([row]))).mean[0] for row in range(6)]
    assert np.allclose(each, together[:6], atol=1e-5)


def test_a_context_of_more_strategies_than_a_sequence_holds_and_one_of_a_single_one_are_learnt_from() -> None:
    many = LEARNT.take(np.zeros(200, dtype=np.int64)).with_columns({"strategy.max_num_seqs": np.arange(1.0, 201.0)})
    table = stack(many, world(2, seed=3).take(np.array([0, 6])))
    fitted = replica(epochs=2).fit(table, LATENCY.of(table), np.ones(table.rows), rng())
    assert np.isfinite(fitted.predict(table).mean).all()


def test_a_table_that_says_nothing_new_is_foretold_all_the_same() -> None:
    fitted = replica(epochs=1).fit(LEARNT, LATENCY.of(LEARNT), np.ones(LEARNT.rows), rng())
    bare = Table(columns={"outcome.energy_j": np.ones(2)}, contexts=np.zeros(2, dtype=np.int64))
    first, second = fitted.predict(bare).mean
    assert first == pytest.approx(second)
    assert len(fitted.predict(bare.take(np.zeros(2, dtype=bool))).mean) == 0


def test_with_too_few_contexts_to_hold_some_out_training_runs_to_its_end() -> None:
    few = world(4)
    fitted = replica(epochs=3).fit(few, LATENCY.of(few), np.ones(few.rows), rng())
    (curve,) = fitted.curves
    assert len(curve) == 3
    assert np.isnan(curve[0].held_out)


def test_a_row_of_no_weight_is_not_learnt_from() -> None:
    target, weight = LATENCY.of(LEARNT), np.ones(LEARNT.rows)
    lies = LEARNT.numbers("strategy.prefix_caching") == 1
    weight[lies] = 1e-6
    bent = np.where(lies, target + 5, target)
    prior = Prior.of(LATENCY, LEARNT)
    fitted = MlpHead(prior=prior, settings=MlpSettings(epochs=20)).fit(LEARNT, bent, weight, rng())
    assert fitted.predict(ASKED).mean.mean() < LATENCY.of(ASKED).mean() + 1


def test_the_ensemble_corrects_physics_and_knows_where_it_has_seen_nothing() -> None:
    target = LATENCY.of(LEARNT)
    prior = Prior.of(LATENCY, LEARNT)
    fitted = MlpHead(prior=prior, settings=MlpSettings(epochs=40)).fit(LEARNT, target, np.ones(LEARNT.rows), rng())
    foretold, truth = fitted.predict(ASKED), LATENCY.of(ASKED)
    assert np.abs(foretold.mean - truth).mean() < 0.3 * np.abs(prior.log_cost(ASKED) - truth).mean()
    assert regret(ASKED, foretold.mean, truth) < 0.01
    assert foretold.spread is not None
    strange = ASKED.with_columns({"workload.prompt_tokens": np.full(ASKED.rows, 60_000.0)})
    there = fitted.predict(strange).spread
    assert there is not None
    assert there.mean() > 2 * foretold.spread.mean()


def test_columns_that_are_gone_at_prediction_are_unknown_and_no_error() -> None:
    prior = Prior.of(LATENCY, LEARNT)
    fitted = MlpHead(prior=prior, settings=MlpSettings(epochs=1)).fit(
        LEARNT, LATENCY.of(LEARNT), np.ones(LEARNT.rows), rng()
    )
    bare = Table(columns={"strategy.max_num_seqs": np.array([8.0, 16.0])}, contexts=np.zeros(2, dtype=np.int64))
    assert np.isfinite(fitted.predict(bare).mean).all()
