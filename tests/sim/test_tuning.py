"""Whole nodes that tune themselves, in virtual time: their owners' wishes, strategies that are no good, and lies."""

from itertools import count

import pytest
import trio
from trio.testing import MockClock

from node.core.strategy import DEFAULT
from node.errors import EngineUnavailable
from node.services.trial_runs import TrialPolicy
from protocol.performance import TRIAL
from tests.fakes.engine import FakeFault
from tests.sim.node import SimNode
from tests.sim.swarm import SimSwarm, sim_swarm
from tests.sim.test_swarm import until_served
from tests.sim.tuned import LOAD, STREAM, Tuned, engine, settled, status, steps, wish

WANTED = "seqs:16+budget:1024"  # no lever leads there: an engine is started for it
NO_TRIALS = TrialPolicy(idle=False)


async def ready(node: SimNode) -> None:
    await node.until("engine_state", within=60.0, state="ready")


async def ask(node: SimNode) -> int:
    return (await node.ask("POST", "/v1/completions", STREAM)).status


# --- the owner's word


@pytest.mark.parametrize("room", [False, True])
async def test_a_strategy_that_its_owner_wishes_is_switched_to_and_nobody_loses_an_answer(
    autojump_clock: MockClock, room: bool
) -> None:
    tuned = Tuned(room=room, trials=NO_TRIALS)
    async with tuned.node() as node, trio.open_nursery() as nursery:
        await ready(node)
        nursery.start_soon(lambda: tuned.people(node, every=0.7))
        await trio.sleep(5.0)
        code, told = await wish(node, WANTED)
        assert (code, told["wanted"]) == (202, WANTED)
        tuner = await settled(node, "fixed", within=60.0, strategy=WANTED, mode="fixed", switches=1)
        await trio.sleep(5.0)
        nursery.cancel_scope.cancel()
        assert set(tuned.answers) == {200}
        told = await status(node)
        assert (told["requests"]["failed"], told["requests"]["refused"]) == (0, 0)
        assert (tuner["lost_s"] == 0) == room
        assert tuned.engine.at_once == 1 + room


async def test_what_its_owner_fixed_runs_after_a_restart_and_until_it_is_released(autojump_clock: MockClock) -> None:
    tuned = Tuned(trials=NO_TRIALS, gains={"ngram:4": 0.5}, room=True)
    async with tuned.node() as node:
        await ready(node)
        await wish(node, WANTED)
        await settled(node, "fixed", within=60.0, strategy=WANTED)
        assert (await wish(node, WANTED))[0] == 202  # again: nothing happens
        await trio.sleep(3600.0)
        assert (await status(node))["tuner"]["switches"] == 1
    async with tuned.node() as node:
        await settled(node, "fixed", within=60.0, strategy=WANTED, mode="fixed")
        assert tuned.engine.launches[-1].strategy.name == WANTED
        code, _ = await node.call("DELETE", "/strategy", on="control")
        assert code == 200
        await settled(node, "verifying", within=3600.0, strategy="ngram:4", mode="auto")


async def test_a_wish_ends_idle_trials_at_once(autojump_clock: MockClock) -> None:
    tuned = Tuned(gains={"ngram:4": 0.5}, trials=TrialPolicy(idle_after=300.0))
    async with tuned.node() as node:
        await ready(node)
        assert await ask(node) == 200
        await node.until("trials_began", within=1200.0)
        await trio.sleep(30.0)
        asked = trio.current_time()
        await wish(node, WANTED)
        await settled(node, "fixed", within=120.0, strategy=WANTED)
        assert trio.current_time() - asked < 3 * LOAD
        assert ("trials_ended", "a prompt came") in [(name, facts.get("reason")) for name, facts in node.events]


# --- strategies that are no good

GARBAGE = b'{"choices": [{"text": ""}], "usage": {"completion_tokens": 0}}'
FAULTS: dict[str, tuple[FakeFault, str, str]] = {
    "is not started at all": (
        FakeFault(refusal=EngineUnavailable("no such kernel")), "start_failed", "no such kernel",
    ),
    "crashes on start": (
        FakeFault(dies_after=3.0, code=1, tail=("RuntimeError: no such kernel",)), "start_failed", "no such kernel",
    ),
    "hangs in start": (FakeFault(load_time=1e6), "timed_out", "connection refused"),
    "has no memory": (
        FakeFault(dies_after=3.0, code=1, tail=("torch.OutOfMemoryError: CUDA out of memory.",)), "out_of_memory",
        "CUDA out of memory",
    ),
    "dies of a signal": (FakeFault(dies_after=3.0, signal=11), "crashed", "signal 11"),
    "answers nothing": (FakeFault(answer=GARBAGE), "wrong_answers", "answers without a token"),
    "answers something else": (FakeFault(says="%$!"), "wrong_answers", "%$!"),
}  # fmt: skip


@pytest.mark.parametrize("room", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
async def test_after_a_wish_that_is_no_good_the_node_serves_on_the_last_good_strategy_and_says_why(
    autojump_clock: MockClock, fault: str, room: bool
) -> None:
    wrong, result, words = FAULTS[fault]
    tuned = Tuned(engine=engine(faults={WANTED: wrong}), room=room, trials=NO_TRIALS)
    async with tuned.node() as node:
        await ready(node)
        await wish(node, WANTED)
        tuner = await settled(node, "steady", within=1800.0, failed_starts=1)
        assert (tuner["strategy"], tuner["last_good"], tuner["mode"]) == ("default", "default", "auto")
        failed = next(step for step in await steps(node) if step["event"] == "failed")
        assert failed["reason"].startswith(f"{WANTED}: {result.replace('_', ' ')}: ")
        assert words in failed["reason"]
        told = await status(node)
        assert (told["engine"]["state"], told["engine"]["strategy"]) == ("ready", "default")
        if not room:
            assert told["engine"]["reason"].startswith(f"back on default: '{WANTED}' ")
            assert words in told["engine"]["reason"]
        assert [await ask(node) for _ in range(3)] == [200] * 3
        assert all(not process.alive for process in tuned.engine.processes if process.fault is wrong)


async def test_a_wish_that_never_comes_up_while_people_ask_costs_nobody_an_answer(autojump_clock: MockClock) -> None:
    wrong = FakeFault(dies_after=3.0, code=1, tail=("RuntimeError: no such kernel",))
    tuned = Tuned(engine=engine(faults={WANTED: wrong}), trials=NO_TRIALS)
    async with tuned.node() as node, trio.open_nursery() as nursery:
        await ready(node)
        nursery.start_soon(lambda: tuned.people(node, every=1.5))
        await trio.sleep(5.0)
        await wish(node, WANTED)
        await settled(node, "steady", within=120.0, failed_starts=1)
        await trio.sleep(30.0)
        nursery.cancel_scope.cancel()
        assert set(tuned.answers) == {200}


async def test_a_wish_is_heard_though_the_engine_does_not_come_up_as_it_is(autojump_clock: MockClock) -> None:
    dead = FakeFault(dies_after=3.0, code=1, tail=("RuntimeError: no such kernel",))
    tuned = Tuned(engine=engine(faults={"default": dead}), trials=NO_TRIALS)
    async with tuned.node() as node:
        await node.until("engine_state", within=60.0, state="backoff")
        await wish(node, WANTED)
        await settled(node, "fixed", within=300.0, strategy=WANTED)
        assert await ask(node) == 200


@pytest.mark.parametrize("fault", ["crashes on start", "has no memory", "dies of a signal"])
async def test_what_was_fixed_and_does_not_come_up_after_a_restart_gives_way_to_the_default(
    autojump_clock: MockClock, fault: str
) -> None:
    wrong = FAULTS[fault][0]
    tuned = Tuned(trials=NO_TRIALS)
    async with tuned.node() as node:
        await ready(node)
        await wish(node, WANTED)
        await settled(node, "fixed", within=60.0, strategy=WANTED)
    tuned.engine.faults[WANTED] = wrong
    async with tuned.node() as node:
        tuner = await settled(node, "fixed", within=1200.0, strategy="default")
        assert await ask(node) == 200
        assert (tuner["rollbacks"], [ban["strategy"] for ban in tuner["banned"]]) == (1, [WANTED])
        assert WANTED in (await status(node))["engine"]["reason"]
        crashed = next(step for step in await steps(node) if step["event"] == "crashes")
        assert crashed["reason"].startswith(f"{WANTED}: the engine ends again and again")


# --- what the node decides by itself


async def test_what_the_learner_swears_by_is_tried_in_idle_time_switched_to_and_found_good(
    autojump_clock: MockClock,
) -> None:
    faster = {WANTED: FakeFault(slower=0.5)}
    tuned = Tuned(engine=engine(faults=faster), gains={WANTED: 0.5})
    async with tuned.node() as node:
        await ready(node)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: tuned.people(node, every=10.0))
            await trio.sleep(1800.0)
            tuner = (await status(node))["tuner"]
            assert (tuner["strategy"], tuner["phase"]) == ("default", "steady")
            assert tuner["decision"]["untried"]
            nursery.cancel_scope.cancel()
        await node.until("trials_ended", within=3600.0)
        assert {order.strategy.name for order in tuned.bench.orders} >= {WANTED}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: tuned.people(node, every=10.0))
            await settled(node, "verifying", within=3600.0, strategy=WANTED)
            tuner = await settled(node, "steady", within=3 * 3600.0, strategy=WANTED, last_good=WANTED)
            nursery.cancel_scope.cancel()
        assert tuner["observed"]["gain"] > 0.1  # what is left after outliers were cut
        assert tuner["rollbacks"] == 0
        assert set(tuned.answers) == {200}
        page = (await node.ask("GET", "/metrics")).body.decode()
        assert f'metainf_strategy_info{{strategy="{WANTED}"}} 1.0' in page
        assert 'metainf_tuner_switches_total{result="done"} 1.0' in page
        assert "metainf_tuner_rollbacks_total 0.0" in page
        observed = next(line for line in page.splitlines() if line.startswith("metainf_tuner_observed_gain "))
        assert float(observed.split()[1]) == tuner["observed"]["gain"]
        assert "metainf_tuner_predicted_gain 0.5" in page
        assert "metainf_tuner_regret " in page


async def test_what_was_measured_falsely_is_applied_once_taken_back_and_not_chosen_again(
    autojump_clock: MockClock,
) -> None:
    slow = {WANTED: FakeFault(slower=5.0)}  # though the bench, where all are alike, says nothing of it
    tuned = Tuned(engine=engine(faults=slow), gains={WANTED: 0.5})
    async with tuned.node() as node:
        await ready(node)
        assert await ask(node) == 200
        await node.until("trials_ended", within=3 * 3600.0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: tuned.people(node, every=10.0))
            tuner = await settled(node, "steady", within=3600.0, strategy="default", rollbacks=1)
            assert [ban["strategy"] for ban in tuner["banned"]] == [WANTED]
            assert "%" in tuner["banned"][0]["reason"]
            assert tuner["observed"]["gain"] < 0
            assert (await status(node))["engine"]["reason"].startswith(f"{WANTED}: ")
            await trio.sleep(6 * 3600.0)
            tuner = (await status(node))["tuner"]
            assert (tuner["strategy"], tuner["switches"]) == ("default", 1)
            nursery.cancel_scope.cancel()
        assert set(tuned.answers) == {200}
        assert [step["event"] for step in await steps(node)].count("contradicted") == 1
        page = (await node.ask("GET", "/metrics")).body.decode()
        assert "metainf_tuner_rollbacks_total 1.0" in page
        assert "metainf_tuner_banned 1.0" in page
    launches = len(tuned.engine.launches)
    async with tuned.node() as node, trio.open_nursery() as nursery:
        await ready(node)
        nursery.start_soon(lambda: tuned.people(node, every=10.0))
        await trio.sleep(6 * 3600.0)
        tuner = (await status(node))["tuner"]
        assert (tuner["strategy"], tuner["switches"], tuner["rollbacks"]) == ("default", 1, 1)
        assert {plan.strategy for plan in tuned.engine.launches[launches:]} == {DEFAULT}
        nursery.cancel_scope.cancel()


async def test_what_others_lie_about_is_heard_beside_what_serves_tried_published_and_never_serves(
    autojump_clock: MockClock,
) -> None:
    slow = {WANTED: FakeFault(slower=5.0)}
    tuned = Tuned(engine=engine(faults=slow), gains={WANTED: 0.5}, room=True)
    async with tuned.node() as node:
        with trio.fail_after(3600.0):
            while not (tuner := (await status(node))["tuner"])["banned"]:  # noqa: ASYNC110 -- a page owes us no event
                await trio.sleep(10.0)
        assert [ban["strategy"] for ban in tuner["banned"]] == [WANTED]
        assert "equal requests" in tuner["banned"][0]["reason"]
        assert (tuner["strategy"], tuner["lost_s"], tuner["failed_starts"]) == ("default", 0, 0)
        await node.until("trials_ended", within=3 * 3600.0)
        await trio.sleep(12 * 3600.0)
        tuner = (await status(node))["tuner"]
        assert (tuner["strategy"], tuner["switches"], tuner["rollbacks"]) == ("default", 0, 0)
    assert [plan.strategy.name for plan in tuned.engine.launches].count(WANTED) == 1
    assert [(each.origin, each.strategy.max_num_seqs) for each in tuned.records()].count((TRIAL, 16)) >= 1
    async with tuned.node() as node:
        await trio.sleep(12 * 3600.0)
        tuner = (await status(node))["tuner"]
        assert (tuner["strategy"], tuner["switches"], tuner["rollbacks"]) == ("default", 0, 0)


async def test_a_start_that_fails_by_the_nodes_own_choice_is_published_and_not_chosen_again(
    autojump_clock: MockClock,
) -> None:
    dead = {WANTED: FakeFault(dies_after=3.0, code=1, tail=("torch.OutOfMemoryError: CUDA out of memory.",))}
    tuned = Tuned(engine=engine(faults=dead), gains={WANTED: 0.5}, room=True, trials=NO_TRIALS)
    async with tuned.node() as node:
        tuner = await settled(node, "steady", within=3600.0, failed_starts=1)
        assert [(ban["strategy"], ban["reason"]) for ban in tuner["banned"]] == [(WANTED, "out_of_memory")]
        await trio.sleep(12 * 3600.0)
        assert (await status(node))["tuner"]["failed_starts"] == 1
    (record,) = tuned.records()
    assert (record.outcome.failure, record.strategy.max_num_seqs) == ("out_of_memory", 16)
    async with tuned.node() as node:
        await trio.sleep(6 * 3600.0)
        told = await status(node)
        assert (told["tuner"]["failed_starts"], told["engine"]["strategy"]) == (1, "default")


async def test_no_trials_begin_while_a_switch_is_verified_and_where_nobody_asks_that_has_an_end(
    autojump_clock: MockClock,
) -> None:
    tuned = Tuned(gains={"ngram:4": 0.5}, room=True, trials=TrialPolicy(idle_after=200.0))
    async with tuned.node() as node:
        await settled(node, "verifying", within=3600.0, strategy="ngram:4")
        before = ""
        while "trials_began" not in node.names():
            assert trio.current_time() < 12 * 3600.0
            before = (await status(node))["tuner"]["phase"]
            await trio.sleep(1.0)
        assert before == "steady"
        await node.until("trials_ended", within=3600.0)
        await settled(node, "steady", within=60.0, strategy="ngram:4")


# --- in a swarm


async def three(swarm: SimSwarm) -> list[SimNode]:
    """Start three nodes that serve one model and know each other."""
    nodes: list[SimNode] = []
    for name in "abc":
        tuned = Tuned()
        nodes.append(await swarm.start(name, engine=tuned.engine, join=["a"] * bool(nodes), tuner=tuned.tools()))
    for node in nodes:
        await ready(node)
    for node in nodes:
        await until_served(node, {other.peer_id for other in nodes if other is not node}, within=120.0)
    return nodes


async def test_wishes_at_all_nodes_at_once_take_one_engine_away_at_a_time_and_lose_no_answer(
    autojump_clock: MockClock,
) -> None:
    async with sim_swarm(seed=3) as swarm, trio.open_nursery() as nursery:
        nodes = await three(swarm)
        answers: list[int] = []

        async def people() -> None:
            async with trio.open_nursery() as all_of_them:
                for number in count():
                    all_of_them.start_soon(one, nodes[number % len(nodes)])
                    await trio.sleep(0.3)

        async def one(node: SimNode) -> None:
            answers.append(await ask(node))

        away: list[int] = []

        async def watch() -> None:
            while True:
                told = [await status(node) for node in nodes]
                away.append(sum(each["engine"]["state"] != "ready" for each in told))
                await trio.sleep(0.5)

        nursery.start_soon(people)
        nursery.start_soon(watch)
        for node in nodes:
            assert (await wish(node, WANTED))[0] == 202
        for node in nodes:
            await settled(node, "fixed", within=1200.0, strategy=WANTED)
        await trio.sleep(10.0)
        nursery.cancel_scope.cancel()
        assert set(answers) == {200}
        assert max(away) == 1
