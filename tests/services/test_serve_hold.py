"""Prompts while the engine is away for a moment, and levers pulled without one: the local replica on fakes."""

import json
from dataclasses import replace
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from node.core.admission import Admission, AdmissionLimits
from node.core.engine_state import LENT, EngineSnapshot, EngineState
from node.core.levers import Levers
from node.core.prompt import OWNER, Prompt, Requester, RequesterKind
from node.core.strategy import Strategy
from node.core.traffic import Traffic
from node.errors import Refused
from node.ports import Endpoint
from node.services.serve import LocalReplica
from protocol.load import Serving
from tests.fakes.engine_board import READY, FakeEngineBoard
from tests.fakes.upstream import FakeUpstream, Script

ANNE = Requester(RequesterKind.KEY, "anne")
CARL = Requester(RequesterKind.PEER, "carl")
AWAY = replace(READY, state=EngineState.STARTING, reason="a switch", returning=True)
HOLD = 120.0


class TwoEndpoints(FakeEngineBoard):
    """A board whose engine has another endpoint after each hand-over."""

    def __init__(self) -> None:
        super().__init__()
        self.port = 1

    def endpoint(self) -> Endpoint | None:
        return replace(there, port=self.port) if (there := super().endpoint()) else None


class Stage:
    def __init__(self, script: Script | None = None, *, running: int = 1, waiting: int = 4) -> None:
        self.board = TwoEndpoints()
        self.upstream = FakeUpstream(script)
        self.limits = AdmissionLimits(running=running, waiting=waiting, longest_wait=10.0, longest_hold=HOLD)
        self.admission = Admission(self.limits)
        self.traffic = Traffic()
        self.replica = LocalReplica(
            node="us", board=self.board, upstream=self.upstream, admission=self.admission, traffic=self.traffic
        )
        self.answered: list[str] = []
        self.refused: list[tuple[str, int, str, float]] = []

    def show(self, snapshot: EngineSnapshot) -> None:
        self.board.show(snapshot)

    async def ask(
        self,
        name: str = "one",
        requester: Requester = ANNE,
        *,
        target: str = "/v1/completions",
        deadline: float | None = None,
        body: bytes = b"{}",
    ) -> None:
        """Ask; note what came of it, and when."""
        prompt = Prompt(
            request_id=name,
            method="POST",
            target=target,
            headers=((b"name", name.encode()),),
            body=body,
            model="tiny",
            stream=False,
            requester=requester,
            deadline=deadline,
        )
        try:
            async with self.replica.answer(prompt) as answer:
                while await answer.receive():
                    pass
                self.answered.append(name)
        except Refused as refused:
            refusal = refused.refusal
            assert refusal.retry_after is not None
            self.refused.append((name, refusal.status, refusal.type, trio.current_time()))

    def sent(self) -> list[str]:
        return [(request.header(b"name") or b"").decode() for request in self.upstream.requests]

    def assert_empty(self) -> None:
        counts = self.replica.counts()
        assert (self.admission.running, self.admission.waiting, counts.waiting, counts.running) == (0, 0, 0, 0)
        assert self.replica.generating_running() == 0
        assert not self.replica._door._turns


async def test_prompts_wait_for_an_engine_that_is_away_for_a_moment_and_get_their_turns_in_order(
    autojump_clock: object,
) -> None:
    stage = Stage()
    stage.show(AWAY)
    async with trio.open_nursery() as nursery:
        for name, requester in (("first", ANNE), ("second", ANNE), ("owner", OWNER), ("third", ANNE)):
            nursery.start_soon(stage.ask, name, requester)
            await wait_all_tasks_blocked()
        assert (stage.sent(), stage.replica.counts().waiting, stage.replica.generating_running()) == ([], 4, 4)
        assert (stage.replica.load().waiting, stage.replica.load().serving) == (4, Serving.DRAINING)
        await trio.sleep(30)
        stage.show(replace(AWAY, state=EngineState.PREPARING))
        await wait_all_tasks_blocked()
        stage.show(READY)
        nursery.start_soon(stage.ask, "newcomer")
    assert stage.sent() == ["owner", "first", "second", "third", "newcomer"]
    assert (stage.answered, stage.refused) == (stage.sent(), [])
    stage.assert_empty()


async def test_who_comes_in_the_moment_of_the_engines_return_comes_after_those_who_waited_for_it(
    autojump_clock: object,
) -> None:
    stage = Stage()
    stage.show(AWAY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.ask, "first")
        await wait_all_tasks_blocked()
        stage.show(READY)
        await stage.ask("newcomer")  # before anybody who waits has had its turn to look
    assert stage.sent() == ["first", "newcomer"]
    stage.assert_empty()


async def test_a_hold_ends_with_a_refusal_after_its_time_or_the_prompts_own(autojump_clock: object) -> None:
    stage = Stage()
    stage.show(AWAY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.ask, "patient")
        await trio.sleep(1)
        nursery.start_soon(lambda: stage.ask("hurried", deadline=trio.current_time() + 7.0))
    began = trio.current_time() - HOLD
    assert stage.refused == [
        ("hurried", 503, "model_loading", pytest.approx(began + 8.0)),
        ("patient", 503, "model_loading", pytest.approx(began + HOLD)),
    ]
    assert stage.replica.counts().refused == 2
    stage.assert_empty()


@pytest.mark.parametrize("state", [EngineState.FAILED, EngineState.BACKOFF, EngineState.STOPPED, EngineState.STARTING])
async def test_held_prompts_are_refused_once_the_engine_is_not_to_return(
    autojump_clock: object, state: EngineState
) -> None:
    stage = Stage()
    stage.show(AWAY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.ask)
        nursery.start_soon(stage.ask)
        await trio.sleep(20)
        now = trio.current_time()
        stage.show(replace(AWAY, state=state, returning=False))
    kind = "model_loading" if state is EngineState.STARTING else "engine_unavailable"
    assert stage.refused == [("one", 503, kind, now)] * 2
    stage.assert_empty()


async def test_a_start_that_failed_on_the_way_back_is_waited_for_as_long_as_the_board_says_so(
    autojump_clock: object,
) -> None:
    stage = Stage()
    stage.show(AWAY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.ask)
        await trio.sleep(5)
        stage.show(replace(AWAY, state=EngineState.BACKOFF))
        await trio.sleep(5)
        stage.show(READY)
    assert stage.answered == ["one"]


async def test_peers_are_not_held(autojump_clock: object) -> None:
    stage = Stage()
    stage.show(AWAY)
    now = trio.current_time()
    await stage.ask("peer", CARL)
    assert stage.refused == [("peer", 503, "model_loading", now)]


async def test_the_hold_has_as_many_places_as_the_queue(autojump_clock: object) -> None:
    stage = Stage(waiting=2)
    stage.show(AWAY)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(stage.ask, "held")
        await wait_all_tasks_blocked()
        await stage.ask("late")
        assert [each[:3] for each in stage.refused] == [("late", 429, "overloaded")]
        stage.show(READY)
        await stage.ask("after")
    assert sorted(stage.answered) == ["after", "held", "held"]
    stage.assert_empty()


async def test_whoever_leaves_while_held_leaves_nothing_behind(autojump_clock: object) -> None:
    stage = Stage(running=1)
    stage.show(AWAY)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(stage.ask)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    stage.assert_empty()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(stage.ask)
        await wait_all_tasks_blocked()
        stage.show(READY)
        await stage.ask("newcomer")  # has the others ask for their turns before their tasks have run
        nursery.cancel_scope.cancel()
    stage.assert_empty()
    await stage.ask("later")
    assert "later" in stage.answered


async def test_a_turn_that_is_got_in_the_moment_of_leaving_is_given_back(autojump_clock: object) -> None:
    stage = Stage(running=2)
    stage.show(AWAY)
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(stage.ask)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        stage.show(READY)
        stage.replica._door._let_held_ask()  # as whoever comes now does
        assert (stage.admission.running, stage.admission.waiting) == (2, 2)
    stage.assert_empty()


async def test_a_turn_that_comes_while_the_engine_leaves_is_kept_for_its_return(autojump_clock: object) -> None:
    go = trio.Event()
    stage = Stage(Script([go.wait, b"x"]))
    async with trio.open_nursery() as nursery:
        for name, requester in (("running", ANNE), ("queued", ANNE), ("peer", CARL), ("third", ANNE)):
            nursery.start_soon(stage.ask, name, requester)
            await wait_all_tasks_blocked()
        stage.show(replace(AWAY, state=EngineState.DRAINING))
        await trio.sleep(5)
        assert stage.answered == []
        go.set()
        await wait_all_tasks_blocked()
        assert (stage.answered, [each[0] for each in stage.refused]) == (["running"], ["peer"])
        assert (stage.admission.running, stage.replica.counts().waiting) == (0, 2)
        stage.show(AWAY)
        await trio.sleep(100)  # far beyond what the queue's own patience is
        stage.show(READY)
    assert stage.answered == ["running", "queued", "third"]
    assert stage.sent() == ["running", "queued", "third"]  # each once
    stage.assert_empty()


async def test_prompts_go_where_the_board_says_when_they_are_sent_and_are_counted_there(
    autojump_clock: object,
) -> None:
    go = trio.Event()
    stage = Stage(Script([go.wait, b"x"]), running=1)
    old, new = Endpoint(host="engine.invalid", port=1), Endpoint(host="engine.invalid", port=2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.ask, "before")
        await wait_all_tasks_blocked()
        nursery.start_soon(stage.ask, "queued")
        await wait_all_tasks_blocked()
        stage.board.port = 2  # handed over: the queued one was asked before it, and is sent after it
        assert (stage.replica.running_at(old), stage.replica.running_at(new)) == (1, 0)
        stage.upstream.answer_with = lambda _: Script([trio.Event().wait])
        go.set()
        await wait_all_tasks_blocked()
        assert (stage.replica.running_at(old), stage.replica.running_at(new)) == (0, 1)
        nursery.cancel_scope.cancel()
    assert [request.endpoint for request in stage.upstream.requests] == [old, new]
    assert stage.replica.running_at(new) == 0


async def test_a_count_of_tokens_waits_for_a_switch_but_not_for_trials_that_it_does_not_end(
    autojump_clock: object,
) -> None:
    stage = Stage()
    stage.show(replace(AWAY, state=EngineState.STOPPED, reason=LENT))
    now = trio.current_time()
    await stage.ask("tokens", target="/tokenize")
    assert stage.refused == [("tokens", 503, "engine_unavailable", now)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.ask, "prompt")  # ends the trials, and is answered after them
        stage.show(AWAY)
        await wait_all_tasks_blocked()
        nursery.start_soon(lambda: stage.ask("more tokens", target="/tokenize"))
        await trio.sleep(3)
        assert stage.answered == []
        stage.show(READY)
    assert sorted(stage.answered) == ["more tokens", "prompt"]


async def test_levers_cap_salt_and_rank_prompts_until_they_are_let_go(autojump_clock: object) -> None:
    stage = Stage(Script([trio.Event().wait]), running=8)
    wanted = Strategy(max_num_seqs=2, prefix_caching=False)
    stage.show(replace(READY, strategy=wanted.name))
    stage.replica.set_levers(Levers(strategy=wanted, running=2, salted=True, ranked=True))
    async with trio.open_nursery() as nursery:
        for requester in (OWNER, ANNE, CARL):
            nursery.start_soon(stage.ask, "capped", requester)
            await wait_all_tasks_blocked()
        assert (stage.upstream.at_work, stage.replica.load().slots) == (2, 2)
        bodies = [json.loads(request.body) for request in stage.upstream.requests]
        assert [body["priority"] for body in bodies] == [0, 1]
        salts = {body["cache_salt"] for body in bodies}
        assert len(salts) == 2
        stage.replica.set_levers(None)  # the queued one is let in at once, and goes as it came
        await wait_all_tasks_blocked()
        assert (stage.upstream.at_work, stage.upstream.requests[-1].body) == (3, b"{}")
        nursery.cancel_scope.cancel()


async def test_who_waits_at_a_cap_of_the_strategy_waits_for_the_strategy_and_not_for_the_engine_s_return(
    autojump_clock: object,
) -> None:
    stage, wanted = Stage(), Strategy(max_num_seqs=1)
    stage.upstream.answer_with = lambda _: Script([partial(trio.sleep, 1.0), b'{"usage": {"completion_tokens": 3}}'])
    stage.replica.set_levers(Levers(strategy=wanted, running=1))
    stage.show(replace(AWAY, strategy=wanted.name))
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(stage.ask)
        await trio.sleep(30)
        stage.show(replace(READY, strategy=wanted.name, since=trio.current_time()))
    took = sorted(each.measured.latency for each in stage.traffic.watch.answers(0.0))
    assert [round(each / 1e6) for each in took] == [1, 2, 3]


async def test_levers_of_another_strategy_than_the_engine_s_touch_no_prompt(autojump_clock: object) -> None:
    stage = Stage(Script([b"x"]))
    wanted = Strategy(prefix_caching=False)
    stage.replica.set_levers(Levers(strategy=wanted, salted=True, ranked=True))
    stage.show(AWAY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.ask)
        await wait_all_tasks_blocked()
        stage.show(READY)  # an engine by another strategy, which may know no priorities
    assert [request.body for request in stage.upstream.requests] == [b"{}"]
    stage.show(replace(READY, strategy=wanted.name))
    await stage.ask()
    assert set(json.loads(stage.upstream.requests[-1].body)) == {"cache_salt", "priority"}
