"""A peer that answers prompts by a script over the real exchange, on the fake network; and tells its load."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import trio

from node.errors import Broken
from node.ports import PeerStream
from protocol import inference, load
from protocol.dialogue import Dialogue, Role
from protocol.inference import Exchange
from protocol.inference_events import Ask, Body, Data, End, Fail, Head, Refuse
from protocol.load import Load, Poll, Report, Serving
from tests.fakes.network import FakeNode

Pause = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """How prompts are answered: each piece is bytes to send, something to wait for, or what ends the answer.

    An empty piece sends the head alone. `raw` bytes are sent as a frame of their own, whatever they mean.
    """

    pieces: Sequence[bytes | Pause | Fail] = (b"one ", b"two ", b"three")
    gap: float = 0.05  # s before each piece
    prefill: float = 0.1  # s before the head
    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"text/event-stream"),)
    refuse: Refuse | None = None
    raw: bytes | None = None  # instead of the head


@dataclass
class PeerServer:
    """Serves at `node`; `how` may be changed at any time. `asked`, `bodies`: what came."""

    node: FakeNode
    how: Answering = field(default_factory=Answering)
    slots: int = 64
    tells: bool = True  # whether polls are answered
    asked: list[Ask] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    streams: int = 0  # that prompts came over
    others: int = 0  # prompts that it says it has besides
    serving: Serving = Serving.READY  # what it says of its engine
    running: int = 0
    most: int = 0  # prompts at once
    whole: int = 0
    left_early: int = 0  # answers whose asker went away
    polls: int = 0

    def __post_init__(self) -> None:
        self.node.serve(inference.PROTOCOL_ID, self.infer)
        self.node.serve(load.PROTOCOL_ID, self.load, frame_bytes=load.SCRIPT.limit)

    def figures(self) -> Mapping[str, int]:
        return Load(running=self.running + self.others, waiting=0, slots=self.slots, serving=self.serving).to_figures()

    async def load(self, stream: PeerStream) -> None:
        dialogue = Dialogue(load.SCRIPT, Role.ANSWERER)
        while (payload := await stream.receive()) is not None:
            assert isinstance(dialogue.hear(payload), Poll)
            self.polls += 1
            if not self.tells:
                await trio.sleep_forever()
            await stream.send(dialogue.say(Report(load=self.figures())))

    async def infer(self, stream: PeerStream) -> None:
        exchange = Exchange(inference.Role.SERVER)
        self.streams += 1
        while (payload := await stream.receive()) is not None:
            ask = exchange.hear(payload)
            assert isinstance(ask, Ask)
            body = b""
            while len(body) < ask.body_size:
                part = exchange.hear(await stream.receive() or b"")
                assert isinstance(part, Body)
                body += part.data
            self.asked.append(ask)
            self.bodies.append(body)
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                await self._while_there(stream, exchange)
            finally:
                self.running -= 1

    async def _while_there(self, stream: PeerStream, exchange: Exchange) -> None:
        async def until_gone() -> None:
            try:
                await stream.receive()
            except Broken:
                self.left_early += 1
            nursery.cancel_scope.cancel()

        ended = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_gone)
            try:
                await self._answer(stream, exchange, self.how)
                ended = True
            except Broken:
                await trio.sleep_forever()  # the reader hears of it too
            nursery.cancel_scope.cancel()
        if not ended:
            raise Broken("the asker went away")

    async def _answer(self, stream: PeerStream, exchange: Exchange, how: Answering) -> None:
        if how.refuse is not None:
            await stream.send(exchange.say(replace(how.refuse, load=self._figures_after())))
            return
        await trio.sleep(how.prefill)
        if how.raw is not None:
            await stream.send(how.raw)
            await trio.sleep_forever()
        await self._deliver(stream, exchange, how)

    async def _deliver(self, stream: PeerStream, exchange: Exchange, how: Answering) -> None:
        head = exchange.say(Head(status=how.status, headers=how.headers, load=self.figures()))
        size = 0
        for piece in how.pieces:
            await trio.sleep(how.gap)
            if callable(piece):
                await piece()
                continue
            if isinstance(piece, Fail):
                await stream.send(exchange.say(piece))
                return
            head = await self._once(stream, head)
            if piece:
                await stream.send(exchange.say(Data(data=piece)))
                size += len(piece)
        await self._once(stream, head)
        await stream.send(exchange.say(End(data_size=size, load=self._figures_after())))
        self.whole += 1

    async def _once(self, stream: PeerStream, head: bytes) -> bytes:
        if head:
            await stream.send(head)
        return b""

    def _figures_after(self) -> Mapping[str, int]:
        """Return the load without the prompt that is over."""
        running = self.running - 1 + self.others
        return Load(running=running, waiting=0, slots=self.slots, serving=self.serving).to_figures()
