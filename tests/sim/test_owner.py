"""Whole nodes that give way to their owner, in virtual time: pauses, hours, and what tuning makes of them."""

from datetime import datetime
from typing import Any

import trio
from trio.testing import MockClock

from node.core.day_hours import parse_span
from node.core.operator_limits import Limits
from node.core.strategy import DEFAULT
from node.services.trial_runs import TrialPolicy
from tests.sim.node import SimNode, wall
from tests.sim.swarm import sim_swarm
from tests.sim.test_tuning import NO_TRIALS, WANTED, ask, ready, three
from tests.sim.tuned import LOAD, STREAM, Tuned, engine, settled, status, wish


async def paused(node: SimNode, **how: Any) -> Any:
    body = b"{" + b", ".join(b'"%s": %s' % (k.encode(), str(v).lower().encode()) for k, v in how.items()) + b"}"
    code, facts = await node.call("POST", "/pause", body, on="control")
    assert code == 200
    return facts


async def test_a_pause_lets_answers_finish_says_so_to_who_comes_and_holds_over_a_restart(
    autojump_clock: MockClock,
) -> None:
    tuned = Tuned(trials=NO_TRIALS)
    async with tuned.node() as node:
        await ready(node)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tuned.one, node)
            await trio.sleep(0.3)
            assert (await paused(node))["state"] == "paused"
            code, body = await node.call("POST", "/v1/completions", STREAM)
            assert (code, body["error"]["code"]) == (503, "paused")
        assert tuned.answers == [200]
        await node.until("engine_state", within=5.0, state="stopped")
        code, body = await node.call("POST", "/v1/completions", STREAM)
        assert (code, body["error"]["code"]) == (503, "paused")
        told = await status(node)
        assert told["engine"]["reason"] == "paused by its owner"
        assert told["owner"]["state"] == "paused"
        await settled(node, "away", within=6.0)  # it looks each five seconds while nothing is going on
        assert not any(process.alive for process in tuned.engine.processes)
    async with tuned.node() as node:
        await trio.sleep(3600.0)
        assert set(node.states()) <= {"stopped"}
        assert (await node.call("POST", "/v1/completions", STREAM))[0] == 503
        code, facts = await node.call("POST", "/resume", on="control")
        assert (code, facts["state"]) == (200, "running")
        await ready(node)
        assert await ask(node) == 200
        await settled(node, "steady", within=10.0)
    async with tuned.node() as node:
        await ready(node)


async def test_a_pause_now_cuts_off_what_runs(autojump_clock: MockClock) -> None:
    tuned = Tuned(engine=engine(), trials=NO_TRIALS)
    tuned.engine.tokens = 10_000
    async with tuned.node() as node, trio.open_nursery() as nursery:
        await ready(node)
        nursery.start_soon(tuned.one, node)
        await trio.sleep(1.0)
        began = trio.current_time()
        await paused(node, now=True)
        await node.until("engine_state", within=5.0, state="stopped")
        assert trio.current_time() - began < 1.0


async def test_a_pause_with_an_end_ends_by_itself_and_nothing_is_tuned_meanwhile(autojump_clock: MockClock) -> None:
    tuned = Tuned(gains={"ngram:4": 0.5}, room=True, trials=TrialPolicy(idle_after=60.0))
    async with tuned.node() as node:
        await ready(node)
        await trio.sleep(60.0)
        await paused(node, for_s=7200)
        await trio.sleep(7100.0)
        assert "trials_began" not in node.names()
        assert [plan.strategy for plan in tuned.engine.launches] == [DEFAULT]
        assert (await status(node))["learner"]["state"] != "learning"
        node.events.clear()
        await node.until("engine_state", within=200.0, state="ready")
        assert await ask(node) == 200


async def test_a_wish_made_in_a_pause_comes_true_after_it(autojump_clock: MockClock) -> None:
    tuned = Tuned(trials=NO_TRIALS)
    async with tuned.node() as node:
        await ready(node)
        await paused(node)
        assert (await wish(node, WANTED))[0] == 202
        await trio.sleep(600.0)
        told = await status(node)
        assert (told["tuner"]["phase"], told["tuner"]["strategy"]) == ("away", "default")
        await node.call("POST", "/resume", on="control")
        await settled(node, "fixed", within=120.0, strategy=WANTED)


async def test_a_pause_in_the_middle_of_a_switch_wins_and_the_old_strategy_comes_back(
    autojump_clock: MockClock,
) -> None:
    tuned = Tuned(trials=NO_TRIALS)
    async with tuned.node() as node:
        await ready(node)
        await wish(node, WANTED)
        await node.until("engine_state", within=30.0, state="starting", strategy=WANTED)
        await paused(node)
        await node.until("engine_state", within=30.0, state="stopped", reason="paused by its owner")
        await trio.sleep(600.0)
        assert not any(process.alive for process in tuned.engine.processes)
        node.events.clear()
        await node.call("POST", "/resume", on="control")
        await node.until("engine_state", within=60.0, state="ready")
        assert (await status(node))["engine"]["strategy"] == "default"
        assert await ask(node) == 200


async def test_trials_end_for_a_pause_and_do_not_begin_in_one(autojump_clock: MockClock) -> None:
    tuned = Tuned(trials=TrialPolicy(idle_after=300.0))
    async with tuned.node() as node:
        await ready(node)
        assert await ask(node) == 200
        await node.until("trials_began", within=1200.0)
        await paused(node)
        await node.until("trials_ended", within=5.0)
        node.events.clear()
        await trio.sleep(7200.0)
        assert "trials_began" not in node.names()
        assert node.states() == []
        assert (await status(node))["engine"]["state"] == "stopped"


async def test_the_engine_runs_in_the_hours_that_its_owner_allows(autojump_clock: MockClock) -> None:
    now = datetime.fromtimestamp(wall() / 1e6)  # noqa: DTZ006 -- hours are the local clock's
    begin, end = (now.hour + 1) % 24, (now.hour + 2) % 24
    tuned = Tuned(limits=Limits(hours=(parse_span(f"{begin:02}:00-{end:02}:00"),)), trials=NO_TRIALS)
    async with tuned.node() as node:
        await trio.sleep(60.0)
        told = await status(node)
        assert (told["owner"]["state"], told["owner"]["why"]) == ("yielded", "hours")
        assert "hours" in told["engine"]["reason"]
        assert (await node.call("POST", "/v1/completions", STREAM))[0] == 503
        assert set(node.states()) <= {"stopped"}
        await node.until("engine_state", within=3700.0, state="ready")
        assert await ask(node) == 200
        node.events.clear()
        await node.until("engine_state", within=3700.0, state="stopped")


async def test_prompts_of_a_paused_node_are_answered_by_its_peers(autojump_clock: MockClock) -> None:
    async with sim_swarm() as swarm:
        a, *others = await three(swarm)
        await paused(a)
        await trio.sleep(1.0)
        for _ in range(20):
            answer = await a.ask("POST", "/v1/completions", STREAM)
            assert answer.status == 200
            assert answer.headers["x-metainf-node"] in {node.peer_id for node in others}
            await trio.sleep(1.0)
        for node in others:
            await paused(node)
        await trio.sleep(120.0)
        code, body = await a.call("POST", "/v1/completions", STREAM)
        assert (code, body["error"]["code"]) == (503, "paused")
        await a.call("POST", "/resume", on="control")
        await trio.sleep(2 * LOAD)
        assert await ask(a) == 200
