"""The learner's child process, the real one and ones that misbehave."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio

from node.adapters import learner_child
from node.adapters.learner_child import ChildSetup, LearnerChild, open_learner
from node.core.learning import Late
from node.errors import Unavailable

pytestmark = pytest.mark.slow

WITHIN = 90.0  # s
READY = 'print(\'{"event":"ready"}\', flush=True)'
ROWS = [{"strategy.max_num_seqs": seqs, "workload.concurrency": 64} for seqs in (1, 64)]


def misbehaving(script: str, **more: Any) -> ChildSetup:
    """Return a child that runs this Python instead of a worker."""
    head = "import json, os, sys, time\n"
    return ChildSetup(command=(sys.executable, "-c", head + script), backoff=(0.05,), **more)


def children() -> list[psutil.Process]:
    return [each for each in psutil.Process().children(recursive=True) if each.status() != psutil.STATUS_ZOMBIE]


async def is_ready(child: LearnerChild, starts: int = 1) -> None:
    with trio.fail_after(WITHIN):
        while not (child.ready and child.starts >= starts):  # noqa: ASYNC110 -- nobody is told of a start
            await trio.sleep(0.02)


async def test_the_real_worker_answers_by_physics_and_nothing_of_it_is_left_behind() -> None:
    pytest.importorskip("scipy")
    events: list[str] = []
    with trio.fail_after(WITHIN):
        async with open_learner(ChildSetup(hear=lambda event: events.append(str(event["event"])))) as child:
            await is_ready(child)
            answers = [await child.ask("choose", rows=ROWS, default=0) for _ in range(2)]
            assert answers[0]["index"] == 1
            assert answers[0] == answers[1]
            with pytest.raises(Unavailable, match="refuses"):
                await child.ask("choose", rows=[])
            assert (await child.ask("state"))["rows"] == 0
    assert events == ["ready"]
    assert children() == []


async def test_a_child_that_dies_over_a_question_is_started_again_and_the_question_is_unavailable() -> None:
    setup = misbehaving(f"{READY}\nsys.stdin.readline(); print('bug', file=sys.stderr); sys.exit(3)")
    with trio.fail_after(WITHIN):
        async with open_learner(setup) as child:
            await is_ready(child)
            with pytest.raises(Unavailable, match="died"):
                await child.ask("state")
            await is_ready(child, starts=2)
    assert children() == []


async def test_a_dumb_child_is_killed_after_the_deadline_with_all_who_wait_for_it() -> None:
    setup = misbehaving(f"{READY}\ntime.sleep(600)", ask_deadline=0.3, dumb_deadline=0.5)
    with trio.fail_after(WITHIN):
        async with open_learner(setup) as child:
            await is_ready(child)
            for _ in range(2):  # the first time it may only be slow
                with pytest.raises(Unavailable, match="did not answer"):
                    await child.ask("state")
            await is_ready(child, starts=2)


async def test_a_slow_child_is_not_killed_and_a_late_answer_is_nobody_s() -> None:
    slow = "time.sleep(0.6)\nfor number in (1, 2): print(json.dumps({'id': number, 'ok': {'n': number}}), flush=True)"
    setup = misbehaving(f"{READY}\nsys.stdin.readline()\n{slow}\ntime.sleep(600)", ask_deadline=0.4)
    with trio.fail_after(WITHIN):
        async with open_learner(setup) as child:
            await is_ready(child)
            with pytest.raises(Unavailable, match="did not answer"):
                await child.ask("state")
            assert await child.ask("state") == {"n": 2}
            assert child.starts == 1


async def test_a_question_that_json_has_not_is_refused_and_takes_no_number() -> None:
    answer = "print(json.dumps({'id': 1, 'ok': json.loads(sys.stdin.readline())}), flush=True)"
    circular: list[Any] = []
    circular.append(circular)
    with trio.fail_after(WITHIN):
        async with open_learner(misbehaving(f"{READY}\n{answer}\ntime.sleep(600)")) as child:
            await is_ready(child)
            for wrong in (float("nan"), {1}, circular, "x" * learner_child.LINE_LIMIT):
                with pytest.raises(Unavailable, match="question"):
                    await child.ask("state", wrong=wrong)
            assert await child.ask("state") == {"id": 1, "do": "state"}


async def test_a_lesson_has_longer_to_be_acknowledged_than_a_question_to_be_answered() -> None:
    slow = "time.sleep(0.5)\nprint(json.dumps({'id': 1, 'ok': {}}), flush=True)"
    setup = misbehaving(f"{READY}\nsys.stdin.readline()\n{slow}\ntime.sleep(600)", ask_deadline=0.1)
    with trio.fail_after(WITHIN):
        async with open_learner(setup) as child:
            await is_ready(child)
            assert await child.ask("train") == {}
            with pytest.raises(Late):
                await child.ask("state")


async def test_a_limit_of_memory_that_no_system_has_is_complained_of_and_leaves_nothing_behind() -> None:
    heard: list[Any] = []
    with trio.fail_after(WITHIN):
        async with open_learner(misbehaving("time.sleep(600)", memory_bytes=1 << 70, hear=heard.append)) as child:
            while len(heard) < 2:  # noqa: ASYNC110 -- nobody is told of an end
                await trio.sleep(0.02)
            assert not child.ready
    assert {each["event"] for each in heard} == {"ended"}
    assert "cannot be limited" in heard[0]["reason"]
    assert children() == []


async def test_who_keeps_it_hears_that_it_died_and_may_have_it_replaced() -> None:
    heard: list[Any] = []
    setup = misbehaving(f"{READY}\nprint('words', file=sys.stderr)\ntime.sleep(600)", hear=heard.append)
    with trio.fail_after(WITHIN):
        async with open_learner(setup) as child:
            await is_ready(child)
            child.renew("it learns for ever")
            await is_ready(child, starts=2)
    assert [each["event"] for each in heard[:3]] == ["ready", "ended", "ready"]
    assert "it learns for ever" in heard[1]["reason"]


async def test_one_that_never_gets_ready_one_that_talks_nonsense_and_one_that_is_not_there_are_tried_again() -> None:
    for setup in (
        misbehaving("time.sleep(600)", ready_deadline=0.2),
        misbehaving(f"{READY}\nprint('Traceback', flush=True)\ntime.sleep(600)"),
        misbehaving(f"{READY}\nwhile True: sys.stdout.write('x' * 65536)"),
        ChildSetup(command=("/nowhere/python",), backoff=(0.05,)),
    ):
        with trio.fail_after(WITHIN):
            async with open_learner(setup) as child:
                while child.starts < 3:  # noqa: ASYNC110 -- nobody is told of a start
                    await trio.sleep(0.02)
        assert children() == []


async def test_a_child_that_is_not_running_or_has_too_much_to_answer_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="not running"):
        await LearnerChild(ChildSetup()).ask("state")
    setup = misbehaving(f"{READY}\ntime.sleep(600)", ask_deadline=2.0)
    with trio.fail_after(WITHIN):
        async with open_learner(setup) as child, trio.open_nursery() as nursery:
            await is_ready(child)

            async def asks() -> None:
                with pytest.raises(Unavailable):
                    await child.ask("state")

            for _ in range(learner_child.OUTSTANDING):
                nursery.start_soon(asks)
            await trio.testing.wait_all_tasks_blocked(0.05)
            with pytest.raises(Unavailable, match="too many"):
                await child.ask("state")


async def test_a_child_that_eats_memory_is_stopped_by_its_limit() -> None:
    eat = f'{READY}\nsys.stdin.readline()\nfood = bytearray(2 << 30)\nprint(\'{{"id":1,"ok":{{}}}}\', flush=True)'
    with trio.fail_after(WITHIN):
        async with open_learner(misbehaving(eat, memory_bytes=1 << 30)) as child:
            await is_ready(child)
            with pytest.raises(Unavailable, match="died"):
                await child.ask("state")


async def test_the_child_gets_no_secret_of_the_daemon_and_one_thread() -> None:
    answer = "print(json.dumps({'id': 1, 'ok': dict(os.environ)}), flush=True)"
    inherited = {"PATH": os.environ["PATH"], "METAINF_API_KEY": "hunter2", "OMP_NUM_THREADS": "64"}
    with trio.fail_after(WITHIN):
        async with open_learner(misbehaving(f"{READY}\nsys.stdin.readline()\n{answer}", inherited=inherited)) as child:
            await is_ready(child)
            seen = await child.ask("state")
    assert "METAINF_API_KEY" not in seen
    assert seen["OMP_NUM_THREADS"] == "1"


def test_the_daemon_s_side_imports_nothing_heavy() -> None:
    probe = (
        "import sys, node.app, node.adapters.learner_child;"
        "heavy = {'torch', 'lightgbm', 'sentence_transformers', 'scipy', 'sklearn', 'node.learner'};"
        "found = heavy & set(sys.modules); assert not found, found"
    )
    root = Path(__file__).parent.parent.parent
    found = subprocess.run(
        [sys.executable, "-c", probe], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert found.returncode == 0, found.stderr
