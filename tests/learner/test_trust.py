"""Weights of records: standings, caps, and liars found by their errors."""

import numpy as np
import pytest

from node.learner import trust
from node.learner.table import Floats, Ints
from node.learner.trust import Voices

STRATEGIES = 6
CONTEXTS_EACH = 8


def voices_of(author: list[str], gpu: list[str] | None = None, standing: list[str] | None = None) -> Voices:
    words = [np.array(column, dtype=object) for column in (author, gpu or ["a"] * len(author))]
    ranks = np.array(standing or ["known"] * len(author), dtype=object)
    return Voices(author=words[0], gpu=words[1], standing=ranks, context=np.arange(len(author)))


class Swarm:
    """Authors who each measured some contexts; strategies have true advantages, which liars turn around."""

    def __init__(self, rng: np.random.Generator, authors: int, liars: int, own: bool = False) -> None:
        shape = (authors, CONTEXTS_EACH, STRATEGIES)
        self.truth = np.linspace(-0.5, 0.5, STRATEGIES)
        base = rng.normal(size=(*shape[:2], 1))
        said = np.broadcast_to(self.truth, shape).copy()
        said[:liars] = -2 * said[:liars]  # all of them alike: they collude
        self.target = (base + said + 0.05 * rng.standard_normal(shape)).reshape(-1)
        self.base = np.broadcast_to(base, shape).reshape(-1)
        author, context, self.strategy = (grid.reshape(-1) for grid in np.indices(shape))
        ranks = np.where((author == authors - 1) & own, "own", "known")
        self.voices = Voices(
            author=np.array([f"author {number}" for number in author], dtype=object),
            gpu=np.array([f"gpu {number % 3}" for number in author], dtype=object),
            standing=ranks.astype(object),
            context=author * CONTEXTS_EACH + context,
        )

    def foretell(self, learn: Ints, weight: Floats, ask: Ints) -> Floats:
        """The weighted mean advantage of each strategy; the context's own level is known, as physics knows it."""
        residual = self.target - self.base
        sums = np.bincount(self.strategy[learn], weights=weight * residual[learn], minlength=STRATEGIES)
        mass = np.bincount(self.strategy[learn], weights=weight, minlength=STRATEGIES)
        return self.base[ask] + (sums / np.maximum(mass, 1e-12))[self.strategy[ask]]

    def learnt(self, weight: Floats) -> Floats:
        everything = np.arange(len(self.target))
        return self.foretell(everything, weight, np.arange(STRATEGIES)) - self.base[:STRATEGIES]


def test_own_known_and_unknown_count_ten_to_one_to_a_fifth() -> None:
    voices = voices_of(["me", "friend", "stranger"], standing=["own", "known", "unknown"])
    assert trust.prior(voices).tolist() == [10.0, 1.0, 0.2]
    assert trust.prior(voices_of(["x"], standing=["somehow"])).tolist() == [0.2]


@pytest.mark.parametrize("liars", [2, 4, 6])
def test_up_to_thirty_percent_of_colluding_authors_lose_nearly_all_their_weight(liars: int) -> None:
    swarm = Swarm(np.random.default_rng(3), authors=20, liars=liars)
    found = trust.weigh(swarm.voices, swarm.target, swarm.foretell, np.random.default_rng(4))
    lying = [found.credibility[f"author {number}"] for number in range(liars)]
    honest = [found.credibility[f"author {number}"] for number in range(liars, 20)]
    assert max(lying) < 0.3 * min(honest)
    without = np.abs(swarm.learnt(np.ones(len(swarm.target))) - swarm.truth).max()
    assert np.abs(swarm.learnt(found.weight) - swarm.truth).max() < 0.1 * without


def test_honest_authors_are_all_believed_and_one_s_own_records_most() -> None:
    swarm = Swarm(np.random.default_rng(5), authors=12, liars=0, own=True)
    found = trust.weigh(swarm.voices, swarm.target, swarm.foretell, np.random.default_rng(6))
    assert min(found.credibility.values()) > 0.7
    assert found.credibility["author 11"] == 1.0
    mine = swarm.voices.standing == "own"
    assert found.weight[mine].mean() > 8 * found.weight[~mine].mean()


def test_a_thousand_fresh_identities_together_are_no_louder_than_half_of_what_is_known() -> None:
    names = [f"fresh {number}" for number in range(9000)] + ["me"] * 120 + ["friend"] * 20
    voices = voices_of(names, standing=["unknown"] * 9000 + ["own"] * 120 + ["known"] * 20)
    weight = trust.capped(voices, trust.prior(voices))
    assert weight[:9000].sum() == pytest.approx(0.5 * weight[9000:].sum())
    assert weight.mean() == pytest.approx(1.0)


def test_a_first_own_record_does_not_silence_a_swarm() -> None:
    voices = voices_of(["other"] * 5000 + ["me"], standing=["unknown"] * 5000 + ["own"])
    weight = trust.capped(voices, trust.prior(voices))
    assert 10 < weight[-1] / weight[0] < 200
    assert weight[-1] < 0.05 * weight.sum()


def test_an_author_is_capped_over_all_and_within_a_type_of_gpu() -> None:
    crowd = [f"author {number}" for number in range(60)]
    names = ["loud"] * 3000 + crowd * 10
    gpus = ["rare"] * 1500 + ["common"] * 1500 + ["common"] * 600
    weight = trust.capped(voices_of(names, gpus), np.ones(3600))
    loud = np.array(names) == "loud"
    assert weight[loud].sum() == pytest.approx(0.1 * weight.sum(), rel=0.02)
    alone = trust.capped(voices_of(["rare owner"] * 1000 + crowd * 10, ["rare"] * 1000 + ["c"] * 600), np.ones(1600))
    assert alone[:1000].sum() <= 0.051 * alone.sum()
    assert np.ptp(alone[1000:]) == 0


def test_two_authors_alone_are_under_no_cap_and_one_alone_is_weighed_without_a_fit() -> None:
    weight = trust.capped(voices_of(["a"] * 9 + ["b"]), np.ones(10))
    assert weight.tolist() == [1.0] * 10

    def never(_learn: Ints, _weight: Floats, _ask: Ints) -> Floats:
        raise AssertionError

    found = trust.weigh(voices_of(["a"] * 4), np.zeros(4), never, np.random.default_rng(0))
    assert found.weight.tolist() == [1.0] * 4


def test_faster_than_physics_is_refused_and_an_unknown_floor_refuses_nobody() -> None:
    kept = trust.possible(np.log([1.0, 0.95, 0.5, 0.5]), np.log([1.0, 1.0, 1.0, np.nan]))
    assert kept.tolist() == [True, True, False, True]


def test_a_shared_model_that_makes_own_predictions_worse_is_not_used() -> None:
    rng = np.random.default_rng(1)
    good, bad = 0.1 * rng.standard_normal(40), 0.5 * rng.standard_normal(40)
    assert trust.shared_is_better(good, bad)
    assert not trust.shared_is_better(bad, good)
    assert trust.shared_is_better(np.full(3, np.nan), np.zeros(3))


def test_huber_leaves_small_errors_alone_and_quiets_large_ones() -> None:
    error = np.concatenate([0.1 * np.random.default_rng(2).standard_normal(100), [5.0]])
    weight = trust.huber_weight(error)
    assert np.median(weight) == 1.0
    assert weight[-1] < 0.05


def told(rng: np.random.Generator, lying: list[bool], contexts: int) -> tuple[Voices, Floats, Floats]:
    """Return what authors say of 20 strategies, and what is true; liars praise the last, the last but one is best."""
    shape = (len(lying), contexts, 20)
    truth = np.broadcast_to(np.append(np.linspace(0.6, 0.0, 19), 0.5), shape) + rng.normal(size=(*shape[:2], 1))
    said = truth + 0.03 * rng.standard_normal(shape)
    said[np.array(lying), :, -1] -= 1.0
    author, context, _ = (grid.reshape(-1) for grid in np.indices(shape))
    names = np.array([f"author {number}" for number in author], dtype=object)
    standing = np.where(author == 0, "own", "unknown").astype(object)
    voices = Voices(author=names, gpu=names, standing=standing, context=author * contexts + context)
    return voices, said.reshape(-1), truth.reshape(-1)


def test_a_lie_about_one_strategy_of_twenty_is_found_by_the_choices_that_it_misleads() -> None:
    lying = [False] * 9 + [True] * 3
    voices, said, truth = told(np.random.default_rng(0), lying, 8)

    def foretell(_learn: Ints, _weight: Floats, ask: Ints) -> Floats:
        return truth[ask]

    found = trust.weigh(voices, said, foretell, np.random.default_rng(1))
    assert [found.credibility[f"author {n}"] < trust.UNHEARD for n in range(12)] == lying
    assert min(found.credibility[f"author {n}"] for n in range(9)) > 0.8
    assert (found.weight[voices.author == "author 11"] == 0).all()


def test_physics_judges_first_so_that_most_of_what_is_said_may_be_lies_and_newcomers_share_their_company() -> None:
    lying = [False] * 12 + [True] * 150
    voices, said, truth = told(np.random.default_rng(0), lying, 1)
    said[voices.author == "author 161"] = truth[voices.author == "author 161"]  # nothing contradicts this one
    heard: list[set[str]] = []

    def foretell(learn: Ints, weight: Floats, ask: Ints) -> Floats:
        heard.append(set(voices.author[learn[weight > 0]]))
        return truth[ask]

    found = trust.weigh(voices, said, foretell, np.random.default_rng(1), truth)
    assert not any("author 150" in each for each in heard)
    assert found.credibility["author 161"] < 0.5
    assert found.credibility["author 0"] == 1.0
