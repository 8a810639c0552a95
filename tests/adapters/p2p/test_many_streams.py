"""A crowd of prompts through one peer over real sockets: all are answered, and the peer still says how busy it is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from node.adapters.p2p.host import P2pHost
from node.core.access import Access
from node.core.admission import Admission, AdmissionLimits
from node.core.peerbook import Peerbook
from node.core.prompt import OWNER, Prompt
from node.core.standings import Standings
from node.services.ask_peer import AskPatience, Flight, PeerAsker
from node.services.serve import LocalReplica
from node.services.serve_peers import PeerLimits, PeerServer
from node.services.watch_load import LoadWatch
from protocol import inference, load
from protocol.ids import PeerId
from tests.adapters.p2p.hosts import PATIENCE, a_pair, eventually
from tests.fakes.engine_board import FakeEngineBoard
from tests.fakes.upstream import EVENTS, FakeUpstream, Request, Script

pytestmark = [pytest.mark.slow, pytest.mark.libp2p]

TOKENS = [b"data: {%d}\n\n" % number for number in range(20)]


async def always(_: PeerId) -> bool:
    await trio.lowlevel.checkpoint()
    return True


class Pair:
    """One node that serves with an engine in memory, and one that asks it."""

    def __init__(self, server: P2pHost, client: P2pHost) -> None:
        self.peer = server.me
        self.all_at_work = trio.Event()
        self.upstream = FakeUpstream()
        self.upstream.answer_with = self._script
        engine = LocalReplica(
            node=str(server.me),
            board=FakeEngineBoard(),
            upstream=self.upstream,
            admission=Admission(AdmissionLimits(running=512, waiting=4, longest_wait=10.0)),
        )
        self.server = PeerServer(
            engine=engine, access=Access(), met=always, offence=self._blame, limits=PeerLimits(answer_seconds=PATIENCE)
        )
        server.serve(inference.PROTOCOL_ID, self.server.infer)
        server.serve(load.PROTOCOL_ID, self.server.load, frame_bytes=load.SCRIPT.limit)
        self.standings = Standings()
        self.watch = LoadWatch(streams=client, swarm=client, standings=self.standings)
        self.asker = PeerAsker(
            streams=client,
            swarm=client,
            book=Peerbook(client.me),
            standings=self.standings,
            watch=self.watch,
            on_change=lambda _: None,
            patience=AskPatience(),
            clock=trio.current_time,
        )

    def _script(self, _: Request) -> Script:
        pieces = [TOKENS[0], self.all_at_work.wait]
        for token in TOKENS[1:]:
            pieces += [token, partial(trio.sleep, 0.002)]
        return Script(pieces, headers=EVENTS)

    def _blame(self, offence: str) -> None:
        raise AssertionError(offence)

    async def ask(self) -> bytes:
        prompt = Prompt(
            request_id="r",
            method="POST",
            target="/v1/completions",
            headers=(),
            body=b'{"model": "tiny", "stream": true}',
            model="tiny",
            stream=True,
            requester=OWNER,
            deadline=trio.current_time() + 3 * PATIENCE,
        )
        flight = Flight(self.standings, self.peer, trio.current_time())
        async with self.asker.answer(self.peer, prompt, attempt=1, flight=flight) as answer:
            whole = await answer.begin()
            while piece := await answer.receive():
                whole += piece
        flight.end()
        return whole


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    async with a_pair() as (server, client):
        yield Pair(server, client)


@pytest.mark.parametrize("prompts", [128, 300])
async def test_a_crowd_of_streams_through_one_peer_comes_whole(prompts: int) -> None:
    """More than find room at once wait for it, and none of them, nor the peer, is the worse for it."""
    answers: list[bytes] = []
    async with pair() as stage:

        async def ask() -> None:
            answers.append(await stage.ask())

        with trio.fail_after(3 * PATIENCE):
            async with trio.open_nursery() as nursery:
                for _ in range(prompts):
                    nursery.start_soon(ask)
                await eventually(lambda: stage.server.counts().running == min(prompts, 256))
                assert await stage.watch.poll(stage.peer)  # with all of them under way
                assert stage.server.counts().running == min(prompts, 256)
                stage.all_at_work.set()
        assert answers == [b"".join(TOKENS)] * prompts
        assert stage.server.counts().served == prompts
        assert stage.standings.standing(stage.peer, trio.current_time()).closed == ""
