import numpy as np
import pytest

from node.learner.features import FEATURE, PREPARED, centre, nearness, prepare
from node.learner.groups import SHAPE, architectures, hardware_folds, inner_folds, labels, plain_name
from node.learner.head import Fitted, Prediction
from node.learner.methods import our_heads, stack_of
from node.learner.objective import parse
from node.learner.prior import PhysicsHead, Prior
from node.learner.stack import StackHead
from node.learner.table import Floats, Table
from node.learner.trees import Growth, TreesHead, advantage_head, coarse_head
from node.learner.weights import Choices
from tests.learner.synthetic import regret, world

LATENCY = parse("latency")
FEW_ROUNDS = Growth(rounds=60, leaves=7, least_rows=10, bags=1)


class Told:
    """A head that foretells the truth plus an error of its own making; counts its fits."""

    def __init__(self, name: str, error: Floats, truth: Floats, contexts: Floats) -> None:
        self.name, self.fits = name, 0
        self._by_row = dict(zip(contexts, truth + error, strict=True))

    def fit(self, table: Table, target: Floats, weight: Floats, rng: np.random.Generator) -> Fitted:
        self.fits += 1
        return self

    def predict(self, table: Table) -> Prediction:
        return Prediction(mean=np.array([self._by_row[value] for value in table.numbers("row")]))


def learnt_from(table: Table) -> tuple[Prior, Floats]:
    return Prior.of(LATENCY, table), LATENCY.of(table)


def test_the_advantage_head_chooses_better_than_physics_on_machines_that_it_has_not_seen() -> None:
    known, strange = world(120, families=("old", "new")), world(40, seed=9, families=("other",))
    prior, target = learnt_from(known)
    rng = np.random.default_rng(0)

    physics = PhysicsHead(prior=prior).fit(known, target, np.ones(known.rows), rng).predict(strange).mean
    head = TreesHead(name="advantage", prior=prior, centred=True, growth=FEW_ROUNDS)
    advantage = head.fit(known, target, np.ones(known.rows), rng).predict(strange).mean

    truth = LATENCY.of(strange)
    assert regret(strange, advantage, truth) < 0.5 * regret(strange, physics, truth)


def test_a_head_is_the_same_given_the_same_luck() -> None:
    table = world(30)
    prior, target = learnt_from(table)
    head = coarse_head(prior)

    first, second = (
        head.fit(table, target, np.ones(table.rows), np.random.default_rng(4)).predict(table).mean for _ in range(2)
    )

    assert np.array_equal(first, second)


def test_predicting_looks_at_no_outcome() -> None:
    table = world(30)
    prior, target = learnt_from(table)
    fitted = advantage_head(prior).fit(table, target, np.ones(table.rows), np.random.default_rng(0))
    spoilt = table.with_columns({"outcome.latency_mean_s": np.full(table.rows, 7.0)})

    assert np.array_equal(fitted.predict(table).mean, fitted.predict(spoilt).mean)
    assert np.array_equal(fitted.predict(table).mean, fitted.predict(table.without("outcome.")).mean)


def test_columns_that_the_records_did_not_have_and_columns_that_are_gone_disturb_no_head() -> None:
    table = world(30)
    prior, target = learnt_from(table)
    fitted = coarse_head(prior).fit(table, target, np.ones(table.rows), np.random.default_rng(0))
    other = table.without("strategy.max_num_seqs").with_columns({"strategy.novel": np.ones(table.rows)})

    assert np.isfinite(fitted.predict(other).mean).all()


def test_weights_go_to_the_head_whose_level_or_whose_choice_is_right_each_for_its_own() -> None:
    table = world(60).with_columns({"row": np.arange(360.0)})
    target, rows, where = LATENCY.of(table), table.numbers("row"), table.context_index
    rng = np.random.default_rng(1)
    per_context = rng.standard_normal(60)[where]
    in_context = centre(rng.standard_normal(360), where)
    leveller = Told("leveller", in_context, target, rows)
    chooser = Told("chooser", per_context, target, rows)

    stack = StackHead(heads=[leveller, chooser]).fit(table, target, np.ones(360), np.random.default_rng(0))

    assert stack.on_strange.level[0] > 0.9
    assert stack.on_known.advantage[1] > 0.9
    assert np.allclose(stack.predict(table).mean, target, atol=0.05)
    assert leveller.fits > 3


def test_what_one_familys_devices_tell_sets_no_weights_for_the_choice_on_another_family() -> None:
    table = world(60, families=("only",)).with_columns({"row": np.arange(360.0)})
    table = table.with_columns(
        {"hardware.name": np.array([f"card {n % 4}" for n in table.context_index], dtype=object)}
    )
    target, rows = LATENCY.of(table), table.numbers("row")
    noise = centre(np.random.default_rng(1).standard_normal(360), table.context_index)
    right, wrong = Told("right", 0 * target, target, rows), Told("wrong", noise, target, rows)

    stack = StackHead(heads=[right, wrong]).fit(table, target, np.ones(360), np.random.default_rng(0))

    assert np.allclose(stack.on_strange.advantage, 0.5)
    assert stack.on_known.advantage[0] > 0.9
    assert stack.on_strange.calibration is not None
    assert np.isinf(stack.on_strange.calibration.farthest)


def test_a_head_that_cannot_be_had_is_left_out_of_the_stack() -> None:
    class NoLibrary(Told):
        def fit(self, table: Table, target: Floats, weight: Floats, rng: np.random.Generator) -> Fitted:
            raise ImportError("no torch here")

    table = world(20).with_columns({"row": np.arange(120.0)})
    target = LATENCY.of(table)
    absent = NoLibrary("absent", target, target, table.numbers("row"))
    there = Told("there", 0 * target, target, table.numbers("row"))

    stack = StackHead(heads=[absent, there]).fit(table, target, np.ones(120), np.random.default_rng(0))

    assert stack.names == ("there",)


def test_with_hardly_a_record_the_stack_still_answers() -> None:
    table = world(2)
    prior, target = learnt_from(table)
    stack = StackHead(heads=[PhysicsHead(prior=prior)]).fit(table, target, np.ones(12), np.random.default_rng(0))

    assert np.isfinite(stack.predict(table).mean).all()
    assert stack.on_strange.calibration is None


def test_two_names_of_one_architecture_are_one_group_and_other_sizes_are_another() -> None:
    shape = {"model.parameters": 8e9, "model.layers": 32, "model.hidden": 4096}
    rows = [
        {"model.name": "meta-llama/Llama-3.1-8B-Instruct", "strategy.x": 1, **shape},
        {"model.name": "nvidia/Llama-3.1-8B-Instruct-FP8", "strategy.x": 1, **shape},
        {
            "model.name": "meta-llama/Llama-3.1-70B",
            "strategy.x": 1,
            **shape,
            "model.layers": 80,
            "model.parameters": 70e9,
        },
        {"model.name": "who/Knows-7B-AWQ", "strategy.x": 1},
    ]
    found = list(architectures(Table.of_rows(rows)))
    assert list(architectures(Table.of_rows(rows[::-1])))[::-1] == found

    assert found[0] == found[1] == "Llama-3.1-8B"
    assert len(set(found)) == 3
    assert plain_name("who/Knows-7B-Chat-AWQ") == "Knows-7B"


def test_weights_are_learnt_on_whole_families_and_architectures() -> None:
    table = world(40, families=("a", "b", "c"))
    folds = list(inner_folds(table, np.random.default_rng(0)))

    assert len(list(hardware_folds(table))) == 3
    for left in folds:
        for column in ("hardware.family",) if left is folds[0] else ("model.name",) if left is folds[-1] else ():
            found = labels(table, column)
            assert not set(found[left]) & set(found[~left])


def test_features_have_no_unit_and_are_computed_once() -> None:
    table = prepare(world(5))
    twice = world(5)
    faster = twice.with_columns(
        {
            "hardware.spec_bytes_per_s": 2 * twice.numbers("hardware.spec_bytes_per_s"),
            "hardware.spec_flops_bf16": 2 * twice.numbers("hardware.spec_flops_bf16"),
        }
    )

    assert prepare(table) is table
    ridge = f"{FEATURE}past the ridge alone"
    assert np.allclose(prepare(faster).numbers(ridge), table.numbers(ridge))  # twice as fast in both: the same shape
    assert np.all(prepare(faster).numbers(PREPARED) < table.numbers(PREPARED))


def test_choices_count_regret_in_contexts_with_a_choice_only() -> None:
    where = np.array([0, 0, 1, 2, 2, 2])
    cut = Choices.of(where)
    truth = np.array([1.0, 2.0, 5.0, 3.0, 1.0, 2.0])[cut.order]

    assert list(cut.regret(np.array([2.0, 1.0, 0.0, 1.0, 9.0, 1.0])[cut.order], truth)) == [1.0, 2.0]
    assert list(cut.regret(truth, truth)) == [0.0, 0.0]


def test_rows_near_the_best_of_their_context_count_most() -> None:
    weight = nearness(np.array([0.0, 1.0, 5.0, 4.0]), np.array([0, 0, 1, 1]), 4.0)
    assert weight == pytest.approx([1.0, 0.05 + 0.95 * np.exp(-4), 0.05 + 0.95 * np.exp(-4), 1.0])


def test_where_nothing_could_be_left_out_only_what_needs_no_proof_counts() -> None:
    table = world(8, families=("only",)).with_columns({"row": np.arange(48.0)})
    target, rows = LATENCY.of(table), table.numbers("row")
    heads = [Told("physics", 0 * target, target, rows), Told("learnt", 0 * target, target, rows)]

    stack = StackHead(heads=heads, proven=frozenset({"physics"})).fit(
        table, target, np.ones(table.rows), np.random.default_rng(0)
    )

    assert stack.on_strange.calibration is None
    assert stack.on_strange.advantage.tolist() == stack.on_known.level.tolist() == [1.0, 0.0]


def test_of_one_model_on_one_machine_kinds_of_workload_are_left_out() -> None:
    table = world(30, families=("only",))
    kinds = np.array([("chat", "code", "batch")[n % 3] for n in table.context_index], dtype=object)
    table = table.with_columns(
        {"workload.kind": kinds, "model.name": np.full(table.rows, "one", dtype=object)}
        | {name: np.ones(table.rows) for name in SHAPE if table.has(name)}
    )

    left = [set(kinds[fold]) for fold in inner_folds(table, np.random.default_rng(0))]

    assert sorted(map(sorted, left)) == [["batch"], ["chat"], ["code"]]


def test_how_sure_a_gain_is_does_not_hang_on_how_wrong_the_worst_strategies_are_foretold() -> None:
    table = world(60).with_columns({"row": np.arange(360.0)})
    target, rows, where = LATENCY.of(table), table.numbers("row"), table.context_index
    best = np.array([target[where == one].min() for one in where])
    bad = (target > best + 0.01) & ~table.is_default
    worse = Told("worse", np.where(bad, np.random.default_rng(0).uniform(0, 2, 360), 0.0), target, rows)

    stack = StackHead(heads=[worse]).fit(table, target, np.ones(360), np.random.default_rng(0))

    assert stack.on_known.gain_half_width < 1e-9
    off = np.where(table.is_default, 0.4, 0.0)  # every gain is foretold to be more than it was
    wrong = StackHead(heads=[Told("wrong", off, target, rows)]).fit(
        table, target, np.ones(360), np.random.default_rng(0)
    )
    assert wrong.on_known.gain_half_width == pytest.approx(0.4)
    assert stack.half_width(table, stack.predict(table)).min() > 0.5
    unknown = StackHead(heads=[worse]).fit(
        table.without("strategy.is_default"), target, np.ones(360), np.random.default_rng(0)
    )
    assert np.isnan(unknown.on_known.gain_half_width)


def test_nothing_is_said_of_a_context_with_one_strange_row_or_with_intervals_far_wider_than_usual() -> None:
    table = world(60)
    prior, target = learnt_from(table)
    stack = stack_of([PhysicsHead(prior=prior), coarse_head(prior)]).fit(
        table, target, np.ones(table.rows), np.random.default_rng(0)
    )
    asked = prepare(world(4, seed=3))
    usual = stack.half_width(asked, stack.predict(asked))
    assert not stack.silent(asked, usual).any()
    assert stack.silent(asked, np.where(asked.context_index == 2, 9.0, usual)).tolist() == (
        (asked.context_index == 2).tolist()
    )
    other = np.where(np.arange(asked.rows) == 0, 1e19, asked.numbers("hardware.spec_bytes_per_s"))
    far = prepare(world(4, seed=3).with_columns({"hardware.spec_bytes_per_s": other}))
    assert stack.silent(far, usual).tolist() == (far.context_index == 0).tolist()


def test_heads_that_know_machines_have_no_say_on_strange_ones_and_physics_needs_no_proof() -> None:
    prior, _ = learnt_from(world(2))
    stack = stack_of(our_heads(prior, networks=False))

    assert stack.settled == {"machine", "machine_advantage", "machine_plain"}
    assert stack.proven == {"physics"}
    table = world(40)
    fitted = stack.fit(table, LATENCY.of(table), np.ones(table.rows), np.random.default_rng(0))
    strange = dict(zip(fitted.names, fitted.on_strange.advantage, strict=True))
    assert not any(strange[name] for name in stack.settled)


def test_a_table_without_a_choice_teaches_times_and_no_advantage() -> None:
    table = world(80)
    one_each = table.take(np.arange(0, table.rows, 6))
    prior, target = learnt_from(one_each)
    head = advantage_head(prior).fit(one_each, target, np.ones(one_each.rows), np.random.default_rng(0))

    assert np.array_equal(head.predict(table).mean, prior.log_cost(table))
    assert not head.contributions(table)[1].any()
    stack = stack_of(our_heads(prior, networks=False)).fit(
        one_each, target, np.ones(one_each.rows), np.random.default_rng(0)
    )
    assert np.isfinite(stack.predict(table).mean).all()
