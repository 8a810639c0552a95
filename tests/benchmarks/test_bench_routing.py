"""The policy bake-off in seconds: laws of its simulated swarms, on machines by hand, so that it cannot rot."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.benchmarks import routing_cheap, routing_ours, routing_policies
from tests.benchmarks.routing_cells import MOST_TOGETHER, Cell, _measured_apart, _measured_whole
from tests.benchmarks.routing_figures import figures
from tests.benchmarks.routing_policies import GRIDS, maker
from tests.benchmarks.routing_run import HANG_S, Advert, Ask, Policy, Run
from tests.benchmarks.routing_world import CODE, NEVER, WEATHERS, Requests, Trace, Weather, World, world

SECONDS = 25.0  # of virtual time
CALM = Weather(unequal=False, liars=0.0, dying=0.0, joining=0.0, stale=0.0, bursts=0, rtt_s=0.02, entries=2)


def cell(name: str = "card", *, slower: float = 1.0, cap: int = 16, cache: int = 100_000) -> Cell:
    n = np.maximum(np.arange(MOST_TOGETHER + 1.0), 1.0)
    return Cell(
        name=name,
        family=name,
        devices=1,
        columns={},
        tpot=slower * 0.01 * (1 + n / 16),
        first=np.full_like(n, slower * 0.02),
        token=np.full_like(n, slower * 1e-4),
        turn=slower * 5e-5,
        cap=cap,
        cache=cache,
    )


def trace(count: int = 2000, seed: int = 0) -> Trace:
    rng = np.random.default_rng(seed)
    sort = (rng.random(count) < 0.3).astype(np.int64)
    return Trace(
        at=np.cumsum(rng.exponential(1.0, count)),
        prompt=rng.integers(50, 2000, count),
        output=np.where(sort == CODE, rng.integers(1, 40, count), rng.integers(50, 300, count)),
        sort=sort,
    )


def swarm(*slower: float, load: float = 0.6, seed: int = 0, weather: Weather | None = None, nodes: int = 8) -> World:
    sorts = [cell(f"card {each}", slower=each) for each in slower]
    return world(sorts, trace(), nodes=nodes, load=load, seconds=SECONDS, most=4000, seed=seed, weather=weather)


def ran(made: World, name: str, seed: int = 0, **chosen: float) -> Run:
    if name in routing_ours.GRIDS:
        learnt = [said_of(each) for each in made.cells] if routing_ours.foretold(name) else ()
        make = routing_ours.maker(name, chosen, seed, learnt)
    elif name in routing_cheap.GRIDS:
        make = routing_cheap.maker(name, chosen, seed)
    else:
        make = maker(name, chosen or GRIDS[name][0], seed)
    run = Run(made, make)
    run.run()
    return run


def alone(*asks: tuple[float, int, int, int, int]) -> Callable[..., Run]:
    """Return what runs (at, prompt, output, prefix, session) on one machine that nothing happens to."""
    at, prompt, output, prefix, session = (np.array(column) for column in zip(*asks, strict=True))
    none = np.zeros(len(asks), dtype=np.int64)

    def run(only: Cell, **changed: object) -> Run:
        made = swarm(1.0, weather=CALM, nodes=1)
        requests = Requests(
            at=at.astype(np.float64), prompt=prompt, output=output, prefix=prefix, session=session, client=none,
            entry=none,
        )  # fmt: skip
        made = replace(made, cells=(only,), requests=requests, rtt=np.zeros((2, 1)), upload=np.zeros(2), **changed)
        found = Run(made, lambda _run, _entry: Always(0))
        found.run()
        return found

    return run


class Always:
    """Asks one node, whatever it hears."""

    def __init__(self, node: int) -> None:
        self._node = node
        self.losses: list[tuple[float, bool]] = []

    def hear(self, adverts: object, now: float) -> None: ...

    def choose(self, ask: Ask, now: float) -> int | None:
        return self._node

    def sent(self, ask: Ask, node: int, now: float) -> None: ...

    def first(self, ask: Ask, node: int, ttft: float, now: float) -> None: ...

    def done(self, ask: Ask, node: int, ttft: float, tpot: float, now: float) -> None: ...

    def lost(self, ask: Ask, node: int, now: float, *, hung: bool) -> None:
        self.losses.append((now, hung))


@pytest.mark.parametrize("name", [*GRIDS, *routing_cheap.GRIDS, "ours_true_curves", "ours_no_curves", "ours_cost"])
def test_each_request_ends_once_whatever_dies(name: str) -> None:
    made = swarm(1.0, 3.0, 9.0, weather=Weather(dying=0.5, joining=0.3, liars=0.3, stale=0.3, entries=3))
    run = ran(made, name)
    assert np.all(run.ended == 1)
    assert np.all(run.latency > 0)
    assert np.all(run.cost > 0)
    assert not run.outstanding.any()


def test_nothing_is_lost_where_nothing_dies() -> None:
    run = ran(swarm(1.0, 3.0, weather=CALM), "random")
    assert np.all(run.tries == 1)


def test_equal_seeds_are_equal_runs() -> None:
    one, two = (figures(ran(swarm(1.0, 4.0, seed=3), "power_of_two")) for _ in range(2))
    assert one == two


def test_one_request_alone_takes_what_was_measured_of_one() -> None:
    only = cell()
    run = alone((1.0, 1000, 101, 0, 0))(only)
    assert run.ttft[0] == pytest.approx(only.first[1] + 1000 * only.token[1])
    assert run.latency[0] == pytest.approx(run.ttft[0] + 100 * only.tpot[1])
    assert run.cost[0] == pytest.approx(1000 * only.turn + 100 * only.tpot[1])


def test_two_together_decode_at_the_pace_of_two_and_share_the_cost() -> None:
    only = cell()
    run = alone((1.0, 10, 1001, 0, 0), (1.0, 10, 1001, 0, 1))(only)
    assert run.latency[0] == pytest.approx(1000 * only.tpot[2], rel=0.01)
    assert run.cost[0] == pytest.approx(run.latency[0] / 2, rel=0.01)


def test_what_is_spent_is_the_device_seconds_at_the_price_of_whoever_gave_them() -> None:
    made = replace(swarm(1.0, weather=CALM, nodes=2), price=np.array([3600.0, 7200.0]))
    run = ran(made, "random")
    assert run.spent == pytest.approx(run.cost * np.where(run.served_by == 0, 1.0, 2.0))
    assert figures(run)["spent"] == pytest.approx(1000 * run.spent[made.requests.at >= made.warm].mean())


def test_who_looks_at_prices_spends_less_and_the_oracle_of_prices_least() -> None:
    made = swarm(1.0, 3.0, load=0.3, weather=replace(CALM, entries=1))
    fast, cheapest, oracle = (figures(ran(made, name)) for name in ("oracle", "cheapest", "oracle_of_prices"))
    assert oracle["spent"] < cheapest["spent"] < fast["spent"]
    assert fast["mean"] < oracle["mean"]


def test_prices_change_nothing_else_of_a_world() -> None:
    one, two = (swarm(1.0, 3.0, seed=seed) for seed in (0, 1))
    assert np.all(one.price > 0)
    assert not np.array_equal(one.price, two.price)
    assert figures(ran(replace(one, price=two.price), "ours"))["mean"] == figures(ran(one, "ours"))["mean"]


def test_a_fleet_of_one_owner_is_near_and_equal() -> None:
    fleet = swarm(1.0, weather=WEATHERS["datacentre"], nodes=50)
    strangers = swarm(1.0, nodes=50)
    assert fleet.rtt.max() < 0.01 < strangers.rtt.min()
    assert fleet.speed.std() < 0.3 * strangers.speed.std()
    assert np.array_equal(fleet.is_a, fleet.says)


def test_prefills_take_turns() -> None:
    only = cell()
    run = alone((1.0, 8000, 2, 0, 0), (1.0, 100, 2, 0, 1))(only)
    assert run.ttft[1] > 8000 * only.turn


def test_without_a_seat_one_waits_until_another_ends() -> None:
    run = alone((1.0, 10, 501, 0, 0), (1.1, 10, 2, 0, 1))(cell(cap=1))
    assert run.latency[0] == pytest.approx(500 * cell().tpot[1], rel=0.02)
    assert 1.1 + run.latency[1] > 1.0 + run.latency[0]


def test_what_a_conversation_said_before_is_not_read_again_unless_it_was_forgotten() -> None:
    first, other, again = (1.0, 4000, 2, 0, 7), (3.0, 4000, 2, 0, 8), (5.0, 5000, 2, 4002, 7)
    knows = alone(first, other, again)(cell())
    forgets = alone(first, other, again)(cell(cache=4500))
    assert knows.ttft[2] < 0.5 * knows.ttft[0]
    assert forgets.ttft[2] > forgets.ttft[0]


def test_a_node_that_hangs_is_given_up_after_a_while_and_asked_again_when_it_is_back() -> None:
    hangs = np.array([True])
    run = alone((1.0, 10, 1001, 0, 0))(
        cell(), dies=np.array([2.0]), returns=np.array([4.0]), joins=np.zeros(1), hangs=hangs
    )
    assert run.tries[0] == 2
    assert run.latency[0] == pytest.approx(2.0 - 1.0 + HANG_S + 1000 * cell().tpot[1], rel=0.01)
    policy = run.policies[0]
    assert isinstance(policy, Always)
    assert policy.losses == [(2.0 + HANG_S, True)]


def test_the_oracle_is_best_on_unequal_machines() -> None:
    for load in (0.3, 0.9):
        made = [swarm(1.0, 3.0, 9.0, load=load, seed=seed) for seed in range(2)]
        mean = {
            name: sum(figures(ran(each, name, **GRIDS[name][0]))["mean"] for each in made)
            for name in GRIDS
            if name != "oracle"
        }
        oracle = min(sum(figures(ran(each, "oracle", **chosen))["mean"] for each in made) for chosen in GRIDS["oracle"])
        assert oracle < min(mean.values())


def test_where_all_are_equal_the_least_outstanding_is_near_the_oracle_and_random_is_not() -> None:
    made = swarm(1.0, load=0.9, weather=CALM)
    oracle, least, random = (figures(ran(made, name))["mean"] for name in ("oracle", "least_outstanding", "random"))
    assert least < 1.2 * oracle
    assert random > least


def test_ours_is_near_the_least_outstanding_where_all_are_equal() -> None:
    made = swarm(1.0, load=0.9, weather=CALM)
    least, ours = (figures(ran(made, name))["mean"] for name in ("least_outstanding", "ours_true_curves"))
    assert ours < 1.1 * least


def test_ours_beats_what_knows_no_speeds_where_machines_differ_and_the_oracle_beats_ours() -> None:
    made = swarm(1.0, 3.0, 9.0, load=0.6)
    oracle, ours, least = (
        figures(ran(made, name))["mean"] for name in ("oracle", "ours_true_curves", "least_outstanding")
    )
    assert oracle < ours < 0.8 * least


def test_ours_finds_out_a_liar_that_its_curve_makes_the_fastest() -> None:
    made = swarm(1.0, 9.0, load=0.4, weather=replace(CALM, entries=1))
    liar = int(np.flatnonzero(made.is_a == 1)[0])
    made = replace(made, says=np.where(np.arange(made.nodes) == liar, 0, made.is_a), is_a=made.is_a)
    said = [said_of(each) for each in made.cells]
    run = Run(made, routing_ours.maker("ours", {}, 0, said))
    run.run()
    early, late = run.served_by[:100] == liar, run.served_by[100:] == liar
    assert late.mean() < max(early.mean(), 1 / made.nodes)
    assert late.mean() < 0.5 / made.nodes


def said_of(only: Cell) -> dict[str, object]:
    """Return what a learner that knows a cell would say of it."""
    curve = routing_ours.true_curve(only)
    return {
        "prompts": curve.prompts.tolist(),
        "loads": curve.loads.tolist(),
        "ttft_s": np.exp(curve.log_ttft).reshape(-1).tolist(),
        "ttft_half_width": np.full(curve.log_ttft.size, 0.5).tolist(),
        "tpot_s": np.exp(curve.log_tpot).tolist(),
        "tpot_half_width": np.full(curve.log_tpot.size, 0.5).tolist(),
        "queued_token_s": curve.queued_token_s,
        "source": "learner",
    }


def test_nobody_comes_back_who_did_not_die() -> None:
    for seed in range(20):
        made = swarm(1.0, 3.0, seed=seed, weather=Weather(dying=1.0, joining=0.5))
        assert np.all(made.dies[made.returns < NEVER] < made.returns[made.returns < NEVER])


def test_a_liar_is_what_it_is_and_says_what_is_fastest() -> None:
    made = swarm(1.0, 9.0, weather=Weather(liars=1.0))
    assert set(made.is_a) == {0, 1}
    assert set(made.says) == {0}


def test_the_load_asked_for_is_what_comes() -> None:
    made = swarm(1.0, 3.0, load=0.3, weather=CALM)
    can = sum(made.cells[each].capacity(*trace().means()) for each in made.is_a)
    assert len(made.requests) / SECONDS == pytest.approx(0.3 * can, rel=0.02)


def test_turns_of_a_conversation_follow_each_other_at_one_entry_and_repeat_what_was_said() -> None:
    requests = swarm(1.0, load=0.9).requests
    last: dict[int, int] = {}
    turns = 0
    for number in range(len(requests)):
        session = int(requests.session[number])
        if session in last:
            before = last[session]
            turns += 1
            assert requests.entry[number] == requests.entry[before]
            assert requests.prefix[number] == requests.prompt[before] + requests.output[before]
            assert requests.prefix[number] <= requests.prompt[number]
            assert requests.at[number] >= requests.at[before] + 10.0
        else:
            assert requests.prefix[number] == 0
        last[session] = number
    assert turns > 20


def test_bursts_come_at_once() -> None:
    def busiest(bursts: int) -> int:
        at = swarm(1.0, load=0.9, weather=Weather(bursts=bursts)).requests.at
        return int(np.histogram(at, bins=25)[0].max())

    assert busiest(3) > 1.5 * busiest(0)


def test_a_cell_is_drawn_from_rows_and_leaves_out_where_clients_queued() -> None:
    def row(prompt: int, concurrency: float, ttft: float, tpot: float) -> dict[str, object]:
        return {
            "workload.prompt_tokens": prompt, "workload.concurrency": concurrency, "outcome.ttft_mean_s": ttft,
            "outcome.tpot_mean_s": tpot, "strategy.devices": 2, "strategy.precision": "fp8", "hardware.family": "f",
            "hardware.memory_bytes": 8e10, "model.parameters": 7e10, "model.kv_bytes_per_token": 3e5,
            "hardware.spec_bytes_per_s": 4e12,
        }  # fmt: skip

    rows = [row(1024, 4, 0.1, 0.010), row(1024, 16, 0.2, 0.020), row(1024, 64, 0.4, 0.040), row(1024, 128, 9.0, 0.05)]
    rows += [row(8192, 4, 0.5, 0.011), row(8192, 16, 0.9, 0.022), row(8192, 64, 1.8, 0.044)]
    made = _measured_apart("a", rows)
    assert made is not None
    assert (made.cap, made.hour) == (64, 2.0)
    assert made.tpot[16] == pytest.approx(0.020)
    assert 0.010 < made.tpot[8] < 0.020
    assert made.first[4] + 1024 * made.token[4] == pytest.approx(0.1)
    assert made.first[4] + 8192 * made.token[4] == pytest.approx(0.5)


def test_a_whole_batch_is_taken_apart_without_losing_time() -> None:
    rows = [
        {
            "strategy.engine": "vLLM", "strategy.devices": 1, "strategy.precision": "bf16", "hardware.family": "f",
            "model.active_parameters": 8e9, "model.parameters": 8e9, "model.kv_bytes_per_token": 1.3e5,
            "hardware.memory_bytes": 8e10, "hardware.spec_bytes_per_s": 2e12, "hardware.spec_flops_bf16": 3e14,
            "workload.output_tokens": length, "workload.concurrency": batch,
            "outcome.latency_mean_s": length * (0.010 + 0.0002 * batch),
        }
        for batch in (1, 16, 64)
        for length in (128, 512, 1024)
    ]  # fmt: skip
    made = _measured_whole("a", rows)
    assert made is not None
    assert made.cap == 64
    for batch in (1, 16, 64):
        assert made.tpot[batch] + batch * made.turn == pytest.approx(0.010 + 0.0002 * batch)
    assert _measured_whole("a", [{**row, "strategy.engine": "llama.cpp"} for row in rows]) is None


def test_the_common_predictor_learns_what_load_does() -> None:
    predictor = routing_policies.Predictor()
    rng = np.random.default_rng(0)
    for _ in range(500):
        work, uncached = float(rng.uniform(1, 50)), float(rng.uniform(10, 4000))
        predictor.learn((work, 0.0, uncached, 0.05 + 2e-4 * uncached, 0.01 + 0.001 * work))
    ttft, tpot = predictor.foretell(np.array([10.0]), np.array([0.0]), np.array([1000.0]))
    assert ttft[0] == pytest.approx(0.25, rel=0.05)
    assert tpot[0] == pytest.approx(0.02, rel=0.05)


def test_who_fails_is_barred_and_for_longer_each_time() -> None:
    run = Run(swarm(1.0, weather=CALM), maker("random", {}, 0))
    policy: Policy = run.policies[0]
    assert isinstance(policy, routing_policies.Random)
    ask = run.asks[0]
    policy.hear([Advert(0.0, node, 0, 0, 0, 16) for node in range(2)], 0.0)
    for now, until in ((0.0, 5.0), (5.0, 15.0)):
        policy.sent(ask, 0, now)
        policy.lost(ask, 0, now, hung=False)
        assert list(policy.open(until - 0.1)) == [1]
        assert list(policy.open(until)) == [0, 1]


def test_ours_spends_less_where_its_clients_ask_for_that_and_still_answers_in_time() -> None:
    made = swarm(1.0, 3.0, load=0.3, weather=replace(CALM, entries=1))
    fast, both, cheap = (figures(ran(made, name)) for name in ("ours", "ours_both", "ours_cost"))
    assert max(both["spent"], cheap["spent"]) < 0.8 * fast["spent"]
    assert fast["mean"] < both["mean"] < 3 * fast["mean"]
    assert both["mean"] < cheap["mean"] < 10 * fast["mean"]
