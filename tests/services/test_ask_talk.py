"""One exchange at a time: how many words of a peer are taken in together, and none is lost between them."""

from collections.abc import Awaitable, Callable
from math import inf
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock

from node.core.peerbook import Peerbook
from node.core.standings import Standings
from node.errors import Broken
from node.services.ask_talk import SMALL, Breach, EngineLost, Flight, PeerNotes, Talk
from node.services.ask_words import ask_of
from protocol.inference import Exchange, Role
from protocol.inference_events import Ask, Body, Data, End, Event, Fail, Head
from tests.services.test_ask_peer import THEM, US, a_prompt

T = TypeVar("T")
JSON, EVENTS = ((b"content-type", b"application/json"),), ((b"content-type", b"text/event-stream"),)


class CountingVigil:
    """Counts waits."""

    hung = False

    def __init__(self) -> None:
        self.waits = 0

    async def wait(self, work: Callable[[], Awaitable[T]], deadline: float = inf) -> T:
        self.waits += 1
        with trio.fail_at(deadline):
            return await work()


class ToldStream:
    """A stream whose other end says `events` as soon as it was asked, and then no more."""

    peer = THEM
    fresh = False

    def __init__(self, *events: Event | bytes) -> None:
        self.events = list(events)
        self.asked: list[Event] = []
        self.received = 0
        self.kept = False
        self._server = Exchange(Role.SERVER)

    async def send(self, *payloads: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.asked += [self._server.hear(payload) for payload in payloads]

    async def receive(self) -> bytes | None:
        await trio.lowlevel.checkpoint()
        if not self.events:
            raise Broken("gone")
        self.received += 1
        event = self.events.pop(0)
        return event if isinstance(event, bytes) else self._server.say(event)

    async def finish(self) -> None:
        raise NotImplementedError

    def keep(self) -> None:
        self.kept = True


class Scene:
    """A talk over such a stream."""

    def __init__(self, *events: Event | bytes) -> None:
        self.stream, self.vigil, self.standings = ToldStream(*events), CountingVigil(), Standings()
        self.uploads: list[int] = []
        notes = PeerNotes(
            THEM, self.standings, Peerbook(US), trio.current_time, lambda _peer, size, _s: self.uploads.append(size)
        )
        self.flight = Flight(self.standings, THEM, trio.current_time())
        self.talk = Talk(self.stream, self.vigil, a_prompt(), self.flight, notes)
        self.reopened = 0

    async def begin(self, body: bytes = b"prompt") -> object:
        prompt = ask_of(a_prompt(), 1)
        ask = Ask(
            request_id=prompt.request_id,
            method=prompt.method,
            target=prompt.target,
            headers=prompt.headers,
            body_size=len(body),
            attempt=1,
        )
        return await self.talk.begin(ask, body, again=self._again)

    def _again(self) -> bool:
        self.reopened += 1
        return True


async def test_a_small_answer_is_waited_for_once_with_its_prompt(autojump_clock: MockClock) -> None:
    scene = Scene(Head(status=200, headers=JSON), Data(data=b"an"), Data(data=b"swer"), End(data_size=6))
    assert isinstance(await scene.begin(), Head)
    assert scene.uploads == [6]
    assert not scene.stream.kept
    assert [await scene.talk.piece() for _ in range(3)] == [b"an", b"swer", b""]
    assert scene.vigil.waits == 1
    assert scene.stream.kept


async def test_a_streams_pieces_are_handed_on_as_they_come(autojump_clock: MockClock) -> None:
    scene = Scene(Head(status=200, headers=EVENTS), Data(data=b"one"), Data(data=b"two"), End(data_size=6))
    await scene.begin()
    assert scene.stream.received == 2  # a head is of no use alone
    assert await scene.talk.piece() == b"one"
    assert scene.stream.received == 2
    assert await scene.talk.piece() == b"two"
    assert scene.stream.received == 3


@pytest.mark.parametrize("size", [1, 60_000])
async def test_what_is_taken_in_together_has_a_bound_in_bytes_and_in_messages(
    autojump_clock: MockClock, size: int
) -> None:
    many = 2 * SMALL // size
    data = [Data(data=b"x" * size)] * min(many, 3000)
    scene = Scene(Head(status=200, headers=JSON), *data)
    await scene.begin()
    assert scene.stream.received <= 2 + min(SMALL // size, 256)


async def test_a_long_prompt_goes_in_parts_and_its_answer_is_heard_after_the_last(autojump_clock: MockClock) -> None:
    body = b"y" * 2_500_000
    scene = Scene(Head(status=200, headers=JSON), End(data_size=0))
    assert isinstance(await scene.begin(body), Head)
    said = [each.data for each in scene.stream.asked if isinstance(each, Body)]
    assert len(said) > 2
    assert b"".join(said) == body
    assert scene.uploads == [len(body)]
    assert await scene.talk.piece() == b""


async def test_a_kept_stream_that_is_dead_is_opened_anew_but_not_one_that_broke_after_a_word(
    autojump_clock: MockClock,
) -> None:
    scene = Scene()
    assert await scene.begin() is None
    assert scene.reopened == 1
    scene = Scene(Head(status=200, headers=JSON), Data(data=b"an"))
    with pytest.raises(Broken):
        await scene.begin()
    assert scene.reopened == 0
    assert scene.standings.standing(THEM, trio.current_time()).closed


async def test_nonsense_and_an_engines_end_are_told_apart_wherever_they_come(autojump_clock: MockClock) -> None:
    with pytest.raises(Breach):
        await Scene(b"nonsense").begin()
    with pytest.raises(Breach):
        await Scene(Head(status=200, headers=JSON), b"nonsense").begin()
    scene = Scene(Head(status=200, headers=JSON), Data(data=b"an"), Fail(code="engine_lost", message="gone"))
    await scene.begin()
    assert await scene.talk.piece() == b"an"
    with pytest.raises(EngineLost):
        await scene.talk.piece()
    assert scene.stream.kept
