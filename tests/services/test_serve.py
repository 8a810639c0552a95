"""The local replica on fakes: turns, refusals, and that every way out gives the slot back."""

from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from node.core.admission import Admission, AdmissionLimits
from node.core.engine_state import LENT, EngineState
from node.core.prompt import OWNER, Prompt, Requester, RequesterKind
from node.errors import Broken, Refused, Unreached
from node.services.serve import LocalReplica
from protocol.load import Load, Serving
from tests.fakes.engine_board import FakeEngineBoard
from tests.fakes.upstream import FakeUpstream, Script

ANNE = Requester(RequesterKind.KEY, "anne")


def prompt(target: str = "/v1/completions", *, requester: Requester = ANNE, deadline: float | None = None) -> Prompt:
    return Prompt(
        request_id="r",
        method="POST",
        target=target,
        headers=((b"a", b"b"),),
        body=b"{}",
        model="tiny",
        stream=False,
        requester=requester,
        deadline=deadline,
    )


class Stage:
    def __init__(self, script: Script | None = None, limits: AdmissionLimits | None = None) -> None:
        self.board = FakeEngineBoard()
        self.upstream = FakeUpstream(script)
        self.admission = Admission(limits or AdmissionLimits(running=1, waiting=2, longest_wait=10.0))
        self.replica = LocalReplica(node="us", board=self.board, upstream=self.upstream, admission=self.admission)

    async def ask(self, one: Prompt | None = None) -> bytes:
        async with self.replica.answer(one or prompt()) as answer:
            whole = b""
            while piece := await answer.receive():
                whole += piece
            return whole

    def assert_empty(self) -> None:
        assert (self.admission.running, self.admission.waiting, self.upstream.at_work) == (0, 0, 0)
        assert self.replica.counts().running == 0


async def test_a_prompt_goes_to_the_engine_as_it_is_and_its_answer_comes_back(autojump_clock: object) -> None:
    stage = Stage(Script([b"one", b"two"]))
    assert await stage.ask(prompt("/v1/completions?x=1")) == b"onetwo"
    sent = stage.upstream.requests[0]
    assert (sent.method, sent.target) == ("POST", "/v1/completions?x=1")
    assert (sent.headers, sent.body) == (((b"a", b"b"),), b"{}")
    assert stage.replica.counts().served == 1
    stage.assert_empty()


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (EngineState.PREPARING, "model_loading"),
        (EngineState.STARTING, "model_loading"),
        *(
            (state, "engine_unavailable")
            for state in EngineState
            if state not in {EngineState.PREPARING, EngineState.STARTING, EngineState.READY}
        ),
    ],
)
async def test_without_a_ready_engine_the_refusal_says_why_and_when(
    autojump_clock: object, state: EngineState, kind: str
) -> None:
    stage = Stage()
    stage.board.show_state(state, progress="loading weights" if kind == "model_loading" else "")
    with pytest.raises(Refused) as caught:
        await stage.ask()
    refusal = caught.value.refusal
    assert (refusal.status, refusal.type) == (503, kind)
    assert refusal.retry_after is not None
    assert stage.replica.counts().refused == 1
    stage.assert_empty()


async def test_an_engine_that_is_lent_is_said_to_come_back(autojump_clock: object) -> None:
    stage = Stage()
    for state in (EngineState.DRAINING, EngineState.STOPPING, EngineState.STOPPED):
        stage.board.show_state(state, reason=LENT)
        with pytest.raises(Refused) as caught:
            await stage.ask()
        assert caught.value.refusal.message == "The engine is lent to trials; it will be back."
        assert caught.value.refusal.retry_after


async def test_only_prompts_that_the_engine_generates_for_count_as_wanting_it(autojump_clock: object) -> None:
    stage = Stage(Script([trio.sleep_forever]))

    def counted() -> tuple[int, int]:
        return stage.replica.generating_running(), stage.replica.generating_seen()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.ask, prompt("/v1/models"))
        nursery.start_soon(stage.ask, prompt("/tokenize"))
        await wait_all_tasks_blocked()
        assert (stage.replica.counts().running, *counted()) == (2, 0, 0)
        nursery.start_soon(stage.ask)
        nursery.start_soon(stage.ask)
        await wait_all_tasks_blocked()
        assert (stage.replica.counts().waiting, *counted()) == (1, 2, 2)
        nursery.cancel_scope.cancel()
    stage.board.show_state(EngineState.STOPPED)
    with pytest.raises(Refused):
        await stage.ask()
    assert counted() == (0, 3)


async def test_prompts_wait_for_their_turn_and_the_owner_is_first(autojump_clock: object) -> None:
    go, going = trio.open_memory_channel[None](10)
    order: list[str] = []
    stage = Stage(Script([going.receive, b"x"]))

    async def one(name: str, requester: Requester) -> None:
        await stage.ask(prompt(requester=requester))
        order.append(name)

    async with trio.open_nursery() as nursery:
        for name, requester in (("first", ANNE), ("second", ANNE), ("owner", OWNER)):
            nursery.start_soon(one, name, requester)
            await wait_all_tasks_blocked()
        assert (stage.upstream.at_work, stage.replica.counts().waiting) == (1, 2)
        for _ in range(3):
            await go.send(None)
    assert order == ["first", "owner", "second"]
    stage.assert_empty()


async def test_waiting_ends_with_a_refusal_in_time(autojump_clock: object) -> None:
    stage = Stage(Script([trio.sleep_forever]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.ask)
        await wait_all_tasks_blocked()
        began = trio.current_time()
        for deadline, waited in ((None, 10.0), (began + 13.0, 3.0)):
            start = trio.current_time()
            with pytest.raises(Refused) as caught:
                await stage.ask(prompt(deadline=deadline))
            assert caught.value.refusal.code == "queue_timeout"
            assert trio.current_time() - start == pytest.approx(waited)
        nursery.cancel_scope.cancel()
    stage.assert_empty()


async def test_a_full_queue_refuses_and_a_lighter_requester_takes_a_heavier_ones_place(autojump_clock: object) -> None:
    stage = Stage(Script([trio.sleep_forever]))
    refusals: list[str | None] = []

    async def one() -> None:
        try:
            await stage.ask()
        except Refused as refused:
            refusals.append(refused.refusal.code)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(one)
            await wait_all_tasks_blocked()
        assert refusals == ["queue_full"]
        nursery.start_soon(stage.ask, prompt(requester=OWNER))
        await wait_all_tasks_blocked()
        assert refusals == ["queue_full", "displaced"]
        nursery.cancel_scope.cancel()
    stage.assert_empty()


async def test_what_generates_nothing_needs_no_turn(autojump_clock: object) -> None:
    stage = Stage(Script([b"{}"]), AdmissionLimits(running=0, waiting=0, longest_wait=1.0))
    for target in ("/v1/models", "/tokenize", "/v1/messages/count_tokens"):
        assert await stage.ask(prompt(target)) == b"{}"
    with pytest.raises(Refused):
        await stage.ask(prompt("/v1/embeddings"))


async def test_an_engine_that_dies_while_a_prompt_waits_is_not_asked(autojump_clock: object) -> None:
    go, going = trio.open_memory_channel[None](1)
    stage = Stage(Script([going.receive, b"x"]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.ask)
        await wait_all_tasks_blocked()

        async def second() -> None:
            with pytest.raises(Refused):
                await stage.ask()

        nursery.start_soon(second)
        await wait_all_tasks_blocked()
        stage.board.show_state(EngineState.BACKOFF)
        await go.send(None)
    assert len(stage.upstream.requests) == 1
    stage.assert_empty()


@pytest.mark.parametrize("place", ["queue", "prefill", "stream"])
async def test_cancelled_anywhere_a_prompt_leaves_nothing_behind(autojump_clock: object, place: str) -> None:
    head: Callable[[], Awaitable[object]] | None = trio.sleep_forever if place == "prefill" else None
    stage = Stage(Script([b"x", trio.sleep_forever], head=head))
    async with trio.open_nursery() as nursery:
        if place == "queue":
            nursery.start_soon(stage.ask)
            await wait_all_tasks_blocked()
        nursery.start_soon(stage.ask)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    stage.assert_empty()
    assert stage.upstream.left_early == 1
    assert stage.replica.counts().abandoned == 1


@pytest.mark.parametrize("script", [Script([], no_head=Broken("gone")), Script([b"x", Broken("gone")])])
async def test_a_broken_engine_counts_once_and_gives_the_slot_back(autojump_clock: object, script: Script) -> None:
    stage = Stage(script)
    with pytest.raises(Broken):
        await stage.ask()
    counts = stage.replica.counts()
    assert (counts.failed, counts.served, counts.abandoned) == (1, 0, 0)
    stage.assert_empty()


async def test_a_break_that_the_reader_handles_counts_once_too(autojump_clock: object) -> None:
    stage = Stage(Script([Broken("gone")]))
    async with stage.replica.answer(prompt()) as answer:
        with pytest.raises(Broken):
            await answer.receive()
    assert stage.replica.counts().failed == 1


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (Script([b"vllm:", b"x 1\n"]), b"vllm:x 1\n"),
        (Script([b"no"], status=404), b""),
        (Script([], no_head=Broken("gone")), b""),
        (Script([b"x", Broken("gone")]), b""),
        (Script([b"x", trio.sleep_forever]), b""),
        (Script([b"x" * 1_000_000] * 5), b""),
    ],
)
async def test_metrics_are_passed_on_or_there_are_none(autojump_clock: object, script: Script, expected: bytes) -> None:
    assert await Stage(script).replica.engine_metrics() == expected


async def test_load_counts_slots_and_the_queue_and_tells_each_whether_there_is_room(autojump_clock: object) -> None:
    stage = Stage(Script([trio.sleep_forever]), AdmissionLimits(running=2, waiting=1, longest_wait=10.0, reserved=1))
    peer = Requester(RequesterKind.PEER, "carl")
    assert stage.replica.load(peer) == Load(running=0, waiting=0, slots=2)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(stage.ask, prompt(requester=peer))
            await wait_all_tasks_blocked()
        assert stage.replica.load(peer) == Load(running=1, waiting=1, slots=2, accepting=False)
        assert stage.replica.load(ANNE).accepting
        assert stage.replica.load().accepting
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("state", EngineState)
def test_load_tells_what_the_engine_can_do(state: EngineState) -> None:
    stage = Stage()
    stage.board.show_state(state)
    expected = {
        EngineState.PREPARING: Serving.LOADING,
        EngineState.STARTING: Serving.LOADING,
        EngineState.READY: Serving.READY,
        EngineState.DRAINING: Serving.DRAINING,
    }
    assert stage.replica.load().serving is expected.get(state, Serving.AWAY)


async def test_an_engine_that_has_just_died_is_a_503_since_nothing_was_done(autojump_clock: object) -> None:
    stage = Stage(Script([], no_head=Unreached("The engine cannot be reached: ECONNREFUSED.")))
    with pytest.raises(Refused) as caught:
        await stage.ask()
    refusal = caught.value.refusal
    assert (refusal.status, refusal.type) == (503, "engine_unavailable")
    assert refusal.retry_after is not None
    assert stage.replica.counts().refused == 1
    assert stage.replica.counts().failed == 0
    stage.assert_empty()
