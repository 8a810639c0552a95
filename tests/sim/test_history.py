"""One history in whole nodes: what one of them writes all come to have, and liars are shown the door."""

from dataclasses import replace

import trio
from trio.testing import MockClock

from node.core.own_records import Setting
from protocol import gossip, records
from protocol.gossip import Subject, Topic
from protocol.ids import PUBLIC_SWARM, Epoch
from protocol.performance import PERFORMANCE, TRAFFIC, Outcome
from tests.fakes.stranger import greeted, id_of, key_of
from tests.protocol import performance_samples
from tests.sim.node import SimNode
from tests.sim.swarm import SimSwarm, engine, sim_swarm, until, wall
from tests.sim.test_swarm import ask, until_served

LIFETIME_US = performance_samples.LIFETIME


async def write(node: SimNode, count: int) -> None:
    """Write records that nobody is told of."""
    for _ in range(count):
        await node.history.append(
            lambda stamp: replace(performance_samples.body(), stamp=stamp), lifetime_us=LIFETIME_US
        )


async def total(node: SimNode) -> int:
    _, status = await node.call("GET", "/status", on="control")
    return status["records"]["total"]


async def until_all_hold(swarm: SimSwarm, count: int, *, within: float) -> None:
    async def all_hold() -> bool:
        return all([await total(node) == count for node in swarm.nodes.values()])

    await until(all_hold, within=within)


async def test_what_one_node_writes_all_come_to_have_and_keep_through_a_death(autojump_clock: MockClock) -> None:
    async with sim_swarm() as swarm:
        await swarm.start("a")
        for name in "bcd":
            await swarm.start(name, join=["a"])
        for name in "abc":
            await write(swarm.nodes[name], 30)
        await until_all_hold(swarm, 90, within=60.0)
        await swarm.kill("b")
        await write(swarm.nodes["c"], 10)
        await swarm.start("b", join=["a"])
        await write(swarm.nodes["b"], 5)  # of a new epoch
        await until_all_hold(swarm, 105, within=60.0)


async def test_what_an_engine_does_for_its_prompts_becomes_a_record_that_all_have(autojump_clock: MockClock) -> None:
    setting = Setting(
        model=performance_samples.MODEL,
        hardware=performance_samples.HARDWARE,
        benchmark=performance_samples.BENCHMARK,
        engine=performance_samples.ENGINE,
    )
    async with sim_swarm() as swarm:
        asked = await swarm.start("asked")
        serving = await swarm.start("serving", engine=engine(), join=["asked"], setting=setting)
        await until_served(asked, {serving.peer_id})
        for _ in range(40):
            assert (await ask(asked)).status == 200
            await trio.sleep(20.0)
        await until_all_hold(swarm, 1, within=120.0)
        (record,) = asked.history.records.values()
        body = record.body
        assert (str(record.name.author), body.origin) == (serving.peer_id, TRAFFIC)
        assert body.outcome.requests >= 30
        assert body.outcome.failures == 0
        assert 250_000 <= body.outcome.ttft_p50_us <= 400_000  # a quarter of a second of prefill
        assert 15_000 <= body.outcome.tpot_p50_us <= 25_000  # 50 tokens a second
        assert (await scraped(serving))["metainf_traffic_records_total"] == 1


async def test_who_says_what_no_honest_node_says_is_parted_from_and_seen(autojump_clock: MockClock) -> None:
    async with sim_swarm() as swarm:
        a = await swarm.start("a")
        await swarm.start("b", join=["a"])
        await write(a, 5)
        await until_all_hold(swarm, 5, within=60.0)
        async with greeted(swarm.network, swarm.network_id("a"), "liar") as liar:
            topic = str(Topic(PUBLIC_SWARM, Subject.RECORDS))
            air = swarm.air.at(liar.node)  # type: ignore[arg-type]
            for seq in range(4):
                await air.publish(topic, b"".join(gossip.pack_records([too_fast(seq)])))
                await trio.sleep(1.0)

            async def parted() -> bool:
                return liar.me not in swarm.network.find(swarm.network_id("a")).connected()  # type: ignore[union-attr]

            await until(parted, within=10.0)
            _, document = await a.call("GET", "/peers", on="control")
            outcasts = {each["peer_id"]: each["offences"] for each in document["outcasts"]}
            assert outcasts[str(liar.me)]["bad_gossip"] >= 3
            assert document["rejected_records"]["speed_of_light"] >= 3
            honest = {each["peer_id"]: each["standing"] for each in document["peers"]}
            assert honest[swarm.nodes["b"].peer_id] == 1.0
            assert b'metainf_history_rejected_total{reason="speed_of_light"}' in (await a.ask("GET", "/metrics")).body
            figures = await scraped(a)
            assert (figures['metainf_peers{state="connected"}'], figures["metainf_peers_outcast"]) == (1, 1)
            assert figures["metainf_history_heard_messages_total"] >= 3
        await until_all_hold(swarm, 5, within=10.0)


async def test_how_old_a_history_may_be_shows_when_nobody_is_left_to_compare_with(autojump_clock: MockClock) -> None:
    def age(figures: dict[str, float]) -> float:
        return figures["metainf_history_since_whole_exchange_seconds"]

    async with sim_swarm() as swarm:
        a = await swarm.start("a")
        await trio.sleep(60)
        assert age(await scraped(a)) >= 60
        b = await swarm.start("b", join=["a"])
        await write(b, 5)
        await until_all_hold(swarm, 5, within=60.0)
        await trio.sleep(90)
        figures = await scraped(a)
        assert age(figures) < 60
        assert figures['metainf_history_exchanges_total{end="whole"}'] >= 2
        assert figures["metainf_history_received_new_total"] == 5
        assert figures["metainf_history_pulled_total"] + figures["metainf_history_found_total"] <= 5
        await swarm.stop("b")
        await trio.sleep(300)
        assert age(await scraped(a)) >= 240


async def scraped(node: SimNode) -> dict[str, float]:
    """Return a node's own figures, by name and labels."""
    lines = (await node.ask("GET", "/metrics")).body.decode().splitlines()
    own = (line.rpartition(" ") for line in lines if line.startswith("metainf_"))
    return {name: float(value) for name, _, value in own}


def too_fast(seq: int) -> bytes:
    """Return a liar's record of a model that answers before its weights can have been read."""
    outcome = Outcome(requests=96, failures=0, repetitions=3, tpot_mean_us=3, tpot_p50_us=3, ttft_mean_us=5)
    body = performance_samples.body(
        author=id_of(key_of("liar")),
        epoch=Epoch(wall()),
        seq=seq,
        time=wall(),
        outcome=outcome,
    )
    return records.sign(PERFORMANCE, body, key_of("liar")).sealed
