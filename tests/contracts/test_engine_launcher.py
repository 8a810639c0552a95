"""What every engine launcher promises (`node.ports.EngineLauncher`): kept by vLLM's over the stub, by the external
one and by the fake. `tests/adapters/test_real_engine.py` holds the real vLLM to the same in its one start."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing

from node.adapters.engine.external import ExternalLauncher
from node.adapters.engine.vllm import VllmLauncher
from node.adapters.system import LocalMachine
from node.core.strategy import EXTERNAL
from node.ports import EngineLauncher, EngineProcess, LaunchPlan
from tests.fakes.engine import FakeEngine, FakeLauncher
from tests.fakes.stub_launch import stub_plan, stub_setup, until_it_listens

pytestmark = pytest.mark.slow

DEADLINE = 10.0  # s for anything here that should take milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A launcher under test, and a plan that it can launch."""

    launcher: EngineLauncher
    plan: LaunchPlan
    until_up: Callable[[EngineProcess], Awaitable[None]] = until_it_listens


@asynccontextmanager
async def vllm_over_stub(folder: Path) -> AsyncIterator[Subject]:
    yield Subject(launcher=VllmLauncher(stub_setup(folder), LocalMachine()), plan=stub_plan(folder))


@asynccontextmanager
async def external_over_stub(folder: Path) -> AsyncIterator[Subject]:
    inner = VllmLauncher(stub_setup(folder), LocalMachine())
    async with inner.launch(stub_plan(folder)) as server:
        plan = LaunchPlan(model="", served_name="", strategy=EXTERNAL)
        yield Subject(launcher=ExternalLauncher(server.endpoint), plan=plan)


@asynccontextmanager
async def in_memory(folder: Path) -> AsyncIterator[Subject]:
    async def up(process: EngineProcess) -> None:
        del process
        await trio.lowlevel.checkpoint()

    yield Subject(launcher=FakeLauncher(FakeEngine(load_time=0)), plan=stub_plan(folder), until_up=up)


@pytest.fixture(params=[vllm_over_stub, external_over_stub, in_memory], ids=["vllm", "external", "fake"])
async def subject(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    async with request.param(tmp_path) as made:
        yield made


async def test_what_is_launched_comes_to_listen_at_its_endpoint(subject: Subject) -> None:
    await subject.launcher.prepare(subject.plan, tell=lambda _: None)
    async with subject.launcher.launch(subject.plan) as process:
        await subject.until_up(process)


async def test_stop_returns_the_end_and_may_be_repeated(subject: Subject) -> None:
    async with subject.launcher.launch(subject.plan) as process:
        await subject.until_up(process)
        with trio.fail_after(DEADLINE):
            first = await process.stop(grace=5)
            again = await process.stop(grace=0)
        assert first == again
        assert first.code == 0


async def test_any_number_of_tasks_may_wait_and_each_learns_the_same(subject: Subject) -> None:
    ends = []

    async def wait() -> None:
        ends.append(await process.wait())

    async with subject.launcher.launch(subject.plan) as process:
        await subject.until_up(process)
        with trio.fail_after(DEADLINE):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                await process.stop(grace=5)
    assert len(ends) == 5
    assert len(set(ends)) == 1


async def test_a_cancelled_wait_leaves_the_others_waiting(subject: Subject) -> None:
    ends = []

    async def wait() -> None:
        ends.append(await process.wait())

    async with subject.launcher.launch(subject.plan) as process:
        await subject.until_up(process)
        with trio.fail_after(DEADLINE):
            async with trio.open_nursery() as nursery:
                with trio.move_on_after(0.1):
                    nursery.start_soon(wait)
                    await process.wait()
                await process.stop(grace=5)
    assert len(ends) == 1


async def test_wait_does_not_return_while_it_runs(subject: Subject) -> None:
    async with subject.launcher.launch(subject.plan) as process:
        await subject.until_up(process)
        with trio.move_on_after(0.3) as patience:
            await process.wait()
    assert patience.cancelled_caught


async def test_a_cancelled_stop_can_be_taken_up_again(subject: Subject) -> None:
    async with subject.launcher.launch(subject.plan) as process:
        await subject.until_up(process)
        with trio.CancelScope() as scope:
            scope.cancel()
            await process.stop(grace=5)
        with trio.fail_after(DEADLINE):
            assert (await process.stop(grace=5)).code == 0


async def test_an_error_in_the_body_comes_out_as_it_is(subject: Subject) -> None:
    with pytest.raises(ValueError, match="mine"):
        async with subject.launcher.launch(subject.plan):
            raise ValueError("mine")


async def test_cancelling_the_body_ends_it_too(subject: Subject) -> None:
    with trio.fail_after(DEADLINE), trio.CancelScope() as scope:
        async with subject.launcher.launch(subject.plan) as process:
            scope.cancel()
            await process.wait()
    assert scope.cancelled_caught


async def test_the_key_is_never_shown(subject: Subject) -> None:
    async with subject.launcher.launch(subject.plan) as process:
        key = process.endpoint.api_key
        assert key
        assert key not in repr(process.endpoint)


async def test_two_may_live_at_once_and_either_may_end_first(subject: Subject) -> None:
    async with subject.launcher.launch(subject.plan) as one:
        await subject.until_up(one)
        async with subject.launcher.launch(subject.plan) as other:
            await subject.until_up(other)
            with trio.fail_after(DEADLINE):
                await one.stop(grace=5)
            with trio.move_on_after(0.3) as patience:
                await other.wait()
            assert patience.cancelled_caught
            with trio.fail_after(DEADLINE):
                await other.stop(grace=5)
