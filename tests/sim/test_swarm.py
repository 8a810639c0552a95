"""Swarms of whole nodes in virtual time: what only shows among many, over slow links and when somebody dies."""

import json

import trio

from node.core.access import NOBODY, Access
from tests.fakes.network import Weather
from tests.sim.node import SimAnswer, SimNode
from tests.sim.swarm import SimSwarm, engine, sim_swarm, until

ASK = b'{"model": "m", "prompt": "x", "stream": true, "max_tokens": 16}'
WHOLE = b"".join(b'data: {"t": %d}\n\n' % number for number in range(1, 17)) + b"data: [DONE]\n\n"


async def ask(node: SimNode, **headers: str) -> SimAnswer:
    return await node.ask("POST", "/v1/completions", ASK, headers=headers)


async def three(swarm: SimSwarm) -> tuple[SimNode, dict[str, SimNode]]:
    """A without an engine; B and C with one; all know each other, engines included."""
    a = await swarm.start("a")
    servers = {name: await swarm.start(name, engine=engine(), join=["a"]) for name in "bc"}
    for node in servers.values():
        await node.until("engine_state", within=20.0, state="ready")
    await until_served(a, {node.peer_id for node in servers.values()})
    return a, servers


async def until_served(node: SimNode, by: set[str], *, within: float = 20.0) -> None:
    """Wait until a node knows that these, and no others, serve."""

    async def served() -> bool:
        return await serving(node) == by

    await until(served, within=within)


async def serving(node: SimNode) -> set[str]:
    _, document = await node.call("GET", "/peers", on="control")
    return {peer["peer_id"] for peer in document["peers"] if peer["models"]}


async def test_a_prompt_asked_anywhere_is_answered_and_nothing_is_left_behind(autojump_clock: object) -> None:
    async with sim_swarm() as swarm:
        a, servers = await three(swarm)
        answer = await ask(a)
        assert (answer.status, answer.body) == (200, WHOLE)
        by = {node.peer_id: name for name, node in servers.items()}
        assert answer.headers["x-metainf-node"] in by
        _, models = await a.call("GET", "/v1/models")
        assert [model["id"] for model in models["data"]] == ["m"]
        _, status = await a.call("GET", "/status", on="control")
        assert status["peers"] == {"connected": 2, "known": 2}
        assert (status["requests"]["served"], status["requests"]["running"]) == (1, 0)
        assert (await a.call("GET", "/health/ready"))[0] == 200


async def test_a_death_before_the_first_byte_is_not_seen_by_the_client(autojump_clock: object) -> None:
    async with sim_swarm() as swarm, trio.open_nursery() as nursery:
        a, servers = await three(swarm)
        answers: list[SimAnswer] = []

        async def one() -> None:
            answers.append(await ask(a))

        nursery.start_soon(one)
        await trio.sleep(0.15)  # in the prefill
        victim = next(name for name, node in servers.items() if node.engine and node.engine.at_work)
        name = servers[victim].peer_id
        await swarm.kill(victim)
        await trio.sleep(5)
        assert (answers[0].status, answers[0].body) == (200, WHOLE)
        assert answers[0].headers["x-metainf-attempts"] == "2"
        assert answers[0].headers["x-metainf-node"] != name
        await until_served(a, {node.peer_id for node in servers.values()} - {name})


async def test_a_death_in_mid_stream_is_told_within_two_seconds(autojump_clock: object) -> None:
    async with sim_swarm() as swarm, trio.open_nursery() as nursery:
        a = await swarm.start("a")
        b = await swarm.start("b", engine=engine(tokens=1000), join=["a"])
        await until_served(a, {b.peer_id})
        ended: list[tuple[float, SimAnswer]] = []

        async def one() -> None:
            answer = await ask(a)
            ended.append((trio.current_time(), answer))

        nursery.start_soon(one)
        await trio.sleep(3)
        await swarm.kill("b")
        died = trio.current_time()
        await trio.sleep(5)
        assert ended[0][0] - died < 2.0
        assert b"error" in ended[0][1].body.split(b"data: ")[-1]


async def test_a_silent_death_delays_only_those_who_wait_for_it(autojump_clock: object) -> None:
    async with sim_swarm() as swarm, trio.open_nursery() as nursery:
        a, servers = await three(swarm)
        times: list[float] = []

        async def one() -> None:
            began = trio.current_time()
            assert (await ask(a)).body == WHOLE
            times.append(trio.current_time() - began)

        for _ in range(8):
            nursery.start_soon(one)
        await trio.sleep(0.1)
        victim = next(name for name, node in servers.items() if node.engine and node.engine.at_work)
        await swarm.kill(victim, silently=True)
        await trio.sleep(30)
        assert len(times) == 8
        assert max(times) < 12.0
        assert min(times) < 2.0


async def test_a_client_that_leaves_ends_the_work_at_the_peer(autojump_clock: object) -> None:
    async with sim_swarm() as swarm:
        a = await swarm.start("a")
        b = await swarm.start("b", engine=engine(prefill_time=60.0), join=["a"])
        await until_served(a, {b.peer_id})
        with trio.move_on_after(1):
            await ask(a)
        await trio.sleep(0.1)
        assert b.engine is not None
        assert b.engine.at_work == 0


async def test_ten_nodes_find_each_other_through_one_and_outlive_it(autojump_clock: object) -> None:
    async with sim_swarm(Weather(latency=0.05, jitter=0.03)) as swarm:
        await swarm.start("n0")
        names = [f"n{number}" for number in range(10)]
        for name in names[1:]:
            await swarm.start(name, engine=engine() if name in ("n3", "n7") else None, join=["n0"])
        for name in names:
            await swarm.until_known(name, set(names) - {name}, within=10.0)
        await swarm.kill("n0")
        left = set(names[1:])
        for name in left:
            await swarm.until_known(name, left - {name}, within=5.0)
        assert (await ask(swarm.nodes["n1"])).body == WHOLE


async def test_a_restarted_node_is_back_at_once_and_leaves_no_ghost(autojump_clock: object) -> None:
    async with sim_swarm() as swarm:
        a, servers = await three(swarm)
        name = servers["b"].peer_id
        await trio.sleep(5)  # what it remembers is kept
        await swarm.kill("b")
        await until_served(a, {servers["c"].peer_id})
        b = await swarm.start("b", engine=engine())  # nobody to join through but those it remembers
        await until_served(a, {node.peer_id for node in servers.values()}, within=10.0)
        _, document = await a.call("GET", "/peers", on="control")
        assert [peer["peer_id"] for peer in document["peers"]].count(name) == 1
        answer = await ask(a, **{"x-metainf-via": name})
        assert (answer.status, answer.headers["x-metainf-node"]) == (200, b.peer_id)


async def test_a_leaving_node_finishes_what_it_answers_and_is_asked_no_more(autojump_clock: object) -> None:
    async with sim_swarm() as swarm, trio.open_nursery() as nursery:
        a, servers = await three(swarm)
        answers: list[SimAnswer] = []

        async def one() -> None:
            answers.append(await ask(a))

        nursery.start_soon(one)
        await trio.sleep(0.15)
        leaver = next(name for name, node in servers.items() if node.engine and node.engine.at_work)
        other = ({"b", "c"} - {leaver}).pop()
        gone = servers[leaver].peer_id
        await swarm.stop(leaver)
        await trio.sleep(0.1)  # the way of the last bytes
        assert answers[0].body == WHOLE
        assert answers[0].headers["x-metainf-node"] == gone
        assert await serving(a) == {servers[other].peer_id}
        assert (await ask(a)).headers["x-metainf-node"] == servers[other].peer_id


async def test_a_node_that_serves_nobody_says_so_and_one_that_asks_nobody_keeps_its_prompts(
    autojump_clock: object,
) -> None:
    async with sim_swarm() as swarm:
        a = await swarm.start("a")
        shy = await swarm.start("shy", engine=engine(), join=["a"], access=Access(serve=NOBODY))
        await shy.until("engine_state", within=20.0, state="ready")
        await swarm.until_known("a", {"shy"}, within=10.0)
        assert (await ask(a)).status in {403, 404, 503}
        assert (await ask(shy)).body == WHOLE
        b = await swarm.start("b", engine=engine(), join=["a"])
        private = await swarm.start("private", join=["a"], access=Access(ask=NOBODY))
        await until_served(private, {b.peer_id})
        refused = await ask(private)
        assert (refused.status, json.loads(refused.body)["error"]["code"]) == (403, "not_asked")


async def test_64_streams_are_shared_between_two_servers(autojump_clock: object) -> None:
    async with sim_swarm() as swarm:
        a, servers = await three(swarm)
        answers: list[SimAnswer] = []

        async def one() -> None:
            answers.append(await ask(a))

        async with trio.open_nursery() as nursery:
            for _ in range(64):
                nursery.start_soon(one)
        assert {answer.body for answer in answers} == {WHOLE}
        shares = [
            sum(answer.headers["x-metainf-node"] == node.peer_id for answer in answers) for node in servers.values()
        ]
        assert min(shares) >= 24


async def test_a_partition_splits_the_swarm_and_healing_makes_it_whole(autojump_clock: object) -> None:
    async with sim_swarm() as swarm:
        a, servers = await three(swarm)
        ids = {name: swarm.network_id(name) for name in "abc"}
        swarm.network.cut(ids["a"], ids["b"])
        swarm.network.cut(ids["c"], ids["b"])
        await until_served(a, {servers["c"].peer_id}, within=60.0)
        assert (await ask(a)).headers["x-metainf-node"] == servers["c"].peer_id
        swarm.network.heal(ids["a"], ids["b"])
        swarm.network.heal(ids["c"], ids["b"])
        await until_served(a, {node.peer_id for node in servers.values()}, within=60.0)
