"""The keeper over the real launcher, guardian and upstream, and a stub that does each thing wrong in turn.

Each row says what goes wrong and what a person then reads. Run with `-s` to see every snapshot.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from node.adapters.engine.external import ExternalLauncher
from node.adapters.engine.vllm import VllmLauncher
from node.adapters.system import LocalMachine
from node.adapters.upstream.pool import UpstreamPool
from node.core.engine_state import EngineSnapshot, EngineState, ServedModel
from node.core.strategy import EXTERNAL
from node.errors import Broken
from node.ports import EngineLauncher, LaunchPlan
from node.services.tend import EngineKeeper, TendLimits
from tests.fakes.stub_launch import MODEL, engines_of, stub_plan, stub_setup

pytestmark = pytest.mark.slow

DEADLINE = 20.0  # s for a test; each takes one or two
QUICK = TendLimits(start_timeout=3.0, hang_after=1.0, health_every=0.1, probe_timeout=0.3, stop_grace=1.0)
ASK = b'{"model": "stub-model", "prompt": "a b c", "max_tokens": 8, "stream": true}'
JSON = ((b"content-type", b"application/json"),)


class Kept:
    """A keeper, its upstream and every snapshot that it told."""

    def __init__(self, launcher: EngineLauncher, plan: LaunchPlan, limits: TendLimits) -> None:
        self.seen: list[EngineSnapshot] = []
        self.running = 0
        self.upstream = UpstreamPool()
        self.keeper = EngineKeeper(
            launcher=launcher,
            upstream=self.upstream,
            plan=plan,
            limits=limits,
            in_flight=lambda _: self.running,
            last_activity=self.upstream.last_activity,
            luck=lambda: 0.0,
            on_change=self.note,
        )

    def note(self, snapshot: EngineSnapshot) -> None:
        self.seen.append(snapshot)
        print(f"{snapshot.state.value:9} {snapshot.reason}  [{snapshot.progress}]")

    async def until(self, *states: EngineState) -> EngineSnapshot:
        snapshot = self.keeper.snapshot()
        while snapshot.state not in states:
            snapshot = await self.keeper.changed(snapshot)
        return snapshot

    async def ask(self, body: bytes = ASK) -> bytes:
        endpoint = self.keeper.endpoint()
        assert endpoint is not None
        received = b""
        self.running += 1
        try:
            async with self.upstream.send(
                endpoint, method="POST", target="/v1/completions", headers=JSON, body=body
            ) as answer:
                while part := await answer.receive():
                    received += part
        finally:
            self.running -= 1
        return received


@asynccontextmanager
async def kept(folder: Path, **wrong: object) -> AsyncIterator[Kept]:
    launcher = VllmLauncher(stub_setup(folder, wrong), LocalMachine())
    async with keeping(launcher, stub_plan(folder), QUICK) as made:
        yield made
    assert engines_of(folder) == []


@asynccontextmanager
async def keeping(launcher: EngineLauncher, plan: LaunchPlan, limits: TendLimits) -> AsyncIterator[Kept]:
    made = Kept(launcher, plan, limits)
    try:
        with trio.fail_after(DEADLINE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(made.keeper.run)
                yield made
                nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await made.upstream.aclose()


async def test_a_sound_engine_becomes_ready_and_answers(tmp_path: Path) -> None:
    async with kept(tmp_path) as it:
        ready = await it.until(EngineState.READY)
        assert (ready.model, ready.strategy, ready.restarts) == (MODEL, "default", 0)
        assert it.keeper.models() == (ServedModel(MODEL, 2048),)
        assert (await it.ask()).endswith(b"data: [DONE]\n\n")
        states = [snapshot.state.value for snapshot in it.seen]
        assert list(dict.fromkeys(states)) == ["preparing", "starting", "ready"]


START_TROUBLES = [
    ({"crash_before_listening": "ValueError: no room"}, "ended with status 1: ValueError: no room (while starting)"),
    ({"exit_before_listening": 0}, "ended by itself as if all were well) (while starting)"),
    ({"exit_before_listening": 127}, "its program was not found"),
    ({"never_healthy": True}, "did not become ready: /health answers 503, after 3 s"),
    ({"completions_status": 500}, "did not become ready: /v1/completions answers 500, after 3 s"),
    ({"garbage_http": True}, "did not become ready: "),
    ({"slow_start": 60}, "did not become ready: "),
    ({"hang_after": 0}, "did not become ready: /health did not answer"),
    ({"crash_after": 1}, "killed by signal 9 (SIGKILL: out of memory? or killed by hand) (while starting)"),
]


@pytest.mark.parametrize(("wrong", "words"), START_TROUBLES, ids=[str(wrong) for wrong, _ in START_TROUBLES])
async def test_an_engine_that_does_not_start_says_why_and_is_tried_again(
    tmp_path: Path, wrong: dict[str, object], words: str
) -> None:
    async with kept(tmp_path, **wrong) as it:
        backoff = await it.until(EngineState.BACKOFF)
        assert words in backoff.reason
        assert backoff.restarts == 1
        assert backoff.retry_at is not None
        assert it.keeper.endpoint() is None
        again = await it.until(EngineState.STARTING)
        assert again.restarts == 1


SERVE_TROUBLES = [
    ({"crash_after": 4}, "killed by signal 9 (SIGKILL: out of memory? or killed by hand) (while serving)"),
    ({"exit_after": 4}, "ended with status 0 (it ended by itself as if all were well) (while serving)"),
    ({"hang_after": 4}, "the engine hangs: neither health nor a byte for 1 s"),
]


@pytest.mark.parametrize(("wrong", "words"), SERVE_TROUBLES, ids=[str(wrong) for wrong, _ in SERVE_TROUBLES])
async def test_an_engine_that_dies_while_it_serves_says_why_and_serves_again(
    tmp_path: Path, wrong: dict[str, object], words: str
) -> None:
    async with kept(tmp_path, **wrong) as it:
        first = await it.until(EngineState.READY)

        async def ask() -> None:
            with pytest.raises(Broken):
                await it.ask()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            backoff = await it.until(EngineState.BACKOFF)
        assert words in backoff.reason
        again = await it.until(EngineState.READY)
        assert again.restarts == 1
        assert again.pid != first.pid
        assert it.keeper.endpoint() is not None


async def test_a_sigterm_that_is_ignored_costs_only_the_grace(tmp_path: Path) -> None:
    async with kept(tmp_path, ignore_sigterm=True, grandchild=True) as it:
        await it.until(EngineState.READY)
        begin = trio.current_time()
        await it.keeper.stop(reason="the test is over", grace=5)
        assert trio.current_time() - begin < 3
        assert it.keeper.snapshot().state is EngineState.STOPPED


async def test_garbage_on_its_output_harms_nobody(tmp_path: Path) -> None:
    async with kept(tmp_path, garbage_output=500_000) as it:
        await it.until(EngineState.READY)
        assert (await it.ask()).endswith(b"data: [DONE]\n\n")


async def test_a_stop_waits_for_what_runs_and_takes_nothing_new(tmp_path: Path) -> None:
    async with kept(tmp_path, token_delay=0.05) as it, trio.open_nursery() as nursery:
        await it.until(EngineState.READY)
        answers: list[bytes] = []

        async def ask() -> None:
            answers.append(await it.ask())

        nursery.start_soon(ask)
        await trio.sleep(0.1)
        nursery.start_soon(lambda: it.keeper.stop(reason="going home", grace=10))
        assert (await it.until(EngineState.DRAINING)).reason == "going home"
        await it.until(EngineState.STOPPED)
        assert answers[0].endswith(b"data: [DONE]\n\n")


async def test_a_second_stop_does_not_wait(tmp_path: Path) -> None:
    async with kept(tmp_path, ignore_sigterm=True) as it, trio.open_nursery() as nursery:
        await it.until(EngineState.READY)
        it.running = 1  # a prompt that will not end in time
        begin = trio.current_time()
        nursery.start_soon(lambda: it.keeper.stop(reason="please", grace=60))
        await it.until(EngineState.DRAINING)
        await it.keeper.stop(reason="now", grace=0)
        assert trio.current_time() - begin < 2


async def test_an_embedding_model_is_ready_too(tmp_path: Path) -> None:
    async with kept(tmp_path, only="embeddings") as it:
        assert (await it.until(EngineState.READY)).reason == "healthy, and it answers"


async def test_a_refused_command_line_is_not_tried_again(tmp_path: Path) -> None:
    async with kept(tmp_path, no_such_misbehaviour=True) as it:
        failed = await it.until(EngineState.FAILED, EngineState.BACKOFF)
        assert failed.state is EngineState.FAILED
        assert "it does not understand its command line" in failed.reason


async def test_a_server_elsewhere_is_attached_to_by_its_own_name_and_its_death_is_noticed(tmp_path: Path) -> None:
    server = VllmLauncher(stub_setup(tmp_path), LocalMachine())
    plan = LaunchPlan(model="", served_name="", strategy=EXTERNAL)
    async with (
        server.launch(stub_plan(tmp_path)) as process,
        keeping(ExternalLauncher(process.endpoint), plan, QUICK) as it,
    ):
        ready = await it.until(EngineState.READY)
        assert (ready.model, ready.strategy, ready.pid) == (MODEL, "external", None)
        assert (await it.ask()).endswith(b"data: [DONE]\n\n")
        await process.stop(grace=1)
        assert "the engine is broken: /health: " in (await it.until(EngineState.BACKOFF)).reason


async def test_a_server_elsewhere_that_refuses_the_key_says_so(tmp_path: Path) -> None:
    server = VllmLauncher(stub_setup(tmp_path), LocalMachine())
    plan = LaunchPlan(model="", served_name="", strategy=EXTERNAL)
    async with server.launch(stub_plan(tmp_path)) as process:
        endpoint = replace(process.endpoint, api_key="wrong")
        async with keeping(ExternalLauncher(endpoint), plan, QUICK) as it:
            assert "it does not accept the key" in (await it.until(EngineState.BACKOFF)).reason
