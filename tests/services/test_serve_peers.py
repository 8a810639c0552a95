"""Answering peers on the fake network, in virtual time: a raw asker at one end, the local replica behind the other."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from trio.testing import MockClock, wait_all_tasks_blocked

from node.core.access import NOBODY, Access
from node.core.admission import Admission, AdmissionLimits
from node.core.engine_state import EngineState
from node.core.quota import QuotaLimits
from node.errors import Broken
from node.ports import PeerStream
from node.services.outgoing import Pacing
from node.services.serve import LocalReplica
from node.services.serve_peers import PeerLimits, PeerServer
from protocol import dialogue, inference, load
from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId
from protocol.inference import Exchange
from protocol.inference_events import Ask, Body, Cancel, Cancelled, Data, End, Event, Fail, Head, Refuse
from tests.fakes.engine_board import FakeEngineBoard
from tests.fakes.network import WINDOW, FakeNetwork, FakeNode, Weather
from tests.fakes.upstream import EVENTS, FakeUpstream, Script

LATENCY = 0.02
PROMPT = b'{"model": "tiny", "stream": true}'
BIG = PeerLimits().body_bytes


def peer_number(number: int) -> PeerId:
    key = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
    return PeerId.from_public_key(key.public_key().public_bytes_raw())


US, THEM = peer_number(1), peer_number(2)


def an_ask(size: int = len(PROMPT), **other: object) -> Ask:
    fields: dict[str, object] = {
        "request_id": "r-1",
        "method": "POST",
        "target": "/v1/completions",
        "headers": ((b"content-type", b"application/json"), (b"x-request-id", b"another")),
        "body_size": size,
        "attempt": 1,
    }
    return Ask(**(fields | other))  # type: ignore[arg-type]


class Asker:
    """One stream as its asker sees it."""

    def __init__(self, stream: PeerStream) -> None:
        self.stream = stream
        self.exchange = Exchange(inference.Role.ASKER)

    async def say(self, *events: Event) -> None:
        for event in events:
            await self.stream.send(self.exchange.say(event))

    async def hear(self) -> Event:
        payload = await self.stream.receive()
        assert payload is not None
        return self.exchange.hear(payload)

    async def rest(self) -> list[Event]:
        """Hear until the exchange is over."""
        heard: list[Event] = []
        while not self.exchange.is_free:
            heard.append(await self.hear())
        return heard

    async def ask(self, body: bytes = PROMPT, **other: object) -> list[Event]:
        await self.say(an_ask(len(body), **other), *([Body(data=body)] if body else []))
        return await self.rest()


class Stage:
    """A node that serves, and one that asks."""

    def __init__(
        self,
        script: Script | None = None,
        *,
        limits: PeerLimits | None = None,
        access: Access | None = None,
        admission: AdmissionLimits | None = None,
        greeted: bool = True,
    ) -> None:
        self.board = FakeEngineBoard()
        self.upstream = FakeUpstream(script or Script([b"answer"]))
        self.admission = Admission(admission or AdmissionLimits(running=4, waiting=4, longest_wait=10.0))
        self.engine = LocalReplica(node=str(US), board=self.board, upstream=self.upstream, admission=self.admission)
        self.offences: list[str] = []
        self.greeted = greeted
        self.server = PeerServer(
            engine=self.engine,
            access=access or Access(),
            met=self.met,
            offence=self.offences.append,
            limits=limits or PeerLimits(),
        )
        self.network = FakeNetwork(Weather(latency=LATENCY))

    async def met(self, peer: PeerId) -> bool:
        await trio.sleep(0 if self.greeted else 5)
        return self.greeted

    @asynccontextmanager
    async def nodes(self) -> AsyncIterator[tuple[FakeNode, FakeNode]]:
        async with self.network.node(US) as us, self.network.node(THEM) as them:
            us.serve(inference.PROTOCOL_ID, self.server.infer)
            us.serve(load.PROTOCOL_ID, self.server.load, frame_bytes=load.SCRIPT.limit)
            them.learn(US, us.addresses())
            yield us, them
            await wait_all_tasks_blocked()
            assert not us.failures

    @asynccontextmanager
    async def asker(self) -> AsyncIterator[Asker]:
        async with self.nodes() as (_, them), them.open(US, inference.PROTOCOL_ID, patience=5) as stream:
            yield Asker(stream)

    def assert_idle(self) -> None:
        assert (self.admission.running, self.admission.waiting, self.upstream.at_work) == (0, 0, 0)
        assert self.server.counts().running == 0


async def drain(stream: PeerStream) -> None:
    while await stream.receive() is not None:
        pass


def bodies(events: Sequence[Event]) -> list[bytes]:
    return [event.data for event in events if isinstance(event, Data)]


async def test_a_prompt_is_answered_whole_and_the_next_one_on_the_same_stream(autojump_clock: MockClock) -> None:
    headers = (*EVENTS, (b"set-cookie", b"secret"), (b"x-metainf-model", b"a lie"), (b"server", b"uvicorn"))
    stage = Stage(Script([b"one", b"two"], headers=headers))
    async with stage.asker() as asker:
        for _ in range(2):
            head, *middle, end = await asker.ask()
            assert isinstance(head, Head)
            assert dict(head.headers) == {
                b"content-type": EVENTS[0][1],
                b"x-metainf-model": b"tiny",
                b"x-metainf-strategy": b"default",
                b"x-request-id": b"r-1",
            }
            assert head.load is not None
            assert head.load["running"] == 1
            assert b"".join(bodies(middle)) == b"onetwo"
            assert isinstance(end, End)
            assert end.load is not None
            assert (end.data_size, end.load["running"], end.load["accepting"]) == (6, 0, 1)
    sent = stage.upstream.requests[0]
    assert (sent.method, sent.target, sent.body) == ("POST", "/v1/completions", PROMPT)
    assert sent.headers == ((b"content-type", b"application/json"), (b"x-request-id", b"r-1"))
    counts = stage.server.counts()
    assert (counts.served, counts.prompt_bytes, counts.answer_bytes) == (2, 2 * len(PROMPT), 12)
    stage.assert_idle()


async def test_pieces_shortly_upon_a_message_are_joined_and_those_after_a_pause_go_at_once(
    autojump_clock: MockClock,
) -> None:
    script = Script([b"0"], headers=EVENTS)
    for number in range(1, 10):
        script.pieces += [partial(trio.sleep, 0.012), b"%d" % number]
    script.pieces += [partial(trio.sleep, 1.0), b"late", partial(trio.sleep, 0.005), b"end"]
    stage = Stage(script)
    async with stage.asker() as asker:
        await asker.say(an_ask(), Body(data=PROMPT))
        times: dict[bytes, float] = {}
        while not asker.exchange.is_free:
            event = await asker.hear()
            if isinstance(event, Data):
                times[event.data] = trio.current_time()
    assert list(times) == [b"0", b"12", b"34", b"56", b"78", b"9", b"late", b"end"]
    began = times[b"0"]
    assert [round(when - began, 3) for when in times.values()] == [0, 0.025, 0.05, 0.075, 0.1, 0.125, 1.108, 1.113]


async def test_what_is_much_goes_without_delay_in_parts_that_the_wire_allows(autojump_clock: MockClock) -> None:
    stage = Stage(Script([b"x" * 3_000_000, *[b"y" * 16_000] * 100, b"z"]))
    stage.network.weather = Weather(latency=1e-6)
    async with stage.asker() as asker:
        began = trio.current_time()
        events = await asker.ask()
        assert trio.current_time() - began < 0.05
    assert len(b"".join(bodies(events))) == 4_600_001
    assert isinstance(events[-1], End)


REFUSALS: dict[str, tuple[Callable[[], Stage], dict[str, object], bytes, tuple[int, str | None]]] = {
    "a stranger that has not greeted": (lambda: Stage(greeted=False), {}, PROMPT, (403, "not_greeted")),
    "a peer that is not served": (lambda: Stage(access=Access(serve=NOBODY)), {}, PROMPT, (403, "not_served")),
    "a path of the engine's own": (Stage, {"target": "/v1/load_lora_adapter"}, PROMPT, (404, "not_found")),
    "a method that is none of the path's": (Stage, {"method": "GET"}, b"", (404, "not_found")),
    "media from elsewhere": (Stage, {}, b'{"image_url": "http://10.0.0.1/"}', (400, "remote_media_refused")),
    "more than one prompt may have": (
        lambda: Stage(limits=PeerLimits(body_bytes=10)), {}, PROMPT, (413, "request_too_large"),
    ),
    "more than all may have": (lambda: Stage(limits=PeerLimits(bodies_bytes=10)), {}, PROMPT, (429, "bodies_full")),
    "more than its share": (
        lambda: Stage(access=Access(each=QuotaLimits(requests_per_minute=0))), {}, PROMPT, (429, "rate_limit_exceeded"),
    ),
    "no place in the queue": (
        lambda: Stage(admission=AdmissionLimits(running=0, waiting=0)), {}, PROMPT, (429, "queue_full"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
async def test_what_is_not_taken_is_refused_with_its_reason_and_reaches_no_engine(
    autojump_clock: MockClock, case: str
) -> None:
    build, ask, body, expected = REFUSALS[case]
    stage = build()
    async with stage.asker() as asker:
        await asker.say(an_ask(len(body), **ask), *([Body(data=body)] if body else []))
        refuse = await asker.hear()
        assert isinstance(refuse, Refuse)
        assert (refuse.status, refuse.code) == expected
        assert refuse.load is not None
        accepting = 0 if refuse.code in {"not_served", "rate_limit_exceeded", "queue_full"} else 1
        assert refuse.load["accepting"] == accepting
    assert not stage.upstream.requests
    assert stage.server.counts().refused == 1
    stage.assert_idle()


async def test_a_body_that_is_refused_early_is_dropped_and_the_stream_goes_on(autojump_clock: MockClock) -> None:
    stage = Stage(limits=PeerLimits(body_bytes=1000))
    async with stage.asker() as asker:
        await asker.say(an_ask(3000), Body(data=b"x" * 1000))
        assert isinstance(await asker.hear(), Refuse)
        await asker.say(Cancel())
        assert [type(event) for event in await asker.rest()] == [Cancelled]
        assert isinstance((await asker.ask())[-1], End)


@pytest.mark.parametrize("way", ["cancel", "reset", "finish"])
@pytest.mark.parametrize("place", ["body", "queue", "prefill", "stream"])
async def test_a_peer_that_leaves_is_felt_at_once_wherever_its_prompt_is(
    autojump_clock: MockClock, place: str, way: str
) -> None:
    head = trio.sleep_forever if place == "prefill" else None
    slots = 0 if place == "queue" else 1
    stage = Stage(
        Script([b"x", trio.sleep_forever], head=head), admission=AdmissionLimits(running=slots, longest_wait=1e6)
    )
    async with stage.nodes() as (_, them):
        async with them.open(US, inference.PROTOCOL_ID, patience=5) as stream:
            asker = Asker(stream)
            await asker.say(an_ask(), Body(data=PROMPT if place != "body" else PROMPT[:5]))
            await trio.sleep(1)
            assert stage.server.counts().running == 1
            assert (stage.admission.waiting, stage.upstream.at_work) == (
                int(place == "queue"),
                int(place in {"prefill", "stream"}),
            )
            if way == "cancel":
                began = trio.current_time()
                await asker.say(Cancel())
                assert [type(each) for each in await asker.rest() if not isinstance(each, Head | Data)] == [Cancelled]
                assert trio.current_time() - began == pytest.approx(2 * LATENCY)
            elif way == "finish":
                await stream.finish()
                with pytest.raises(Broken):  # no orderly end: something was still to be said
                    await drain(stream)
        await trio.sleep(2 * LATENCY)
        stage.assert_idle()
    assert stage.server.counts().abandoned == 1


async def test_a_cancel_that_crosses_the_end_is_acknowledged_once_and_the_next_prompt_is_whole(
    autojump_clock: MockClock,
) -> None:
    stage = Stage(Script([b"x"]))
    async with stage.asker() as asker:
        for delay in (0.0, LATENCY / 2, LATENCY, 1.5 * LATENCY):
            await asker.say(an_ask(), Body(data=PROMPT))
            await trio.sleep(delay)
            await asker.say(Cancel())
            assert [type(event) for event in await asker.rest()].count(Cancelled) == 1
            assert isinstance((await asker.ask())[-1], End)
    stage.assert_idle()


@pytest.mark.parametrize(
    ("script", "time_left_us", "heard", "code"),
    [
        (Script([], no_head=Broken("gone")), None, [Fail], "engine_lost"),
        (Script([b"x", Broken("gone")]), None, [Head, Data, Fail], "engine_lost"),
        (Script([b"x"], status=999), None, [Fail], "engine_lost"),
        (Script([b"x" * 50, b"x" * 51]), None, [Head, Data, Fail], "answer_too_large"),
        (Script([b"x", trio.sleep_forever]), 3_000_000, [Head, Data, Fail], "deadline"),
        (Script([b"x", trio.sleep_forever]), None, [Head, Data, Fail], "deadline"),
    ],
)
async def test_an_answer_that_will_not_come_whole_fails_in_order(
    autojump_clock: MockClock, script: Script, time_left_us: int | None, heard: list[type[Event]], code: str
) -> None:
    stage = Stage(script, limits=PeerLimits(answer_bytes=100, answer_seconds=10))
    async with stage.asker() as asker:
        began = trio.current_time()
        events = await asker.ask(time_left_us=time_left_us)
        assert [type(event) for event in events] == heard
        fail = events[-1]
        assert isinstance(fail, Fail)
        assert fail.code == code
        assert trio.current_time() - began < (4 if time_left_us else 11)
    assert stage.server.counts().failed == 1
    stage.assert_idle()


async def test_the_engines_absence_is_told_in_its_own_words(autojump_clock: MockClock) -> None:
    stage = Stage()
    stage.board.show_state(EngineState.STARTING)
    async with stage.asker() as asker:
        (refuse,) = await asker.ask()
        assert isinstance(refuse, Refuse)
        assert (refuse.status, refuse.type) == (503, "model_loading")
        assert refuse.load is not None
        assert refuse.load["state"] == load.Serving.LOADING


@pytest.mark.parametrize(("pause", "given_up"), [(100.0, 30.0), (29.0, 31.0)])
async def test_a_body_that_does_not_come_or_only_trickles_is_given_up(
    autojump_clock: MockClock, pause: float, given_up: float
) -> None:
    stage = Stage()
    async with stage.asker() as asker:
        began = trio.current_time()
        await asker.say(an_ask(64 * 1024))
        heard: Event | None = None
        while heard is None:
            await asker.say(Body(data=b"x"))
            with trio.move_on_after(pause):
                heard = await asker.hear()
        assert isinstance(heard, Refuse)
        assert heard.status == 408
        assert trio.current_time() - began == pytest.approx(given_up, abs=0.2)
        with pytest.raises(Broken), trio.fail_after(31):  # nor does a peer that says nothing more keep the stream
            await asker.hear()
    stage.assert_idle()


async def test_bodies_are_held_within_bounds_and_given_back(autojump_clock: MockClock) -> None:
    stage = Stage(Script([trio.sleep_forever]), limits=PeerLimits(bodies_bytes=250, peer_bodies_bytes=250))
    body = b" " * 100
    async with stage.nodes() as (_, them), trio.open_nursery() as nursery:
        ends: list[Event] = []

        async def one() -> None:
            async with them.open(US, inference.PROTOCOL_ID, patience=5) as stream:
                ends.extend(await Asker(stream).ask(body))

        for _ in range(3):
            nursery.start_soon(one)
            await trio.sleep(1)
        assert [end.code for end in ends if isinstance(end, Refuse)] == ["bodies_full"]
        nursery.cancel_scope.cancel()
    async with stage.asker() as asker:
        stage.upstream.answer_with = lambda _: Script([b"x"])
        assert isinstance((await asker.ask(b" " * 250))[-1], End)


async def test_a_peer_that_does_not_read_stops_the_engine_and_may_still_cancel(autojump_clock: MockClock) -> None:
    pulled = 0

    async def note() -> None:
        nonlocal pulled
        pulled += 1

    piece = b"x" * 16 * 1024
    stage = Stage(Script([note, piece] * 1000))
    async with stage.asker() as asker:
        await asker.say(an_ask(), Body(data=PROMPT))
        await trio.sleep(10)
        assert pulled * len(piece) <= WINDOW + 2 * Pacing().most + 2 * len(piece)
        await asker.say(Cancel())
        await trio.sleep(2 * LATENCY)
        assert stage.upstream.at_work == 0
        assert isinstance((await asker.rest())[-1], Cancelled)
        stage.upstream.answer_with = lambda _: Script([b"x"])
        assert isinstance((await asker.ask())[-1], End)


async def test_a_peers_share_is_free_again_when_it_hears_the_end_and_refusals_cost_no_tokens(
    autojump_clock: MockClock,
) -> None:
    stage = Stage(access=Access(each=QuotaLimits(concurrent=1, tokens_per_minute=100)))
    async with stage.asker() as asker:
        stage.board.show_state(EngineState.FAILED)
        assert isinstance((await asker.ask(b" " * 4000))[-1], Refuse)
        stage.board.show_state(EngineState.READY)
        assert [isinstance((await asker.ask())[-1], End) for _ in range(4)] == [True] * 4
        usage = b'data: {"usage": {"total_tokens": 1000}}\n\n'
        stage.upstream.answer_with = lambda _: Script([usage])
        assert isinstance((await asker.ask())[-1], End)
        last = (await asker.ask())[-1]
        assert isinstance(last, Refuse)
        assert last.code == "rate_limit_exceeded"


async def test_nonsense_in_the_middle_of_an_answer_ends_stream_and_work_at_once(autojump_clock: MockClock) -> None:
    stage = Stage(Script([b"x", trio.sleep_forever]))
    async with stage.asker() as asker:
        await asker.say(an_ask(), Body(data=PROMPT))
        await trio.sleep(1)
        await asker.stream.send(b"nonsense")
        with trio.fail_after(0.1), pytest.raises(Broken):
            await drain(asker.stream)
        stage.assert_idle()
    assert len(stage.offences) == 1


class LingeringStream:
    """A stream whose `send` returns long after the other end has read, as a real one's may. Torn when cancelled."""

    peer = THEM
    fresh = True

    def __init__(self) -> None:
        self.sends, self.sent = trio.open_memory_channel[bytes](100)
        self.says, self.said = trio.open_memory_channel[bytes](100)
        self.linger = 1.0
        self.broken = False
        self.writes: list[int] = []  # frames in each

    async def send(self, *payloads: bytes) -> None:
        assert not self.broken
        self.broken = True
        self.writes.append(len(payloads))
        for payload in payloads:
            await self.sends.send(payload)
        await trio.sleep(self.linger)
        if self.linger > 10:
            raise Broken("took nothing for too long")
        self.broken = False

    async def receive(self) -> bytes | None:
        return await self.said.receive()

    async def finish(self) -> None:
        raise NotImplementedError

    def keep(self) -> None:
        raise NotImplementedError


A_MINUTE = partial(trio.sleep, 60)


def a_stream(*pieces: bytes | Callable[[], Awaitable[object]]) -> Script:
    return Script(list(pieces), headers=EVENTS)


@pytest.mark.parametrize(
    ("script", "writes", "last"),
    [
        (a_stream(A_MINUTE, b"a", partial(trio.sleep, 0.01), b"b"), [[Head, Data], [Data, End]], 60.01),
        (
            a_stream(b"a", *[partial(trio.sleep, 0.001), b"x" * 40_000] * 2, partial(trio.sleep, 0.001), b"b"),
            [[Head, Data], [Data], [Data, End]],  # what is much does not wait for company
            0.003,
        ),
        (a_stream(A_MINUTE, b"a", trio.sleep_forever), [[Head, Data], [Fail]], 100),
        (Script([A_MINUTE, Broken("gone")]), [[Fail]], 60),
        (Script([trio.sleep_forever]), [[Fail]], 100),
        (Script([]), [[Head, End]], 0),
        # Who asked for no stream can use the beginning of an answer only with its end.
        (Script([A_MINUTE, b"a", partial(trio.sleep, 0.01), b"b"]), [[Head, Data, End]], 60.01),
        (Script([b"a", partial(trio.sleep, 0.03), b"b"]), [[Head, Data], [Data, End]], 0.03),
        (Script([b"a", partial(trio.sleep, 0.01), b"x" * 70_000, A_MINUTE]), [[Head, Data], [End]], 60.01),
    ],
)
async def test_what_is_due_goes_in_one_write_and_a_head_only_with_what_follows_it(
    autojump_clock: MockClock, script: Script, writes: list[list[type[Event]]], last: float
) -> None:
    stage, stream = Stage(script, limits=PeerLimits(answer_seconds=100)), LingeringStream()
    stream.linger = 0
    asker = Exchange(inference.Role.ASKER)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.server.infer, stream)
        for event in (an_ask(), Body(data=PROMPT)):
            await stream.says.send(asker.say(event))
        heard: list[Event] = []
        began = trio.current_time()
        while not asker.is_free:
            heard.append(asker.hear(await stream.sent.receive()))
        assert trio.current_time() - began == pytest.approx(last)
        nursery.cancel_scope.cancel()
    assert [type(event) for event in heard] == [kind for write in writes for kind in write]
    assert stream.writes == [len(write) for write in writes]


@pytest.mark.parametrize("eager", [b"next", b"cancel"])
async def test_what_an_eager_peer_says_while_a_message_is_still_being_sent_is_neither_lost_nor_misread(
    autojump_clock: MockClock, eager: bytes
) -> None:
    stage, stream = Stage(Script([b"x", partial(trio.sleep, 0.5)])), LingeringStream()
    asker = Exchange(inference.Role.ASKER)

    async def ask() -> list[Event]:
        for event in (an_ask(), Body(data=PROMPT)):
            await stream.says.send(asker.say(event))
        heard: list[Event] = []
        while not asker.is_free:
            heard.append(asker.hear(await stream.sent.receive()))
            if eager == b"cancel" and isinstance(heard[-1], Data):
                await stream.says.send(asker.say(Cancel()))
        return heard

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.server.infer, stream)
        for _ in range(3):
            events = await ask()
            assert [type(event) for event in events] == [Head, Data, End if eager == b"next" else Cancelled]
        nursery.cancel_scope.cancel()


async def test_a_peer_that_takes_nothing_for_too_long_loses_the_stream_though_it_says_nothing(
    autojump_clock: MockClock,
) -> None:
    stage, stream = Stage(), LingeringStream()
    stream.linger = 20.0
    asker = Exchange(inference.Role.ASKER)
    for event in (an_ask(), Body(data=PROMPT)):
        await stream.says.send(asker.say(event))
    with trio.fail_after(21), pytest.raises(Broken):
        await stage.server.infer(stream)
    stage.assert_idle()


def mutations(luck: random.Random, count: int) -> list[list[bytes]]:
    """Dialogues of a few frames that were right once, with bytes, frames and orders changed."""
    asker = Exchange(inference.Role.ASKER)
    right = [asker.say(event) for event in (an_ask(), Body(data=PROMPT), Cancel())]
    whole = Exchange(inference.Role.ASKER)
    right += [whole.say(event) for event in (an_ask(0, target="/v1/models", method="GET"), Cancel())]
    found: list[list[bytes]] = []
    for _ in range(count):
        frames = [right[0], right[1], *luck.choices(right, k=luck.randrange(3))]
        luck.shuffle(frames) if luck.random() < 0.2 else None
        for _ in range(luck.randrange(3)):
            at = luck.randrange(len(frames))
            damaged = bytearray(frames[at])
            damaged[luck.randrange(len(damaged))] = luck.randrange(256)
            cut = luck.randrange(1, len(damaged) + 1) if luck.random() < 0.3 else len(damaged)
            frames[at] = bytes(damaged[:cut])
        found.append(frames)
    return found


async def test_2000_damaged_dialogues_leave_no_task_no_slot_and_no_share_behind(autojump_clock: MockClock) -> None:
    stage = Stage(Script([b"x", partial(trio.sleep, 0.05), b"y"]), access=Access(each=QuotaLimits(concurrent=4)))
    async with stage.nodes() as (us, them):
        tasks = len(us.nursery.child_tasks)
        luck = random.Random(7)  # noqa: S311 -- the same on every run
        for frames in mutations(luck, 2000):
            with suppress(Broken, RemoteProtocolError):
                async with them.open(US, inference.PROTOCOL_ID, patience=5) as stream:
                    for frame in frames:
                        await stream.send(frame)
                    with trio.move_on_after(luck.uniform(0, 0.3)):
                        await drain(stream)
        await trio.sleep(60)
        stage.assert_idle()
        assert len(us.nursery.child_tasks) == tasks
        counts = stage.server.counts()
        assert counts.served > 100
        assert counts.abandoned > 100
        assert len(stage.offences) > 100
        # Had a single share been lost each time, none would be left.
        async with them.open(US, inference.PROTOCOL_ID, patience=5) as stream:
            assert isinstance((await Asker(stream).ask())[-1], End)


class Poller:
    def __init__(self, stream: PeerStream) -> None:
        self.stream = stream
        self.dialogue = dialogue.Dialogue(load.SCRIPT, dialogue.Role.OPENER)

    async def poll(self) -> load.Load:
        await self.stream.send(self.dialogue.say(load.Poll()))
        payload = await self.stream.receive()
        assert payload is not None
        report = self.dialogue.hear(payload)
        assert isinstance(report, load.Report)
        return load.read_figures(report.load)


async def test_load_is_told_as_it_is_and_a_peer_that_is_not_served_sees_a_closed_door(
    autojump_clock: MockClock,
) -> None:
    for access, accepting in ((Access(), True), (Access(serve=NOBODY), False)):
        stage = Stage(Script([trio.sleep_forever]), access=access)
        async with stage.nodes() as (_, them), them.open(US, load.PROTOCOL_ID, patience=5) as stream:
            poller = Poller(stream)
            idle = load.Load(running=0, waiting=0, slots=4, accepting=accepting)
            assert await poller.poll() == idle
            stage.board.show_state(EngineState.DRAINING)
            assert (await poller.poll()).serving is load.Serving.DRAINING


async def test_a_peer_that_polls_too_often_or_has_not_greeted_loses_the_stream(autojump_clock: MockClock) -> None:
    stage = Stage()
    async with stage.nodes() as (_, them):
        async with them.open(US, load.PROTOCOL_ID, patience=5) as stream:
            poller = Poller(stream)
            for _ in range(30):
                await poller.poll()
                await trio.sleep(0.1)
        stage.network.weather = Weather(latency=0.001)
        async with them.open(US, load.PROTOCOL_ID, patience=5) as stream:
            poller = Poller(stream)
            for _ in range(10):
                await poller.poll()
            with pytest.raises(Broken):
                await poller.poll()
        assert stage.offences == ["polls_too_often"]
        stage.greeted = False
        async with them.open(US, load.PROTOCOL_ID, patience=5) as stream:
            with pytest.raises(Broken):
                await Poller(stream).poll()
