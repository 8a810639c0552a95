"""One whole node in virtual time: what its parts do together, in milliseconds of real time."""

import trio

from node.errors import EngineUnavailable
from node.trial_ports import TrialHands, Workshop
from tests.fakes.engine import FakeEngine
from tests.sim.node import sim_node

ASK = b'{"model": "m", "prompt": "x", "max_tokens": 1}'


async def test_the_api_answers_before_the_engine_does(autojump_clock: object) -> None:
    async with sim_node(FakeEngine(load_time=16.0)) as node:
        status, body = await node.call("POST", "/v1/completions", ASK)
        assert (status, body["error"]["type"]) == (503, "model_loading")
        assert (await node.call("GET", "/health"))[0] == 200
        assert (await node.call("GET", "/health/ready"))[0] == 503
        await node.until("strategy", within=20.0, name="default")
        assert (await node.call("POST", "/v1/completions", ASK))[0] == 200
        assert (await node.call("GET", "/health/ready"))[0] == 200


async def test_the_status_counts_what_was_done(autojump_clock: object) -> None:
    async with sim_node(FakeEngine()) as node:
        await node.call("POST", "/v1/completions", ASK)
        await node.until("engine_state", within=20.0, state="ready")
        await node.call("POST", "/v1/completions", ASK)
        _, status = await node.call("GET", "/status", on="control")
        assert status["engine"]["state"] == "ready"
        assert (status["requests"]["served"], status["requests"]["refused"]) == (1, 1)
        assert status["api_url"] == "http://127.0.0.1:8470/v1"


async def test_an_engine_that_dies_is_replaced_and_the_status_says_why(autojump_clock: object) -> None:
    engine = FakeEngine()
    async with sim_node(engine) as node:
        await node.until("engine_state", within=20.0, state="ready")
        engine.processes[0].die(signal=9, tail=("last words",))
        await node.until("engine_state", within=1.0, state="backoff")
        _, status = await node.call("GET", "/status", on="control")
        assert "signal 9" in status["engine"]["reason"]
        assert status["engine"]["log_tail"] == ["last words"]
        await node.until("engine_state", within=30.0, state="ready", restarts=1)
        assert (await node.call("POST", "/v1/completions", ASK))[0] == 200


async def test_a_restart_is_drain_stop_start(autojump_clock: object) -> None:
    async with sim_node(FakeEngine()) as node:
        await node.until("engine_state", within=20.0, state="ready")
        assert (await node.call("POST", "/engine/restart", on="control"))[0] == 202
        node.events.clear()
        await node.until("engine_state", within=30.0, state="ready")
        assert node.states() == ["draining", "stopping", "stopped", "preparing", "starting", "ready"]


async def test_a_stop_asked_for_over_the_control_socket_ends_everything(autojump_clock: object) -> None:
    engine = FakeEngine()
    async with sim_node(engine) as node:
        await node.until("engine_state", within=20.0, state="ready")
        assert (await node.call("POST", "/stop", on="control"))[0] == 202
        await node.ended.wait()
        assert not engine.processes[0].alive
        assert node.listener.apps == {}
        assert node.states()[-1] == "stopped"


async def test_a_second_wish_does_not_wait_for_a_slow_engine(autojump_clock: object) -> None:
    engine = FakeEngine(stop_time=3600.0)
    async with sim_node(engine) as node:
        await node.until("engine_state", within=20.0, state="ready")
        node.wish.ask("once")
        node.wish.ask("twice")
        await node.ended.wait()
        assert not engine.processes[0].alive


async def test_a_model_that_is_not_there_leaves_the_node_up_and_says_so(autojump_clock: object) -> None:
    engine = FakeEngine(refusal=EngineUnavailable("there is no folder /m", remedy="check it", permanent=True))
    async with sim_node(engine) as node:
        await node.until("engine_state", within=5.0, state="failed")
        status, body = await node.call("POST", "/v1/completions", ASK)
        assert (status, body["error"]["type"]) == (503, "engine_unavailable")
        _, facts = await node.call("GET", "/status", on="control")
        assert "/m" in facts["engine"]["reason"]
        assert "/m" not in str(body)


async def test_a_node_without_an_engine_is_up_and_honest(autojump_clock: object) -> None:
    async with sim_node(None) as node:
        _, status = await node.call("GET", "/status", on="control")
        assert status["engine"]["state"] == "off"
        assert (await node.call("POST", "/v1/completions", ASK))[0] == 503
        node.wish.ask("enough")
        await node.ended.wait()


async def test_a_monitor_that_lists_models_and_counts_tokens_keeps_no_node_from_its_trials_and_prompts_do(
    autojump_clock: object,
) -> None:
    prepared: list[float] = []

    async def prepare(_: object) -> Workshop:
        await trio.lowlevel.checkpoint()
        prepared.append(trio.current_time())
        raise EngineUnavailable("there is no bench in memory")

    async with sim_node(FakeEngine(), TrialHands(prepare=prepare, mint=lambda: "r")) as node:
        await node.until("engine_state", within=20.0, state="ready")
        for _ in range(30):
            await trio.sleep(60)
            assert (await node.call("POST", "/v1/completions", ASK))[0] == 200
        assert prepared == []
        for _ in range(30):
            await trio.sleep(60)
            assert (await node.ask("GET", "/v1/models")).status == 200
            assert (await node.ask("POST", "/tokenize", ASK)).status == 200
        assert len(prepared) == 1
