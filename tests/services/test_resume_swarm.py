"""Streams of a swarm whose nodes die while they answer: who is left goes on with all of them."""

import random
from dataclasses import dataclass, field, replace

import pytest
import trio
from trio.testing import MockClock

from node.core.prompt import Prompt
from node.errors import Broken
from node.ports import PeerStream
from node.services.resume import ResumingReplica
from node.services.resume_stream import ResumeLimits
from protocol.inference import Exchange
from tests.fakes.peer_server import Answering, PeerServer
from tests.fakes.token_engine import TokenEngine, heard, tokens_of
from tests.services.test_ask import MODEL, PEERS, Stage, stage
from tests.services.test_resume import COMPLETIONS
from tests.services.test_resume import prompt as resumable

TEXT = "It was said once, and 🐟🐟 said it again: what is said is said. " * 2
ENGINE = TokenEngine(tokens_of(TEXT, width=2))
GAP = 0.05  # s between tokens


@dataclass
class Thinker(PeerServer):
    """A peer whose engine answers what it is asked, token by token; and hangs or babbles once `trouble` says so."""

    engine: TokenEngine = field(default_factory=lambda: replace(ENGINE, asked=[]))

    async def _answer(self, stream: PeerStream, exchange: Exchange, how: Answering) -> None:
        events = self.engine.events(self.asked[-1].target, self.bodies[-1])
        await super()._answer(stream, exchange, replace(how, pieces=events, gap=GAP))


def think(it: Stage) -> ResumingReplica:
    it.servers[:] = [Thinker(server.node) for server in it.servers]
    return ResumingReplica(it.replica, room=lambda _: None, limits=ResumeLimits())


def prompt(number: int) -> Prompt:
    path = COMPLETIONS if number % 2 else "/v1/chat/completions"
    fields = {"stream_options": {"include_usage": True}, "max_tokens": 300, "temperature": number % 3}
    return replace(resumable(path, **fields), model=MODEL)


async def listen(replica: ResumingReplica, one: Prompt, told: dict[int, bytes], number: int) -> None:
    whole = bytearray()
    async with replica.answer(one) as answer:
        while piece := await answer.receive():
            whole += piece
    told[number] = bytes(whole)


@pytest.mark.parametrize("seed", range(6))
async def test_whoever_dies_while_streaming_every_stream_ends_whole(autojump_clock: MockClock, seed: int) -> None:
    luck = random.Random(seed)  # noqa: S311 -- a test
    async with stage(4, seed=seed) as it:
        replica, told = think(it), dict[int, bytes]()
        async with trio.open_nursery() as nursery:
            for number in range(16):
                nursery.start_soon(listen, replica, prompt(number), told, number)
            for index in luck.sample(range(4), 3):
                await trio.sleep(luck.uniform(0.3, 1.5))
                it.network.kill(PEERS[index])
        for number, stream in told.items():
            found, wanted = heard(stream), heard(b"".join(whole(prompt(number))))
            assert (found.text, found.usages) == (TEXT, wanted.usages)
            assert (found.finishes, found.ends, found.errors) == (("stop",), 1, 0)
        counts = replica.counts()
        assert (len(told), counts.lost) == (16, 0)
        assert counts.resumed > 0
        assert it.replica.counts().failed == counts.hidden_failed


def whole(one: Prompt) -> list[bytes]:
    return replace(ENGINE, asked=[]).events(one.path, one.body)


async def test_a_peer_that_falls_silent_in_mid_stream_is_replaced(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        replica, told = think(it), dict[int, bytes]()
        it.seems(1, 50)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, replica, prompt(0), told, 0)
            await trio.sleep(1.0)
            it.network.kill(PEERS[0], silently=True)
        assert heard(told[0]).text == TEXT
        assert replica.counts().resumed == 1


async def test_where_the_only_peer_is_gone_the_stream_breaks_off_and_says_why(autojump_clock: MockClock) -> None:
    async with stage(1) as it:
        replica = think(it)
        with trio.fail_after(120):
            async with replica.answer(prompt(0)) as answer:
                await answer.receive()
                it.network.kill(PEERS[0])
                with pytest.raises(Broken, match="could not be continued"):  # noqa: PT012 -- until it does
                    while True:
                        await answer.receive()
        assert replica.counts().lost == 1
