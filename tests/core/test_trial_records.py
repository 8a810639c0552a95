"""A cell of trials as a record's body: units, spread, failures, and that the wire takes it."""

from node.core import trial_records, workloads
from node.core.observation import to_wire_strategy
from node.core.own_records import Setting
from node.core.strategy import DEFAULT, Speculation, Strategy
from node.core.trial_outcome import Outcome, Spread
from node.core.trial_plan import Cell, Entry, Failure, Plan, cells
from node.core.workloads import Scale
from protocol import records
from protocol.performance import PERFORMANCE
from protocol.performance import Outcome as WireOutcome
from tests.protocol import samples
from tests.protocol.performance_samples import BENCHMARK, ENGINE, HARDWARE, MODEL, body, performance

STRATEGY = Strategy(
    prefix_caching=True,
    max_num_seqs=4,
    speculation=Speculation(method="ngram", tokens=2),
    engine_extra=(("block-size", "32"),),
)
LOAD = workloads.loads(Scale(prefill=256, decode=16), kinds=("shared_prefix",))[0]


def trial(latency: int) -> Outcome:
    spread = Spread(mean=latency, p50=latency, p95=latency * 2)
    return Outcome(
        requests=6, failures=0, wall_us=3 * latency, throughput=8_000, latency=spread, prefix_hit_share=800_000
    )


def cell(*latencies: int, failure: Failure | None = None) -> Cell:
    plan = Plan(run="r", strategies=(STRATEGY,), loads=(LOAD.name,))
    done = [
        Entry(strategy=STRATEGY, load=LOAD.name, attempt=attempt, outcome=trial(latency))
        for attempt, latency in enumerate(latencies)
    ]
    if failure is not None:
        done.append(Entry(strategy=STRATEGY, load=None, attempt=0, failure=failure))
    return cells(plan, done)[0]


def test_a_cell_is_a_record_that_the_wire_takes_with_medians_and_their_spread() -> None:
    outcome = trial_records.outcome_on_wire(cell(1000, 1300, 1010))
    assert outcome is not None
    assert (outcome.requests, outcome.repetitions, outcome.latency_mean_us, outcome.latency_mad_us) == (18, 3, 1010, 10)
    assert (outcome.latency_p95_us, outcome.duration_us, outcome.output_tokens_per_s_milli) == (2020, 3030, 8_000)
    assert outcome.energy_mj is outcome.acceptance_ppm is outcome.ttft_mean_us is None
    made = performance(
        strategy=to_wire_strategy(STRATEGY),
        workload=trial_records.workload_on_wire(LOAD.workload),
        outcome=outcome,
    )
    assert made.body.workload.shared_prefix_ppm == 960_000
    assert made.body.workload.prompt_tokens_mean_milli == 400_000
    assert made.body.strategy.engine_extra == {"block-size": "32"}


def test_each_cell_of_a_run_that_came_to_something_makes_a_record_and_those_of_one_workload_are_a_pair() -> None:
    plan = Plan(run="r", strategies=(STRATEGY, DEFAULT), loads=(LOAD.name, "bursty"))
    done = [
        Entry(strategy=strategy, load=load, attempt=0, outcome=trial(1000))
        for strategy, load in ((STRATEGY, LOAD.name), (DEFAULT, LOAD.name), (DEFAULT, "bursty"))
    ]
    both = workloads.loads(Scale(prefill=256, decode=16), kinds=(LOAD.name, "bursty"))
    setting = Setting(model=MODEL, hardware=HARDWARE, benchmark=BENCHMARK, engine=ENGINE)
    made = [
        records.sign(PERFORMANCE, compose(body(seq=number).stamp), samples.KEY).body
        for number, (_, compose) in enumerate(trial_records.records_of(plan, cells(plan, done), both, setting))
    ]
    assert [(each.workload.kind, each.outcome.repetitions) for each in made] == [
        (LOAD.name, 1), (LOAD.name, 1), ("bursty", 1)
    ]  # fmt: skip
    assert made[0].pair == made[1].pair != made[2].pair
    assert made[0].context == made[1].context


def test_a_failure_is_a_record_of_that_failure_and_nothing_tried_is_none() -> None:
    failed = trial_records.outcome_on_wire(cell(failure=Failure(kind="out_of_memory", reason="no room in /home/me")))
    assert failed == WireOutcome(requests=0, failures=0, failure="out_of_memory")  # the reason may name a path
    assert trial_records.outcome_on_wire(cell()) is None


def test_what_is_left_to_the_engine_is_absent_on_the_wire() -> None:
    plain = to_wire_strategy(DEFAULT)
    assert plain.engine_extra is plain.speculation is plain.prefix_caching is None
