"""Switching over the real launcher, guardian and upstream, and a stub that goes wrong under one strategy only.

Each row says what goes wrong with the new engine and what a person then reads.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from node.adapters.engine.room import EngineRoom, peak_memory, weight_bytes
from node.adapters.engine.vllm import VllmLauncher
from node.adapters.system import LocalMachine
from node.adapters.upstream.pool import UpstreamPool
from node.core.engine_state import EngineState
from node.core.strategy import DEFAULT, Strategy
from node.ports import LaunchPlan
from node.services.switch import Switched, Switcher
from node.services.tend import EngineKeeper, TendLimits
from tests.fakes.stub_launch import engines_of, stub_plan, stub_setup

pytestmark = pytest.mark.slow

DEADLINE = 60.0  # s for a test; each takes some seconds on a machine that does other work too
QUICK = TendLimits(start_timeout=5.0, hang_after=5.0, health_every=0.2, probe_timeout=1.0, stop_grace=2.0)
FOUR = Strategy(max_num_seqs=4)
ASK = b'{"model": "stub-model", "prompt": "a b c", "max_tokens": 20, "stream": true}'
JSON = ((b"content-type", b"application/json"),)


@dataclass
class Node:
    """A keeper, its switcher, and a client."""

    keeper: EngineKeeper
    switcher: Switcher
    upstream: UpstreamPool
    running: dict[int, int]

    async def until(self, state: EngineState) -> None:
        snapshot = self.keeper.snapshot()
        while snapshot.state is not state:
            snapshot = await self.keeper.changed(snapshot)

    async def ask(self) -> bytes:
        """Ask for twenty tokens where the board says; wait until it says where."""
        while (endpoint := self.keeper.endpoint()) is None or self.keeper.snapshot().state is not EngineState.READY:
            await self.keeper.changed(self.keeper.snapshot())
        received = b""
        self.running[endpoint.port] = self.running.get(endpoint.port, 0) + 1
        try:
            async with self.upstream.send(
                endpoint, method="POST", target="/v1/completions", headers=JSON, body=ASK
            ) as answer:
                while part := await answer.receive():
                    received += part
        finally:
            self.running[endpoint.port] -= 1
        return received


@asynccontextmanager
async def node(folder: Path, *, room: bool, **wrong: object) -> AsyncIterator[Node]:
    upstream, running, plan = UpstreamPool(), {}, stub_plan(folder)
    keeper = EngineKeeper(
        launcher=VllmLauncher(stub_setup(folder, wrong), LocalMachine()),
        upstream=upstream,
        plan=plan,
        limits=QUICK,
        in_flight=lambda endpoint: running.get(endpoint.port, 0),
        last_activity=upstream.last_activity,
        luck=lambda: 0.0,
        on_change=lambda _: None,
    )

    async def has_room(plan: LaunchPlan) -> bool:
        del plan
        await trio.lowlevel.checkpoint()
        return room

    switcher = Switcher(keeper, base=plan, room=has_room, lever=lambda one, other: one == other, first_start=5.0)
    made = Node(keeper, switcher, upstream, running)
    try:
        with trio.fail_after(DEADLINE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keeper.run)
                await made.until(EngineState.READY)
                yield made
                nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await upstream.aclose()
    assert engines_of(folder) == []


TROUBLES = [
    ({"crash_before_listening": "ValueError: no room"}, "start_failed", "ended with status 1: ValueError: no room"),
    ({"crash_before_listening": "torch.OutOfMemoryError: CUDA out of memory"}, "out_of_memory", "OutOfMemoryError"),
    ({"crash_after": 1}, "out_of_memory", "SIGKILL"),
    ({"slow_start": 60}, "timed_out", "after 5 s"),
    ({"hang_after": 0}, "timed_out", "after 5 s"),
    ({"empty_answers": True}, "wrong_answers", "without a token"),
    ({"garbage_answers": "!"}, "wrong_answers", "'!'"),
]


@pytest.mark.parametrize("room", [False, True], ids=["restart", "start-first"])
@pytest.mark.parametrize(("wrong", "result", "words"), TROUBLES, ids=[str(wrong) for wrong, _, _ in TROUBLES])
async def test_the_node_serves_again_on_the_last_good_strategy_and_says_why(
    tmp_path: Path, wrong: dict[str, object], result: str, words: str, room: bool
) -> None:
    async with node(tmp_path, room=room, under_seqs=4, **wrong) as it:
        switched = await it.switcher.switch(FOUR, reason="better")
        assert (switched.result, switched.serving) == (result, DEFAULT)
        assert words in switched.reason
        now = it.keeper.snapshot()
        assert (now.state, now.strategy) == (EngineState.READY, "default")
        if switched.how == "restart":
            assert words in now.reason
        assert (await it.ask()).endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("room", [False, True], ids=["restart", "start-first"])
async def test_no_answer_is_lost_while_it_switches(tmp_path: Path, room: bool) -> None:
    async with node(tmp_path, room=room, token_delay=0.01) as it:
        answers: list[bytes] = []
        ending = False

        async def client() -> None:
            while not ending:
                answers.append(await it.ask())

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(client)
            results: list[Switched] = [
                await it.switcher.switch((FOUR, DEFAULT)[turn % 2], reason=f"turn {turn}") for turn in range(4)
            ]
            ending = True
        assert [each.result for each in results] == ["done"] * 4
        assert [each.down_s == 0 for each in results] == [room] * 4
        assert all(answer.count(b'"text": "t') == 20 and answer.endswith(b"[DONE]\n\n") for answer in answers)
        print(f"{len(answers)} answers; {[f'{each.how} {each.took_s:.2f} s' for each in results]}")


async def test_room_is_for_as_much_as_the_present_engine_ever_held_and_a_quarter_more(tmp_path: Path) -> None:
    setup, plan = stub_setup(tmp_path), stub_plan(tmp_path)
    machine = Memory()
    room = EngineRoom(setup, machine, gpu_free=lambda: None)
    machine.free = 1 << 50
    assert not await room(plan)  # of no engine's memory nothing is known
    async with VllmLauncher(setup, LocalMachine()).launch(plan):
        with trio.fail_after(10):
            while peak_memory(engines_of(tmp_path)) < 1 << 20:  # noqa: ASYNC110 -- a process tells no event
                await trio.sleep(0.02)
        await trio.sleep(0.3)
        present = peak_memory(engines_of(tmp_path))
        machine.free = present * 2
        assert await room(plan)
        machine.free = present
        assert not await room(plan)
        machine.free = present * 2
        cached = LaunchPlan(model=plan.model, served_name="m", strategy=DEFAULT, kv_cache_bytes=present)
        assert not await room(cached)


class Memory(LocalMachine):
    """A machine whose free memory is data."""

    free = 0

    def memory_available(self) -> int:
        return self.free


def test_weights_are_counted_once_in_whatever_format(tmp_path: Path) -> None:
    assert weight_bytes(tmp_path) == 0
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(100))
    assert weight_bytes(tmp_path) == 100
    for part in range(2):
        (tmp_path / f"model-{part}.safetensors").write_bytes(bytes(30))
    assert weight_bytes(tmp_path) == 60
