"""Whole nodes that reckon with each other: prices, what was used and owed, limits; and models that load."""

import json
from typing import Any

import trio

from node.core.spending import SpendLimits
from tests.fakes.account_store import FakeAccountStore
from tests.sim.node import SimAnswer, SimNode
from tests.sim.swarm import engine, sim_swarm, until
from tests.sim.test_swarm import ASK, ask, until_served


async def account(node: SimNode) -> Any:
    status, told = await node.call("GET", "/account", on="control")
    assert status == 200
    return told


def error(answer: SimAnswer) -> dict[str, Any]:
    return dict(json.loads(answer.body)["error"])


async def test_what_a_peer_did_is_owed_here_and_due_there_and_outlives_a_restart(autojump_clock: object) -> None:
    store = FakeAccountStore()
    async with sim_swarm() as swarm:
        a = await swarm.start("a", account=store)
        b = await swarm.start("b", engine=engine(), join=["a"], price=3600.0)
        await until_served(a, {b.peer_id})
        assert (await ask(a, **{"x-request-id": "r"})).status == 200
        _, told = await a.call("GET", "/explain/r", on="control")
        assert [each["price"] for each in told["candidates"]] == [3600.0]
        ours = (await account(a))["today"]["used"]
        # A quarter of a second of prefill and 16 tokens at 50 a second, at one unit for a second; and the way.
        assert 0.5 < ours["owed"] < 0.9
        assert ours["requests"] == 1
        theirs = (await account(b))["today"]["lent"]
        assert 0.5 < theirs["due"] <= ours["owed"]
        assert theirs["requests"] == 1
        assert (await account(a))["peers"][0]["peer_id"] == b.peer_id
        assert 'metainf_account_owed{window="today"} 0.' in (await a.ask("GET", "/metrics", on="control")).body.decode()
        _, status = await a.call("GET", "/status", on="control")
        assert status["account"]["today"]["used"]["owed"] == ours["owed"]
        await swarm.stop("a")
        a = await swarm.start("a", account=store, join=["b"])
        await until_served(a, {b.peer_id})
        assert (await account(a))["today"]["used"]["owed"] == ours["owed"]


async def test_beyond_a_limit_prompts_go_to_those_who_ask_nothing_and_else_are_refused(autojump_clock: object) -> None:
    async with sim_swarm() as swarm:
        a = await swarm.start("a", spend=SpendLimits(per_day=0.05))
        dear = await swarm.start("b", engine=engine(), join=["a"], price=3600.0)
        await until_served(a, {dear.peer_id})
        assert (await ask(a)).status == 429
        free = await swarm.start("c", engine=engine(prefill_time=3.0), join=["a"])
        await until_served(a, {dear.peer_id, free.peer_id})
        for _ in range(5):
            answer = await ask(a)
            assert (answer.status, answer.headers["x-metainf-node"]) == (200, free.peer_id)
        await swarm.kill("c")
        await until_served(a, {dear.peer_id})
        answer = await ask(a)
        assert (answer.status, error(answer)["code"]) == (429, "insufficient_quota")
        assert "routing.spend_per_day" in error(answer)["message"]
        assert int(answer.headers["retry-after"]) > 60
        assert (await account(a))["refused"] == 2


async def test_an_answer_is_refused_that_would_be_too_dear_and_a_short_one_is_not(autojump_clock: object) -> None:
    async with sim_swarm() as swarm:
        a = await swarm.start("a", spend=SpendLimits(per_request=10.0))
        b = await swarm.start("b", engine=engine(), join=["a"], price=3600.0)
        await until_served(a, {b.peer_id})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, a)
            await trio.sleep(0.2)
            assert 0.0 < (await account(a))["pledged"] <= 10.0
        assert (await account(a))["pledged"] == 0.0
        assert (await account(a))["today"]["used"]["requests"] == 1
        body = ASK.replace(b"16", b"100000").replace(b'"x"', b'"%s"' % (b"x" * 10**6))
        long = await a.ask("POST", "/v1/completions", body)
        assert (long.status, error(long)["code"]) == (429, "insufficient_quota")
        assert "spend_per_request" in error(long)["message"]


async def test_a_model_whose_only_node_still_loads_is_known_at_once(autojump_clock: object) -> None:
    async with sim_swarm() as swarm:
        a = await swarm.start("a")
        b = await swarm.start("b", engine=engine(load_time=60.0), join=["a"])

        async def loading() -> bool:
            return error(await ask(a))["code"] == "loading"

        await until(loading, within=10.0)
        answer = await ask(a)
        assert answer.status == 503
        assert "one node is loading it" in error(answer)["message"]
        assert answer.headers["retry-after"] == "5"
        _, document = await a.call("GET", "/peers", on="control")
        (peer,) = document["peers"]
        assert (peer["models"], [each["name"] for each in peer["loading"]]) == ([], ["m"])
        await until_served(a, {b.peer_id}, within=80.0)
        assert trio.current_time() > 60.0
        assert (await ask(a)).status == 200
        unknown = await a.ask("POST", "/v1/completions", ASK.replace(b'"m"', b'"nobody"'))
        assert (unknown.status, "Valid aliases: m." in error(unknown)["message"]) == (404, True)
