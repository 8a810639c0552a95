"""Whole nodes that say why a prompt went where it went: on the control socket, in headers, `status` and metrics."""

import pytest

from tests.sim.node import sim_node
from tests.sim.swarm import sim_swarm
from tests.sim.test_swarm import ask, three


async def test_a_prompt_that_a_peer_answered_is_explained_and_held_against_its_forecast(autojump_clock: object) -> None:
    async with sim_swarm() as swarm:
        a, servers = await three(swarm)
        answer = await ask(a, **{"x-request-id": "r/1"})
        assert answer.status == 200
        ids = {node.peer_id for node in servers.values()}
        _, told = await a.call("GET", "/explain/r%2F1", on="control")
        assert {each["replica"] for each in told["candidates"]} == ids
        assert told["attempts"][0]["replica"] == answer.headers["x-metainf-node"]
        assert told["attempts"][0]["outcome"] == "answered"
        assert told["attempts"][0]["reason"] == answer.headers["x-metainf-route-reason"]
        chosen = next(each for each in told["candidates"] if each["replica"] == answer.headers["x-metainf-node"])
        first = chosen["net_s"] + chosen["turn_s"] + chosen["ttft_s"]
        assert float(answer.headers["x-metainf-predicted-ttft-ms"]) == pytest.approx(first * 1000, rel=0.01)
        total = float(answer.headers["x-metainf-predicted-total-ms"])
        assert total == pytest.approx(chosen["total_s"] * 1000, rel=0.01)
        _, listed = await a.call("GET", "/explain", on="control")
        assert [each["request_id"] for each in listed["prompts"]] == ["r/1"]
        _, status = await a.call("GET", "/status", on="control")
        assert status["routing"]["ttft"]["answers"] == 1
        assert sum(status["routing"]["decisions"].values()) == 1
        metrics = (await a.ask("GET", "/metrics", on="control")).body.decode()
        assert 'metainf_forecast_answers_total{quantity="ttft"} 1.0' in metrics
        assert (await a.call("GET", "/explain/r-2", on="control"))[0] == 404


async def test_a_node_by_itself_says_that_there_is_nothing_to_choose(autojump_clock: object) -> None:
    async with sim_node(None) as node:
        assert (await node.call("GET", "/explain", on="control"))[0] == 409
        _, status = await node.call("GET", "/status", on="control")
        assert status["routing"] == {}
