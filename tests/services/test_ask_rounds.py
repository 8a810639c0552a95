"""What comes between attempts at one prompt, and what is told of each: in virtual time on the fake network."""

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from node.core.access import Access
from node.core.router import LeastOutstanding
from node.errors import Refused
from node.services.ask import SwarmReplica
from protocol.advert import ModelOffer
from protocol.ids import PeerId
from tests.fakes.peer_server import Answering
from tests.services.test_ask import BUSY, MODEL, PEERS, Stage, prompt, stage

JSON = ((b"content-type", b"application/json"),)
TOO_LONG = (
    b'{"error":{"message":"This model\'s maximum context length is 2048 tokens. However, your request has 3000 input '
    b'tokens.","type":"BadRequestError","param":null,"code":400}}'
)


def long(it: Stage, *lengths: int) -> None:
    """Have the peers say how long their contexts are; the first seems the best, and so on."""
    for index, length in enumerate(lengths):
        it.introduce(index, ModelOffer(name=MODEL, max_length=length))
        it.seems(index, 20 * index)


async def test_a_prompt_that_is_too_long_for_one_goes_to_who_has_a_longer_context(autojump_clock: MockClock) -> None:
    async with stage(3) as it:
        long(it, 2048, 2048, 8192)
        for server in it.servers[:2]:
            server.how = Answering(pieces=(TOO_LONG,), status=400, headers=JSON)
        async with it.replica.answer(replace(prompt(), stream=False)) as answer:
            assert (answer.served.node, answer.status) == (str(PEERS[2]), 200)
            while await answer.receive():
                pass
        assert [len(server.asked) for server in it.servers] == [1, 0, 1]
        assert it.replica.counts().retried == 1


async def test_where_nobody_has_a_longer_context_the_engine_s_own_words_are_the_client_s(
    autojump_clock: MockClock,
) -> None:
    async with stage(2) as it:
        long(it, 2048, 2048)
        for server in it.servers:
            server.how = Answering(pieces=(TOO_LONG,), status=400, headers=JSON)
        async with it.replica.answer(prompt()) as answer:
            assert (answer.status, await answer.receive()) == (400, TOO_LONG)
        assert sum(len(server.asked) for server in it.servers) == 1


async def test_who_has_the_longer_context_and_is_full_is_waited_for_by_the_client(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        long(it, 2048, 8192)
        it.servers[0].how = Answering(pieces=(TOO_LONG,), status=400, headers=JSON)
        it.servers[1].how = Answering(refuse=BUSY)
        with pytest.raises(Refused) as caught:
            await it.ask()
        assert (caught.value.refusal.status, caught.value.refusal.retry_after) == (429, 7)
        assert [len(server.asked) for server in it.servers] == [1, 1]


class Ledger:
    """Notes what was used."""

    def __init__(self) -> None:
        self.lines: list[tuple[PeerId, float, bool]] = []

    def __call__(
        self, replica: PeerId, seconds: float, *, begun: bool, prompt_tokens: int = 0, output_tokens: int = 0
    ) -> None:
        self.lines.append((replica, seconds, begun))


async def test_what_each_attempt_used_is_told_once_when_it_is_over(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        ledger = Ledger()
        it.replica = SwarmReplica(
            me=it.me.me, local=it.local, own_load=lambda: it.own_load, own_model=lambda: None, streams=it.me,
            swarm=it.me, book=it.book, standings=it.standings, access=Access(), router=LeastOutstanding(),
            watch=it.watch, luck=it.luck, on_change=it.changes.extend, spent=ledger,
        )  # fmt: skip
        it.seems(0, 0)
        it.seems(1, 20)
        it.servers[0].how = Answering(refuse=BUSY)
        began = trio.current_time()
        await it.ask()
        took = trio.current_time() - began
        refused, answered = ledger.lines
        assert (refused[0], refused[2]) == (PEERS[0], False)
        assert (answered[0], answered[2]) == (PEERS[1], True)
        assert refused[1] + answered[1] == pytest.approx(took)
