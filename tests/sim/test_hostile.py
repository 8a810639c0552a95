"""What strangers may do to a whole node: garbage, floods and greed. Honest peers and the owner must hardly notice.

`METAINF_FUZZ_REQUESTS` sets how many byte strings each handler gets (10,000 for the record).
"""

import gc
import os
import random
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

import pytest
import trio
from structlog.testing import capture_logs

from node.core.access import Access
from node.core.addressbook import AddressBook
from node.core.peerbook import BookLimits, Peerbook
from node.core.quota import QuotaLimits
from node.core.standings import Standings
from node.directory_rules import dht_rules
from node.errors import NodeError
from protocol import dht, hello, history, inference, limits, load
from protocol.addresses import Address
from protocol.advert import ModelOffer
from protocol.errors import RemoteProtocolError
from protocol.gossip import Subject, Topic
from protocol.ids import PUBLIC_SWARM, Epoch, SwarmId
from protocol.inference_events import Body, Cancel, End, Refuse
from protocol.inference_events import encode as say
from tests.fakes.garbage import damaged, vectors
from tests.fakes.network import FakeNetwork, FakeNode, Weather
from tests.fakes.network_talk import FakeAir, FakeTable
from tests.fakes.stranger import Poller, Stranger, an_ask, greeted, id_of, key_of, stranger
from tests.protocol import swarm_samples
from tests.sim.node import BEGINNING, SimAnswer, SimNode
from tests.sim.swarm import Rules, SimSwarm, engine, sim_swarm, until, wall
from tests.sim.test_swarm import ASK, WHOLE, ask, until_served

STRINGS = int(os.environ.get("METAINF_FUZZ_REQUESTS", "1000"))
AT_ONCE = 20
SETTLED = 90.0  # s after which nothing of an attack is under way: longer than every deadline of a stream
ADVERTS = str(Topic(PUBLIC_SWARM, Subject.ADVERT))
BOOKS = (Peerbook, AddressBook, Standings)


@asynccontextmanager
async def a_pair(**engine_is: object) -> AsyncIterator[tuple[SimSwarm, SimNode, SimNode]]:
    """A, who asks, and B, who serves; both know each other."""
    async with sim_swarm() as swarm:
        a = await swarm.start("a")
        b = await swarm.start("b", engine=engine(**engine_is), join=["a"])
        await until_served(a, {b.peer_id})
        yield swarm, a, b


def place_of(swarm: SimSwarm, name: str) -> FakeNode:
    place = swarm.network.find(swarm.network_id(name))
    assert place is not None
    return place


def held() -> Counter[str]:
    """Count what the memories of all living nodes hold, by their kind."""
    gc.collect()
    found: Counter[str] = Counter()
    for each in gc.get_objects():
        if issubclass(type(each), BOOKS):  # isinstance would ask the object, and some libraries' answer with a warning
            found[type(each).__name__] += len(each)
    return found


def tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def facts(node: SimNode, name: str) -> dict[str, int]:
    _, status = await node.call("GET", "/status", on="control")
    return status[name]


async def one_string_each(attack: Callable[[int], Awaitable[None]]) -> None:
    for start in range(0, STRINGS, AT_ONCE):
        async with trio.open_nursery() as nursery:
            for number in range(start, min(start + AT_ONCE, STRINGS)):
                nursery.start_soon(attack, number)


async def throw(one: Stranger, protocol: str, strings: list[bytes], luck: random.Random) -> None:
    """Say these on a new stream, listen for a moment or not at all, and leave in one of the ways there are."""
    with suppress(NodeError, RemoteProtocolError):
        async with one.node.open(one.victim, protocol, patience=5.0) as stream:
            for each in strings:
                await stream.send(each)
            if luck.random() < 0.5:
                await stream.finish()
            with trio.move_on_after(luck.choice((0.0, 0.1, 1.0))):
                while await stream.receive() is not None:
                    pass


ORDERLY = (
    say(an_ask(0, target="/v1/models", method="GET")),
    say(an_ask(len(ASK))),
    say(Body(data=ASK)),
    say(Cancel()),
    say(an_ask(limits.BODY_BYTES)),
    load.SCRIPT.vocabulary.encode(load.Poll()),
)


@pytest.mark.parametrize("protocol", [hello.PROTOCOL_ID, inference.PROTOCOL_ID, load.PROTOCOL_ID, history.PROTOCOL_ID])
async def test_bytes_of_every_kind_to_a_handler_leave_the_node_as_it_was(autojump_clock: object, protocol: str) -> None:
    async with a_pair(prefill_time=0.01, token_time=0.001) as (swarm, a, b):
        place, right = (
            place_of(swarm, "b"),
            (*vectors("hello", "history", "inference", "load", "wire", "framing"), *ORDERLY),
        )
        assert (await ask(a)).body == WHOLE  # its streams are kept for the next
        await trio.sleep(SETTLED)
        before, remembered, known = tasks(), held(), await swarm.known("b")
        luck = random.Random(2026)  # noqa: S311 -- the same attack every time

        async with stranger(swarm.network, place.me, "mallory") as mallory:

            async def attack(number: int) -> None:
                strings = [damaged(right, luck) for _ in range(luck.randint(1, 3))]
                if luck.random() < 0.7:
                    strings.insert(0, luck.choice(ORDERLY))
                if luck.random() < 0.5 or number % AT_ONCE == 0:
                    with suppress(NodeError):
                        await mallory.greet()
                await throw(mallory, protocol, strings, luck)
                if number % 100 == 0:
                    assert (await ask(a)).body == WHOLE

            await one_string_each(attack)
        await trio.sleep(SETTLED)
        assert not place.failures
        assert tasks() == before
        assert held() - remembered <= Counter(Standings=1)  # one peer is remembered for a while: it had restarted
        assert await swarm.known("b") == known
        assert (await facts(b, "requests_of_peers"))["running"] == 0
        assert b.engine is not None
        assert b.engine.at_work == 0
        assert (await ask(a)).body == WHOLE


def an_advert(key: object, *, seq: int = 1, **more: object) -> bytes:
    """Return an advert that is good now, but for what is said."""
    now = wall()
    stamp = {"epoch": Epoch(BEGINNING), "seq": seq, "time": now, "expiry": now + 180 * limits.SECOND_US}
    return swarm_samples.advert(key, **(stamp | more)).sealed  # type: ignore[arg-type]


def false_adverts() -> tuple[bytes, ...]:
    """Return adverts each of which is wrong in one way."""
    key, other = key_of("liar"), key_of("other")
    honest, now = an_advert(key), wall()
    return (
        honest.replace(id_of(key).to_bytes(), id_of(other).to_bytes()),  # in another's name
        honest[:-70] + bytes(70),
        an_advert(key, swarm=SwarmId("elsewhere")),
        an_advert(key, epoch=Epoch(now - 10**9), time=now - 10**9, expiry=now - 1),
        an_advert(key, time=now + 10**9, expiry=now + 2 * 10**9),
    )


async def test_adverts_that_are_none_are_neither_believed_nor_passed_on_nor_held(autojump_clock: object) -> None:
    async with a_pair() as (swarm, a, _):
        await trio.sleep(SETTLED)
        before, remembered, known = tasks(), held(), await swarm.known("b")
        luck, right = random.Random(2027), vectors("advert", "records", "wire")  # noqa: S311
        judge, _ = swarm.air.ears[swarm.network_id("b"), ADVERTS]
        wrong: tuple[bytes, ...] = ()
        for number in range(STRINGS):
            wrong = false_adverts() if number % 100 == 0 else wrong
            assert not judge(luck.choice(wrong) if luck.random() < 0.1 else damaged((*right, *wrong), luck), None)
        await trio.sleep(SETTLED)
        assert tasks() == before
        assert held() == remembered
        assert await swarm.known("b") == known
        assert (await ask(a)).body == WHOLE


def test_the_rules_of_the_directory_have_an_answer_to_everything() -> None:
    luck = random.Random(2028)  # noqa: S311
    now, key = BEGINNING, key_of("a")
    good = swarm_samples.advert(key, epoch=Epoch(now), time=now, expiry=now + 180 * limits.SECOND_US).sealed
    place = str(dht.peer_key(PUBLIC_SWARM, id_of(key)))
    right = (*vectors("advert", "records", "wire"), good)
    rules = dht_rules(PUBLIC_SWARM, lambda: now)
    keys = (place, place[:-1], place + "/", "", "/", "//", "/metainf-peer", "/metainf-peer/x/\0", "\udcff", "a" * 10**5)
    for valid, best in rules.values():
        assert valid(place, good)
        for _ in range(STRINGS):
            text, value = luck.choice(keys), damaged(right, luck)
            assert not valid(text, value) or (text, value) == (place, good)
            values = [good, value, value][: luck.randint(1, 3)]
            luck.shuffle(values)
            assert 0 <= best(place, values) < len(values)
            assert good not in values or values[best(place, values)] == good
            assert 0 <= best(text, values) < len(values)


SLOT = 0.25 + 16 * 0.02 + 0.02  # s that one prompt has its slot
WAY = 0.2  # s for everything that is said about it
SLOTS = 32


class Greed:
    """A stranger that keeps so many prompts going, and asks again whatever it is told."""

    def __init__(self, one: Stranger, body: bytes = ASK, **ask: str) -> None:
        self.one, self.body, self.asks = one, body, ask
        self.told: Counter[str] = Counter()
        self.refusals: list[Refuse] = []

    async def run(self, at_once: int) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(self._again_and_again)

    async def _again_and_again(self) -> None:
        while True:
            end = (await self.one.ask(self.body, **self.asks))[-1]
            self.told[type(end).__name__] += 1
            if isinstance(end, Refuse):
                self.refusals.append(end)
                await trio.sleep(1)


async def test_a_stranger_with_200_prompts_delays_the_owner_by_one_slots_time_at_most(autojump_clock: object) -> None:
    async with a_pair() as (swarm, _, b), greeted(swarm.network, place_of(swarm, "b").me, "greedy") as one:
        greed = Greed(one)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(greed.run, 200)
            await trio.sleep(1)
            for _ in range(8):
                began = trio.current_time()
                answer = await ask(b)
                assert answer.body == WHOLE
                assert answer.first_byte is not None
                assert answer.first_byte - began <= SLOT + 0.25 + 0.01  # a slot, and then its own prefill
                await trio.sleep(0.11)
            nursery.cancel_scope.cancel()
        assert greed.told["End"] > SLOTS  # it is served all the same
        for refusal in greed.refusals:
            assert (refusal.status, refusal.code) in {(429, "queue_full"), (429, "displaced")}
            assert refusal.retry_after is not None
            assert 1 <= refusal.retry_after <= 60
        await trio.sleep(SETTLED)
        assert (await facts(b, "requests_of_peers"))["running"] == 0


async def test_a_light_stranger_beside_a_greedy_one_waits_for_one_slot_and_is_never_refused(
    autojump_clock: object,
) -> None:
    async with a_pair() as (swarm, a, b), greeted(swarm.network, place_of(swarm, "b").me, "greedy") as one:
        greed = Greed(one)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(greed.run, 200)
            await trio.sleep(1)
            for _ in range(8):
                began = trio.current_time()
                answer = await ask(a)  # which has no engine: its prompts are a peer's at b
                assert (answer.status, answer.headers["x-metainf-node"]) == (200, b.peer_id)
                assert trio.current_time() - began <= 2 * SLOT + WAY
                await trio.sleep(0.2)
            nursery.cancel_scope.cancel()
        assert greed.told["End"] > SLOTS


async def test_peers_get_at_the_engine_by_turns_even_where_nothing_is_generated(autojump_clock: object) -> None:
    """Tokenizing megabytes keeps the engine's one API process from everybody, too."""
    async with a_pair() as (swarm, a, b), greeted(swarm.network, place_of(swarm, "b").me, "greedy") as one:
        assert b.engine is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Greed(one, target="/tokenize").run, 200)
            for _ in range(20):
                await trio.sleep(0.1)
                assert b.engine.at_work <= SLOTS
            assert (await ask(a)).body == WHOLE
            nursery.cancel_scope.cancel()


QUOTAS = {
    "requests": (QuotaLimits(requests_per_minute=3), 3),
    "tokens": (QuotaLimits(tokens_per_minute=20), 1),
    "concurrent": (QuotaLimits(concurrent=2), 2),
}


@pytest.mark.parametrize("kind", QUOTAS)
async def test_a_peer_that_has_had_its_share_is_told_when_to_come_back_and_others_have_theirs(
    autojump_clock: object, kind: str
) -> None:
    each, served = QUOTAS[kind]
    async with sim_swarm() as swarm:
        b = await swarm.start("b", engine=engine(), access=Access(each=each))
        await b.until("engine_state", within=20.0, state="ready")
        victim = swarm.network_id("b")
        async with greeted(swarm.network, victim, "one") as one, greeted(swarm.network, victim, "two") as two:
            ends: list[object] = []

            async def ask_once() -> None:
                ends.append((await one.ask(ASK))[-1])

            async with trio.open_nursery() as nursery:
                for number in range(served + 1):
                    nursery.start_soon(ask_once)
                    if kind == "tokens" and number < served:
                        await trio.sleep(2 * SLOT)  # what an answer costs is known at its end
            refused = [end for end in ends if isinstance(end, Refuse)]
            assert [(each.status, each.code) for each in refused] == [(429, "rate_limit_exceeded")]
            wait = refused[0].retry_after
            assert wait is not None
            assert refused[0].load is not None
            assert (1 <= wait <= 60, refused[0].load["accepting"]) == (True, 0)
            assert isinstance((await two.ask(ASK))[-1], End)
            await trio.sleep(wait)
            assert isinstance((await one.ask(ASK))[-1], End)


async def test_who_is_told_to_stay_away_stays_away_and_tells_its_client_for_how_long(autojump_clock: object) -> None:
    async with sim_swarm() as swarm:
        a = await swarm.start("a")
        b = await swarm.start("b", engine=engine(), join=["a"], access=Access(each=QuotaLimits(requests_per_minute=1)))
        await until_served(a, {b.peer_id})
        assert (await ask(a)).body == WHOLE
        for _ in range(20):
            answer = await ask(a)
            assert answer.status == 429
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            await trio.sleep(0.5)
        assert (await facts(b, "requests_of_peers"))["refused"] <= 2
        c = await swarm.start("c", engine=engine(), join=["a"])
        await until_served(a, {b.peer_id, c.peer_id})
        for _ in range(50):
            assert (await ask(a)).body == WHOLE
        assert (await facts(b, "requests_of_peers"))["refused"] <= 4


class CountingNetwork(FakeNetwork):
    """A network that notes which hosts were dialled when."""

    def __init__(self) -> None:
        super().__init__(Weather(latency=0.02))
        self.dials: list[tuple[float, str]] = []

    def at(self, address: Address) -> FakeNode | None:
        self.dials.append((trio.current_time(), address.host))
        return super().at(address)

    def most_in_a_second(self, hosts: set[str]) -> tuple[int, int]:
        """Return how often these were dialled within any second: the one that was most, and all together."""
        of_one, of_all = 0, 0
        recent: deque[tuple[float, str]] = deque()
        for when, host in self.dials:
            if host in hosts:
                recent.append((when, host))
                while recent[0][0] <= when - 1:
                    recent.popleft()
                of_one = max(of_one, *Counter(each for _, each in recent).values())
                of_all = max(of_all, len(recent))
        return of_one, of_all


@asynccontextmanager
async def counted_swarm() -> AsyncIterator[tuple[SimSwarm, CountingNetwork]]:
    network = CountingNetwork()
    namespaces = {name: Rules(valid=valid, best=best) for name, (valid, best) in dht_rules(PUBLIC_SWARM, wall).items()}
    async with trio.open_nursery() as nursery:
        table = FakeTable(network, namespaces)  # type: ignore[arg-type]
        yield SimSwarm(nursery, network, FakeAir(network), table, random.Random(0)), network  # noqa: S311
        nursery.cancel_scope.cancel()


BYSTANDERS = 24  # machines that have nothing to do with the swarm, and that a liar says its nodes are at
MADE_UP = BookLimits().peers + 100


def made_up_adverts(hosts: list[str], luck: random.Random) -> list[bytes]:
    """Return adverts of nodes that are not there, at other people's addresses; some as large as adverts may be."""
    names = [ModelOffer(name=f"{'x' * 200}/{number}") for number in range(limits.MODELS - 1)]
    adverts: list[bytes] = []
    for number in range(MADE_UP):
        places = [*luck.sample(hosts, 3), *NEVER_DIALLED]
        addresses = tuple(f"/ip4/{host}/tcp/{luck.randint(1, 65535)}" for host in places)
        offers = (ModelOffer(name="m"), *(names if number % 64 == 0 else ()))
        adverts.append(an_advert(key_of(f"ghost {number}"), addresses=addresses, models=offers))
    return adverts


NEVER_DIALLED = ("127.0.0.1", "0.0.0.0", "224.0.0.1", "169.254.169.254")


@dataclass
class Flood:
    """A swarm of two, a liar, and those at whose addresses it says its nodes to be."""

    swarm: SimSwarm
    network: CountingNetwork
    a: SimNode
    b: SimNode
    mouth: FakeNode
    hosts: set[str]

    async def pour(self, adverts: list[bytes]) -> None:
        """Publish these, with repetitions among them."""
        gossip, luck = self.swarm.air.at(self.mouth), random.Random(5)  # noqa: S311
        for start in range(0, len(adverts), 20):
            for each in adverts[start : start + 20]:
                await gossip.publish(ADVERTS, each)
            await gossip.publish(ADVERTS, luck.choice(adverts[: start + 20]))
            await trio.sleep(0.1)


@asynccontextmanager
async def flood() -> AsyncIterator[Flood]:
    async with counted_swarm() as (swarm, network):
        a = await swarm.start("a")
        b = await swarm.start("b", engine=engine(), join=["a"])
        await until_served(a, {b.peer_id})
        hosts = {str(await swarm.nursery.start(stand_by, network, number)) for number in range(BYSTANDERS)}
        async with greeted(network, swarm.network_id("a"), "liar") as liar:
            mouth = network.find(liar.me)
            assert mouth is not None
            yield Flood(swarm, network, a, b, mouth, hosts)


async def stand_by(network: FakeNetwork, number: int, *, task_status: trio.TaskStatus[str]) -> None:
    async with network.node(id_of(key_of(f"bystander {number}"))) as node:
        task_status.started(node.host)
        await trio.sleep_forever()


async def test_a_flood_of_made_up_nodes_displaces_nobody_and_takes_no_prompt_and_turns_nobody_against_others(
    autojump_clock: object,
) -> None:
    async with flood() as one:
        with capture_logs() as logs:
            await one.pour(made_up_adverts(sorted(one.hosts), random.Random(3)))  # noqa: S311
            await trio.sleep(20)
        assert not [each for each in logs if each["log_level"] != "debug"]
        nodes, most = 2, BookLimits().peers
        books = held()
        assert nodes * (most - 1) <= books["Peerbook"] <= nodes * most  # full: b hears what a passes on
        assert books["AddressBook"] <= nodes * most
        of_one, of_all = one.network.most_in_a_second(one.hosts)
        assert of_one <= nodes
        assert of_all <= nodes * BYSTANDERS
        assert not {host for _, host in one.network.dials} & set(NEVER_DIALLED)
        assert "b" in await one.swarm.known("a")
        assert "a" in await one.swarm.known("b")
        began, answers = trio.current_time(), list[SimAnswer]()

        async def ask_once() -> None:
            answers.append(await ask(one.a))

        async with trio.open_nursery() as nursery:
            for _ in range(SLOTS):  # as many as b takes at once: its work outgrows what is thought of the unknown
                nursery.start_soon(ask_once)
        assert {(each.status, each.headers["x-metainf-node"]) for each in answers} == {(200, one.b.peer_id)}
        assert trio.current_time() - began < SLOT + WAY
        await one.swarm.start("d", join=["a"])
        await until(partial(knows, one.swarm, "a", "d"), within=5)


async def knows(swarm: SimSwarm, name: str, other: str) -> bool:
    return other in await swarm.known(name)


async def hold(one: Stranger, protocol: str, first: bytes, opened: Counter[str]) -> None:
    """Open a stream, begin something, and read nothing of what is answered."""
    with suppress(NodeError, RemoteProtocolError):
        async with one.node.open(one.victim, protocol, patience=5) as stream:
            opened[protocol] += 1
            if first:
                await stream.send(first)
            await trio.sleep_forever()


async def poll_without_pause(one: Stranger) -> None:
    while True:
        with suppress(NodeError, RemoteProtocolError):
            async with one.node.open(one.victim, load.PROTOCOL_ID, patience=5) as stream:
                poller = Poller(stream)
                while True:
                    await poller.poll()


async def test_a_thousand_streams_and_a_thousand_polls_a_second_disturb_nobody_and_end_with_their_peer(
    autojump_clock: object,
) -> None:
    words = (b"", say(an_ask(10)), say(an_ask(limits.BODY_BYTES)))
    protocols = (hello.PROTOCOL_ID, inference.PROTOCOL_ID, load.PROTOCOL_ID)
    async with a_pair() as (swarm, a, _):
        place = place_of(swarm, "b")
        assert (await ask(a)).body == WHOLE
        await trio.sleep(SETTLED)
        before, opened = tasks(), Counter[str]()
        async with greeted(swarm.network, place.me, "mallory") as mallory, trio.open_nursery() as nursery:
            for number in range(1000):
                nursery.start_soon(hold, mallory, protocols[number % 3], words[number % 5 % 3], opened)
            for _ in range(40):
                nursery.start_soon(poll_without_pause, mallory)
            for _ in range(10):
                await trio.sleep(1)
                began = trio.current_time()
                assert (await ask(a)).body == WHOLE
                assert trio.current_time() - began < SLOT + WAY
            nursery.cancel_scope.cancel()
        assert sum(opened.values()) == 1000
        await trio.sleep(SETTLED)
        assert tasks() == before
        assert not place.failures
