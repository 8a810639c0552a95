"""Having prompts answered by the swarm, in virtual time on the fake network: retries, endings, and whom it goes to."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from node.core.access import EVERYBODY, Access, PeerList
from node.core.peerbook import Change, Peerbook, What
from node.core.prompt import OWNER, Prompt
from node.core.router import LeastOutstanding
from node.core.standings import Standings
from node.errors import Broken, Refusal, Refused
from node.ports import ServedAnswer
from node.services.ask import SwarmReplica
from node.services.watch_load import LoadWatch
from protocol.advert import ModelOffer
from protocol.hello import Settled
from protocol.ids import ContentDigest, PeerId
from protocol.inference_events import Fail, Refuse
from protocol.limits import PART_BYTES
from protocol.load import Load, Serving
from tests.fakes.network import FakeNetwork, FakeNode, FakeStream, Weather
from tests.fakes.peer_server import Answering, PeerServer
from tests.fakes.replica import FakeReplica
from tests.fakes.upstream import Script
from tests.protocol import samples, swarm_samples

MODEL = "tiny"
WHOLE = b"one two three"
BUSY = Refuse(status=429, type="overloaded", message="full", code="queue_full", retry_after=7)
KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([9, index]) + bytes(30)) for index in range(12)]
PEERS = [PeerId.from_public_key(key.public_key().public_bytes_raw()) for key in KEYS]
ME = PEERS.pop()
TOLD = ((b"content-type", b"text/plain"), (b"x-metainf-model", b"told"), (b"x-metainf-strategy", b"fast"))


def prompt(model: str | None = MODEL, *, via: PeerId | str | None = None, left: float | None = None) -> Prompt:
    return Prompt(
        request_id="r-1",
        method="POST",
        target="/v1/chat/completions?a={b}",
        headers=((b"content-type", b"application/json"), (b"authorization", b"Bearer secret"), (b"x-other", b"1")),
        body=b'{"model": "%s"}' % (model or "").encode(),
        model=model,
        stream=True,
        requester=OWNER,
        deadline=None if left is None else trio.current_time() + left,
        via=None if via is None else str(via),
    )


async def rest_of(answer: ServedAnswer) -> bytes:
    whole = b""
    while piece := await answer.receive():
        whole += piece
    return whole


class Stage:
    """A node that asks, and the peers that it may ask."""

    def __init__(self, network: FakeNetwork, me: FakeNode, servers: list[PeerServer], luck: random.Random) -> None:
        self.network = network
        self.me = me
        self.servers = servers
        self.standings = Standings()
        self.book = Peerbook(me.me)
        self.watch = LoadWatch(streams=me, swarm=me, standings=self.standings)
        self.local = FakeReplica()
        self.own_model: str | None = None
        self.own_digest: ContentDigest | None = None
        self.own_load = Load(running=0, waiting=0, slots=4)
        self.changes: list[Change] = []
        self.luck = luck.random
        self.replica = self.build(Access())

    def build(self, access: Access) -> SwarmReplica:
        return SwarmReplica(
            me=self.me.me,
            local=self.local,
            own_load=lambda: self.own_load,
            own_model=lambda: self.own_model,
            own_digest=lambda: self.own_digest,
            streams=self.me,
            swarm=self.me,
            book=self.book,
            standings=self.standings,
            access=access,
            router=LeastOutstanding(),
            watch=self.watch,
            luck=self.luck,
            on_change=self.changes.extend,
        )

    def introduce(self, index: int, *offers: ModelOffer, connected: bool = True) -> None:
        advert = swarm_samples.advert(
            KEYS[index], models=offers or (ModelOffer(name=MODEL),), expiry=samples.NOW + 10**10
        )
        now = trio.current_time()
        self.book.hear(advert, via=None, now=now, now_us=samples.NOW)
        if connected:
            settled = Settled(
                peer=PEERS[index],
                incarnation=advert.body.stamp.epoch,
                software="metainf/0.1.0",
                versions={"infer": 1},
                features=frozenset(),
                skew_us=0,
            )
            self.book.connected(settled, dialled=True, now=now)

    def seems(self, index: int, running: int) -> None:
        """Have a reading that makes the peer the better choice, the fewer prompts it runs."""
        self.standings.read(PEERS[index], Load(running=running, waiting=0, slots=64), trio.current_time())

    def in_flight(self) -> int:
        now = trio.current_time()
        return sum(self.standings.standing(peer, now).in_flight for peer in (ME, *PEERS))

    async def ask(self, one: Prompt | None = None) -> bytes:
        async with self.replica.answer(one or prompt()) as answer:
            return await rest_of(answer)


async def live(
    network: FakeNetwork, peer: PeerId, task_status: trio.TaskStatus[FakeNode] = trio.TASK_STATUS_IGNORED
) -> None:
    """Be a node of the network in a task of its own, which alone ends when the node is killed."""
    async with network.node(peer) as node:
        task_status.started(node)
        await trio.sleep_forever()


@asynccontextmanager
async def stage(
    peers: int = 2, *, seed: int = 1, connect: bool = True, weather: Weather | None = None
) -> AsyncIterator[Stage]:
    network = FakeNetwork(weather or Weather(latency=0.02))
    async with network.node(ME) as me, trio.open_nursery() as nursery:
        nodes = [await nursery.start(live, network, PEERS[index]) for index in range(peers)]
        built = Stage(network, me, [PeerServer(node) for node in nodes], random.Random(seed))  # noqa: S311 -- a test
        for index, node in enumerate(nodes):
            me.learn(node.me, node.addresses())
            if connect:
                await me.connect(node.me)
            built.introduce(index, connected=connect)
        nursery.start_soon(built.watch.run)
        yield built
        assert built.in_flight() == 0
        nursery.cancel_scope.cancel()


async def test_a_peers_answer_comes_whole_in_order_and_says_who_gave_it(autojump_clock: MockClock) -> None:
    async with stage(1) as it:
        it.servers[0].how = Answering(headers=TOLD, status=201)
        async with it.replica.answer(prompt(left=60.0)) as answer:
            pieces = []
            while piece := await answer.receive():
                pieces.append(piece)
            assert await answer.receive() == b""
        assert (answer.status, pieces) == (201, [b"one two three"])  # no stream: it goes on as whole as it was given
        assert answer.headers == ((b"content-type", b"text/plain"), (b"content-length", b"13"))
        served = answer.served
        assert (served.node, served.attempts, served.model, served.strategy) == (str(PEERS[0]), 1, "told", "fast")
        assert served.reason == "least_work"
        ask = it.servers[0].asked[0]
        assert (ask.target, ask.request_id, ask.attempt) == ("/v1/chat/completions?a=%7Bb%7D", "r-1", 1)
        assert ask.headers == ((b"content-type", b"application/json"),)
        assert ask.time_left_us is not None
        assert 55_000_000 < ask.time_left_us <= 60_000_000
        assert it.servers[0].bodies == [b'{"model": "tiny"}']
        counts = it.replica.counts()
        assert (counts.served, counts.running, counts.retried) == (1, 0, 0)


async def test_a_stream_serves_one_prompt_after_another_and_a_dead_one_is_replaced_unnoticed(
    autojump_clock: MockClock,
) -> None:
    async with stage(1) as it:
        assert [await it.ask(), await it.ask()] == [WHOLE, WHOLE]
        assert it.servers[0].streams == 1
        # The peer lets go of its idle streams, and our end does not know it yet.
        for stream in it.me.streams[PEERS[0]]:
            stream.sending.break_at(trio.current_time() + 0.01, "reset")
            stream.receiving.break_at(trio.current_time() + 0.01, "reset")
        assert await it.ask() == WHOLE
        assert it.servers[0].streams == 2
        assert it.replica.counts().retried == 0
        assert it.standings.standing(PEERS[0], trio.current_time()).closed == ""
        assert it.standings.helpers() == (PEERS[0],)


async def test_a_prompt_goes_in_one_write_and_a_long_one_in_parts(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, writes = FakeStream.send, list[int]()

    async def noted(stream: FakeStream, *payloads: bytes) -> None:
        if stream.peer == PEERS[0] and b"poll" not in payloads[0]:
            writes.append(len(payloads))
        await send(stream, *payloads)

    monkeypatch.setattr(FakeStream, "send", noted)
    async with stage(1) as it:
        for size, expected in ((0, [1]), (1, [2]), (PART_BYTES, [2]), (2 * PART_BYTES + 1, [2, 1, 1])):
            body = bytes(number % 251 for number in range(size))
            assert await it.ask(replace(prompt(), body=body)) == WHOLE
            assert it.servers[0].bodies[-1] == body
            assert writes == expected
            writes.clear()


def kill(it: Stage) -> None:
    it.network.kill(PEERS[0])


def cut(it: Stage) -> None:
    it.network.cut(ME, PEERS[0])


def refuse(it: Stage) -> None:
    it.servers[0].how = Answering(refuse=BUSY)


def fail(it: Stage) -> None:
    it.servers[0].how = Answering(pieces=[Fail(code="engine_lost", message="gone")])


def fail_after_the_head(it: Stage) -> None:
    it.servers[0].how = Answering(pieces=[b"", Fail(code="engine_lost", message="gone")])


def babble(it: Stage) -> None:
    it.servers[0].how = Answering(raw=b"\x93garbage")


def hang(it: Stage) -> None:
    it.servers[0].how = Answering(pieces=[trio.sleep_forever])
    it.servers[0].tells = False


@pytest.mark.parametrize(
    ("trouble", "within"),
    [(kill, 1.0), (cut, 12.0), (refuse, 1.0), (fail, 1.0), (fail_after_the_head, 1.0), (babble, 1.0), (hang, 8.0)],
)
@pytest.mark.parametrize("late", [False, True])
async def test_before_the_first_byte_trouble_leads_to_the_next_choice(
    autojump_clock: MockClock, trouble: Callable[[Stage], None], within: float, late: bool
) -> None:
    """`late`: once the prompt is on its way, over a stream that was used before."""
    async with stage(2) as it, trio.open_nursery() as nursery:
        if late:
            it.seems(1, 40)
            assert await it.ask() == WHOLE
        it.seems(0, 0)
        it.seems(1, 30)

        async def in_a_moment() -> None:
            await trio.sleep(0.05 if late else 0)
            trouble(it)

        nursery.start_soon(in_a_moment)
        await trio.sleep(0 if late else 0.01)
        began = trio.current_time()
        async with it.replica.answer(prompt()) as answer:
            assert answer.served.node == str(PEERS[1]) or late
            assert await answer.receive() == b"one "
        assert trio.current_time() - began < within
        assert answer.served.attempts <= 2
        assert it.replica.counts().retried == answer.served.attempts - 1


async def test_a_broken_answer_is_told_within_two_seconds_and_never_begun_anew(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        it.seems(0, 0)
        it.seems(1, 30)
        async with it.replica.answer(prompt()) as answer:
            assert await answer.receive() == b"one "
            began = trio.current_time()
            it.network.kill(PEERS[0])
            with pytest.raises(Broken):
                await rest_of(answer)
            assert trio.current_time() - began < 2.0
        assert it.servers[1].asked == []
        assert it.replica.counts().failed == 1
        assert it.standings.standing(PEERS[0], trio.current_time()).closed == "failed"
        assert it.standings.helpers() == ()


async def test_many_prompts_that_die_with_a_peer_are_one_fault(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        it.servers[0].how = Answering(prefill=5.0)
        for _ in range(3):
            it.seems(0, 0)
            it.seems(1, 60)
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(it.ask)
            await trio.sleep(1)
            assert it.servers[0].running == 10
            it.network.kill(PEERS[0])
            await trio.sleep(0.5)
            standing = it.standings.standing(PEERS[0], trio.current_time())
            assert standing.closed == "failed"
            assert standing.closed_until - trio.current_time() <= 5.0
        assert it.servers[1].whole == 10


async def test_a_long_prefill_is_no_hang(autojump_clock: MockClock) -> None:
    async with stage(1) as it:
        it.servers[0].how = Answering(prefill=120.0)
        assert await it.ask() == WHOLE
        assert 20 < it.servers[0].polls < 80


async def test_a_peer_that_falls_silent_mid_stream_breaks_the_answer(autojump_clock: MockClock) -> None:
    async with stage(1) as it:
        it.servers[0].how = Answering(pieces=[b"one ", trio.sleep_forever])
        it.servers[0].tells = False
        async with it.replica.answer(prompt()) as answer:
            began = trio.current_time()
            with pytest.raises(Broken, match="silent"):
                await rest_of(answer)
            assert trio.current_time() - began < 8.0
        assert it.standings.standing(PEERS[0], trio.current_time()).closed == "hung"


async def test_only_prompts_that_somebody_generates_for_count_as_wanting_an_engine(autojump_clock: MockClock) -> None:
    async with stage(1) as it:
        async with it.replica.answer(prompt()):
            assert (it.replica.generating_running(), it.replica.generating_seen()) == (1, 1)
        async with it.replica.answer(replace(prompt(), method="POST", target="/tokenize")):
            assert (it.replica.counts().running, it.replica.generating_running()) == (1, 0)
        assert (it.replica.generating_running(), it.replica.generating_seen()) == (0, 1)


async def test_a_hung_peer_does_not_delay_the_others(autojump_clock: MockClock) -> None:
    async with stage(2) as it, trio.open_nursery() as nursery:
        hang(it)
        it.seems(0, 0)
        it.seems(1, 60)
        for _ in range(8):
            nursery.start_soon(it.ask)
        await trio.sleep(0.1)
        began = trio.current_time()
        assert await it.ask(prompt(via=PEERS[1])) == WHOLE
        assert trio.current_time() - began < 0.6


async def test_the_prompts_own_time_bounds_everything(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        for server in it.servers:
            server.how = Answering(prefill=100.0)
        began = trio.current_time()
        with pytest.raises(Broken):
            await it.ask(prompt(left=10.0))
        assert trio.current_time() - began == pytest.approx(10.0)
        for server in it.servers:
            server.how = Answering(pieces=[b"x"] * 1000, gap=0.5)
        with pytest.raises(Broken):
            await it.ask(prompt(left=10.0))
        assert all(it.standings.standing(peer, trio.current_time()).closed == "" for peer in PEERS)


@pytest.mark.parametrize("when", [0.05, 0.3, 1.0])
async def test_a_client_that_leaves_ends_the_work_at_the_peer(autojump_clock: MockClock, when: float) -> None:
    async with stage(1) as it:
        it.servers[0].how = Answering(pieces=[b"x"] * 1000, prefill=0.5)
        with trio.move_on_after(when):
            await it.ask()
        await trio.sleep(0.5)
        assert it.servers[0].running == 0
        assert it.servers[0].left_early == len(it.servers[0].asked)
        assert it.replica.counts().abandoned == 1
        assert it.replica.counts().running == 0


async def test_many_prompts_are_spread_over_those_that_serve(autojump_clock: MockClock) -> None:
    async with stage(2) as it, trio.open_nursery() as nursery:
        for server in it.servers:
            server.how = Answering(prefill=2.0)
        for _ in range(64):
            nursery.start_soon(it.ask)
        await trio.sleep(1.9)
        assert sum(server.running for server in it.servers) == 64
        assert min(server.running for server in it.servers) >= 24


async def test_what_answers_say_of_the_load_is_noted_without_ours_and_the_others_are_asked(
    autojump_clock: MockClock,
) -> None:
    async with stage(2) as it:
        for server in it.servers:
            server.others = 5
        async with it.replica.answer(prompt()) as answer:
            first = PEERS.index(PeerId.from_string(answer.served.node))
            assert it.standings.standing(PEERS[first], trio.current_time()).work == 6
            await rest_of(answer)
        assert it.standings.standing(PEERS[first], trio.current_time()).work == 5
        it.servers[first].how = Answering(refuse=BUSY)
        with pytest.raises(Refused):
            await it.ask(prompt(via=PEERS[first]))
        assert it.standings.standing(PEERS[first], trio.current_time()).work == 5
        await trio.sleep(1)
        assert it.standings.standing(PEERS[1 - first], trio.current_time()).fresh  # it was wanted: its load was asked


async def test_the_most_helpful_refusal_is_told(autojump_clock: MockClock) -> None:
    async with stage(3) as it:
        no = Refuse(status=403, type="permission_denied", message="no", code="not_served")
        odd = Refuse(status=401, type="invalid_api_key", message="forged", retry_after=5000)
        for server, refusal in zip(it.servers, (no, BUSY, odd), strict=True):
            server.how = Answering(refuse=refusal)
        with pytest.raises(Refused) as caught:
            await it.ask()
        assert (caught.value.refusal.status, caught.value.refusal.retry_after) == (429, 7)
        with pytest.raises(Refused) as caught:
            await it.ask(prompt(via=PEERS[2]))
        assert (caught.value.refusal.status, caught.value.refusal.type) == (503, "engine_unavailable")
        assert caught.value.refusal.retry_after == 60
        with pytest.raises(Refused) as caught:
            await it.ask()  # all of them are barred for a while
        assert caught.value.refusal.status == 429
        assert caught.value.refusal.retry_after is not None
        assert it.replica.counts().refused == 3


async def test_a_prompt_that_breaks_engines_is_not_taken_to_all_of_them(autojump_clock: MockClock) -> None:
    async with stage(6) as it:
        for server in it.servers:
            server.how = Answering(pieces=[Fail(code="engine_lost", message="gone")])
        with pytest.raises(Broken, match="gone"):
            await it.ask()
        assert sum(len(server.asked) for server in it.servers) == 3


async def test_the_own_engine_is_first_while_it_is_free_and_last_resort_otherwise(autojump_clock: MockClock) -> None:
    async with stage(1) as it:
        it.own_model = MODEL
        async with it.replica.answer(prompt()) as answer:
            assert (answer.served.node, answer.served.reason) == ("node-under-test", "local")
            assert await answer.receive() == b"{}"
        it.own_load = Load(running=4, waiting=9, slots=4)
        assert await it.ask() == WHOLE
        it.own_load = Load(running=0, waiting=0, slots=4)
        it.local.upstream.answer_with = lambda _: Script([Broken("the engine died")])
        async with it.replica.answer(prompt()) as answer:
            assert (answer.served.node, answer.served.attempts) == (str(PEERS[0]), 2)
        it.own_load = Load(running=0, waiting=0, serving=Serving.LOADING)
        assert await it.ask() == WHOLE
        it.network.kill(PEERS[0])
        loading = Refusal(status=503, type="model_loading", message="soon", retry_after=5)
        it.local.refuse_with = Refused(loading)
        it.book.disconnected(PEERS[0], trio.current_time())
        with pytest.raises(Refused) as caught:
            await it.ask()
        assert caught.value.refusal == loading


async def test_a_client_may_name_the_node_that_answers(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        it.seems(0, 0)
        it.seems(1, 60)
        async with it.replica.answer(prompt(via=PEERS[1])) as answer:
            assert (answer.served.node, answer.served.reason) == (str(PEERS[1]), "via")
        async with it.replica.answer(prompt(via=ME)) as answer:
            assert answer.served.node == "node-under-test"
        for unknown in (PEERS[7], "somebody"):
            with pytest.raises(Refused) as caught:
                await it.ask(prompt(via=unknown))
            assert (caught.value.refusal.status, caught.value.refusal.code) == (404, "unknown_peer")
        it.replica = it.build(Access(ask=PeerList(peers=frozenset({PEERS[0]}))))
        with pytest.raises(Refused) as caught:
            await it.ask(prompt(via=PEERS[1]))
        assert caught.value.refusal.status == 403


async def test_prompts_go_to_nobody_who_must_not_see_them(autojump_clock: MockClock) -> None:
    async with stage(3) as it:
        it.replica = it.build(Access(ask=replace(EVERYBODY, but=frozenset({PEERS[0], PEERS[1]}))))
        for _ in range(5):
            assert await it.ask() == WHOLE
        assert [len(server.asked) for server in it.servers] == [0, 0, 5]
        it.replica = it.build(Access(ask=PeerList()))
        with pytest.raises(Refused) as caught:
            await it.ask()
        assert (caught.value.refusal.status, caught.value.refusal.code) == (403, "not_asked")
        assert not it.replica.serves()


async def test_a_model_that_nobody_serves_is_unknown_in_the_engines_words(autojump_clock: MockClock) -> None:
    async with stage(1) as it:
        for model in ("nobody", "no such name"):
            it.own_model = None
            if model == "nobody":
                with pytest.raises(Refused) as caught:
                    await it.ask(prompt(model))
                refusal = caught.value.refusal
                assert (refusal.status, refusal.type, refusal.param) == (404, "NotFoundError", "model")
                assert refusal.message == "The model `nobody` does not exist. Valid aliases: tiny."
            else:
                assert await it.ask(prompt(model)) == WHOLE  # any engine says what is wrong with it
            it.own_model = "ours"
            assert await it.ask(prompt(model)) == b"{}"  # ours may know an alias, else it says no itself
        assert it.servers[0].whole == 1
        it.own_model = None
        assert await it.ask(prompt(None)) == WHOLE


async def test_whoever_stored_an_answer_is_asked_for_it_and_nobody_else(autojump_clock: MockClock) -> None:
    async with stage(3) as it:
        for number, server in enumerate(it.servers):
            body = b'{"id":"resp_%d","output":[]}' % number
            server.how = Answering(pieces=(body,), headers=((b"content-type", b"application/json"),))
        create = replace(prompt(), target="/v1/responses")
        first = await it.ask(create)
        keeper = int(chr(first[len(b'{"id":"resp_')]))
        for _ in range(6):
            read = replace(create, method="GET", target=f"/v1/responses/resp_{keeper}", body=b"", model=None)
            assert await it.ask(read) == first
            onwards = replace(create, body=b'{"model": "tiny", "previous_response_id": "resp_%d"}' % keeper)
            assert await it.ask(onwards) == first
        with pytest.raises(Refused) as caught:
            await it.ask(replace(create, method="GET", target="/v1/responses/resp_77", body=b"", model=None))
        assert caught.value.refusal.status == 404


async def test_a_pinned_model_goes_to_who_serves_that_content_under_its_plain_name(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        pin = ContentDigest(bytes(range(32)))
        it.introduce(2, ModelOffer(name=MODEL, digest=pin), connected=False)
        it.own_model = MODEL
        async with it.network.node(PEERS[2]) as node:
            pinned = PeerServer(node)
            it.me.learn(node.me, node.addresses())
            assert await it.ask(prompt(f"{MODEL}@{pin}")) == WHOLE
            assert pinned.bodies == [b'{"model": "tiny"}']


async def test_a_pin_of_this_node_s_content_is_answered_here_under_the_plain_name(autojump_clock: MockClock) -> None:
    async with stage(0) as it:
        it.own_model, it.own_digest = MODEL, ContentDigest(bytes(range(32)))
        other = prompt(f"{MODEL}@{ContentDigest(bytes(32))}")
        await it.ask(prompt(f"{MODEL}@{it.own_digest}"))
        await it.ask(other)  # which the engine refuses in its own words: it serves nothing of that name
        assert [sent.body for sent in it.local.prompts] == [b'{"model": "tiny"}', other.body]


async def test_a_peer_that_cannot_be_reached_is_set_aside(autojump_clock: MockClock) -> None:
    async with stage(2, connect=False) as it:
        it.network.kill(PEERS[0])
        it.seems(0, 0)
        it.seems(1, 60)
        assert await it.ask() == WHOLE
        assert it.changes == [Change(PEERS[0], What.LOST)]
        it.network.kill(PEERS[1])
        with pytest.raises((Refused, Broken)):
            await it.ask()


TROUBLES = st.sampled_from([kill, cut, refuse, fail, fail_after_the_head, babble, hang])


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1000),
    troubles=st.lists(st.tuples(st.floats(0.0, 6.0), TROUBLES), max_size=3),
    leaves=st.lists(st.floats(0.1, 20.0), min_size=1, max_size=6),
)
def test_whatever_goes_wrong_every_prompt_ends_and_nothing_stays_in_flight(
    seed: int, troubles: list[tuple[float, Callable[[Stage], None]]], leaves: list[float]
) -> None:
    async def main() -> None:
        async with stage(3, seed=seed) as it:

            async def trouble(when: float, what: Callable[[Stage], None]) -> None:
                await trio.sleep(when)
                what(it)

            async def client(number: int, patience: float) -> None:
                await trio.sleep(number * 0.7)
                with trio.move_on_after(patience):
                    try:
                        assert await it.ask(prompt(left=30.0)) == WHOLE
                    except (Refused, Broken):
                        return

            async with trio.open_nursery() as nursery:
                for when, what in troubles:
                    nursery.start_soon(trouble, when, what)
                for number, patience in enumerate(leaves * 4):
                    nursery.start_soon(client, number, patience)
            counts = it.replica.counts()
            assert counts.running == 0
            assert counts.served + counts.failed + counts.refused + counts.abandoned == len(leaves) * 4

    trio.run(main, clock=MockClock(autojump_threshold=0))
