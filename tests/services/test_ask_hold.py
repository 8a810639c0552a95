"""Prompts in a swarm whose engines are away for a moment: whom they go to, whom they wait for and for how long."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from node.errors import Broken, Refusal, Refused
from protocol.inference_events import Fail, Refuse
from protocol.limits import ATTEMPT_MAX
from protocol.load import Load, Serving
from tests.fakes.peer_server import Answering, PeerServer
from tests.services.test_ask import ME, MODEL, PEERS, WHOLE, Stage, prompt, stage

LOADING = Refuse(status=503, type="model_loading", message="a switch", retry_after=5)


def leaves(server: PeerServer, *, serving: Serving = Serving.DRAINING) -> None:
    server.serving = serving
    server.how = Answering(refuse=LOADING)


def returns(server: PeerServer) -> None:
    server.serving = Serving.READY
    server.how = Answering()


async def refused(it: Stage, seconds: float | None = None) -> tuple[int, float]:
    """Ask; return the refusal's status and after how long it came."""
    began = trio.current_time()
    with pytest.raises(Refused) as caught:
        await it.ask(prompt(left=seconds))
    assert caught.value.refusal.retry_after is not None
    return caught.value.refusal.status, trio.current_time() - began


async def test_a_node_without_an_engine_waits_for_the_only_peer_to_be_back(autojump_clock: MockClock) -> None:
    async with stage(1) as it, trio.open_nursery() as nursery:
        leaves(it.servers[0])
        answers: list[bytes] = []

        async def one() -> None:
            answers.append(await it.ask())

        for _ in range(5):
            nursery.start_soon(one)
        await trio.sleep(40)
        assert (answers, it.replica.counts().running) == ([], 5)
        asked = len(it.servers[0].asked)
        assert asked <= 5  # while it says that it is away, it is asked for its load alone
        back = trio.current_time()
        returns(it.servers[0])
        nursery.start_soon(one)
        while len(answers) < 6:  # noqa: ASYNC110 -- the answers are what is waited for
            await trio.sleep(0.1)
        assert answers == [WHOLE] * 6
        assert trio.current_time() - back < 8.0  # a poll, or what the last refusal asked for, and a decision
        assert len(it.servers[0].asked) == asked + 6
    assert it.replica.counts().served == 6


async def test_a_peer_known_to_be_away_is_asked_once_for_it_may_end_trials_for_a_prompt(
    autojump_clock: MockClock,
) -> None:
    async with stage(1) as it:
        leaves(it.servers[0])
        it.standings.read(PEERS[0], Load(running=0, waiting=0, serving=Serving.DRAINING), trio.current_time())
        status, after = await refused(it, seconds=20.0)
        assert (status, 18.0 < after <= 20.0) == (503, True)
        assert len(it.servers[0].asked) == 1


async def test_the_hold_ends(autojump_clock: MockClock) -> None:
    async with stage(1) as it:
        leaves(it.servers[0])
        status, after = await refused(it)
        assert (status, 118.0 < after <= 121.0) == (503, True)


@pytest.mark.parametrize("serving", [Serving.LOADING, Serving.AWAY])
async def test_nobody_waits_for_a_first_load_or_an_engine_that_is_gone(
    autojump_clock: MockClock, serving: Serving
) -> None:
    async with stage(1) as it:
        leaves(it.servers[0], serving=serving)
        status, after = await refused(it)
        assert (status, after < 1.0) == (503, True)


async def test_another_peer_that_serves_is_not_waited_past(autojump_clock: MockClock) -> None:
    async with stage(2) as it:
        leaves(it.servers[0])
        it.seems(0, 0)
        it.seems(1, 20)
        began = trio.current_time()
        assert await it.ask() == WHOLE
        assert trio.current_time() - began < 1.0
        assert len(it.servers[1].asked) == 1


async def test_one_that_breaks_off_leaves_the_other_to_be_waited_for(autojump_clock: MockClock) -> None:
    async with stage(2) as it, trio.open_nursery() as nursery:
        it.servers[0].how = Answering(pieces=[Fail(code="engine_lost", message="gone")])
        leaves(it.servers[1])
        answers: list[bytes] = []

        async def one() -> None:
            answers.append(await it.ask())

        nursery.start_soon(one)
        await trio.sleep(3)
        assert (answers, len(it.servers[0].asked)) == ([], 1)
        returns(it.servers[1])
        await trio.sleep(8)
        assert answers == [WHOLE]


async def test_a_prompt_that_breaks_engines_is_not_held_for_another(autojump_clock: MockClock) -> None:
    async with stage(4) as it:
        for server in it.servers[:3]:
            server.how = Answering(pieces=[Fail(code="engine_lost", message="gone")])
        leaves(it.servers[3])
        began = trio.current_time()
        with pytest.raises(Broken):
            await it.ask()
        assert trio.current_time() - began < 3.0


async def test_a_peer_that_goes_for_good_ends_the_wait(autojump_clock: MockClock) -> None:
    async with stage(1) as it, trio.open_nursery() as nursery:
        leaves(it.servers[0])
        found: list[tuple[int, float]] = []

        async def one() -> None:
            found.append(await refused(it))

        nursery.start_soon(one)
        await trio.sleep(10)
        it.book.disconnected(PEERS[0], trio.current_time())
        await trio.sleep(2)
        assert [status for status, _ in found] == [503]


async def test_peers_are_asked_before_the_own_engine_that_is_away_and_it_holds_what_they_refuse(
    autojump_clock: MockClock,
) -> None:
    async with stage(1) as it:
        it.own_model = MODEL
        it.own_load = Load(running=0, waiting=0, serving=Serving.DRAINING)
        assert await it.ask() == WHOLE
        assert it.local.prompts == []
        it.servers[0].how = Answering(refuse=replace(LOADING, status=429, type="overloaded"))
        await it.ask()
        assert (len(it.servers[0].asked), len(it.local.prompts)) == (2, 1)  # held there, were it a real one
        await it.ask()  # the peer is barred for a while: nobody is left but our own
        assert (len(it.servers[0].asked), len(it.local.prompts)) == (2, 2)


async def test_an_own_engine_that_is_loading_for_the_first_time_is_no_last_choice(autojump_clock: MockClock) -> None:
    async with stage(1) as it:
        it.own_model = MODEL
        it.own_load = Load(running=0, waiting=0, serving=Serving.LOADING)
        it.servers[0].how = Answering(refuse=replace(LOADING, status=429, type="overloaded"))
        status, _ = await refused(it)
        assert (status, it.local.prompts) == (429, [])


async def test_a_prompt_for_one_node_waits_for_that_node(autojump_clock: MockClock) -> None:
    async with stage(2) as it, trio.open_nursery() as nursery:
        leaves(it.servers[0])
        answers: list[bytes] = []

        async def one() -> None:
            answers.append(await it.ask(prompt(via=PEERS[0])))

        nursery.start_soon(one)
        await trio.sleep(30)
        assert (answers, len(it.servers[0].asked), it.servers[1].asked) == ([], 1, [])
        returns(it.servers[0])
        await trio.sleep(8)
        assert answers == [WHOLE]


class Fickle(PeerServer):
    """Drains where it refuses, and is ready whenever somebody looks."""

    def figures(self) -> Mapping[str, int]:
        return Load(running=0, waiting=0, slots=4).to_figures()


async def test_peers_that_say_in_a_moment_for_ever_are_asked_so_often_and_no_more(autojump_clock: MockClock) -> None:
    async with stage(5) as it:
        for server in it.servers:
            server.__class__ = Fickle
            leaves(server)
            server.how = Answering(refuse=replace(LOADING, retry_after=1))
        status, after = await refused(it)
        assert (status, after < 30.0) == (503, True)
        assert sum(len(server.asked) for server in it.servers) == ATTEMPT_MAX


async def test_a_peer_that_says_it_is_ready_and_refuses_is_not_waited_for(autojump_clock: MockClock) -> None:
    async with stage(1) as it:
        it.servers[0].how = Answering(refuse=LOADING)
        status, after = await refused(it)
        assert (status, after < 1.0) == (503, True)


async def test_no_more_wait_than_the_queue_has_places(autojump_clock: MockClock) -> None:
    async with stage(1) as it, trio.open_nursery() as nursery:
        leaves(it.servers[0])
        it.standings.read(PEERS[0], Load(running=0, waiting=0, serving=Serving.DRAINING), trio.current_time())

        async def one() -> None:
            await it.ask()

        for _ in range(256):
            nursery.start_soon(one)
        await trio.sleep(3)
        assert len(it.servers[0].asked) == 1
        status, after = await refused(it)
        assert (status, after < 1.0) == (429, True)
        nursery.cancel_scope.cancel()
    assert it.replica.counts().running == 0


async def test_an_own_engine_that_broke_is_not_waited_for(autojump_clock: MockClock) -> None:
    async with stage(0) as it:
        it.own_model = MODEL
        it.own_load = Load(running=0, waiting=0, serving=Serving.AWAY)
        it.local.refuse_with = Refused(Refusal(status=503, type="engine_unavailable", message="gone", retry_after=5))
        status, after = await refused(it)
        assert (status, after) == (503, 0.0)
        assert it.standings.standing(ME, trio.current_time()).closed == "away"
