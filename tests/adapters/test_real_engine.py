"""The real vLLM on CPU with random weights: its parser takes our flags, and one start keeps every promise."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from node.adapters.engine import leftovers
from node.adapters.engine.install import describe
from node.adapters.engine.leftovers import Mark
from node.adapters.engine.vllm import VllmLauncher, VllmSetup
from node.adapters.system import LocalMachine
from node.adapters.upstream.pool import UpstreamPool
from node.core.engine_flags import engine_flags
from node.core.engine_state import EngineSnapshot, EngineState
from node.core.strategy import DEFAULT, EXTRA_FLAGS, Speculation, Strategy
from node.ports import Endpoint, LaunchPlan
from node.services.tend import EngineKeeper, TendLimits
from tests.e2e.tiny_model import tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.engine]

START_WITHIN = 150.0  # s; 20 on two idle cores
PARSE_WITHIN = 120.0  # s for importing vLLM's parser; 12 on an idle core
PARSE = """
import json, sys
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser())
known = {option for action in parser._actions for option in action.option_strings}
for line in json.load(sys.stdin):
    unknown = [part for part in line if part.startswith("--") and part not in known]
    assert not unknown, unknown
    parser.parse_args(line)
print("taken")
"""
EVERYTHING = Strategy(
    prefix_caching=False,
    chunked_prefill=True,
    max_num_seqs=8,
    max_num_batched_tokens=2048,
    long_prefill_token_threshold=256,
    speculation=Speculation(method="draft_model", tokens=3),
    kv_cache_dtype="fp8_e5m2",
    weight_quantization="fp8",
    compile=False,
    tensor_parallel=2,
    pipeline_parallel=2,
    engine_extra=(
        ("async-scheduling", "no"),
        ("attention-backend", "FLASH_ATTN"),
        ("block-size", "32"),
        ("draft-model", "org/draft"),
        ("long-prefill-token-threshold-adaptive", "yes"),
        ("max-num-active-seqs", "4"),
        ("scheduling-policy", "priority"),
    ),
)


def test_vllms_own_parser_takes_every_flag_that_a_strategy_can_ask_for() -> None:
    assert {key for key, _ in EVERYTHING.engine_extra} == {*EXTRA_FLAGS, "draft-model"}
    opposite = replace(EVERYTHING, prefix_caching=True, chunked_prefill=False, engine_extra=(), speculation=None)
    lines = [engine_flags(strategy, "cuda") for strategy in (DEFAULT, EVERYTHING, opposite)]
    done = subprocess.run(
        [sys.executable, "-c", PARSE],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        timeout=PARSE_WITHIN,
        check=False,
    )
    assert done.stdout.endswith("taken\n"), done.stderr[-2000:]


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


async def test_one_start_of_the_real_engine_keeps_every_promise(tmp_path: Path) -> None:
    setup = VllmSetup(
        python=Path(sys.executable),
        logs=tmp_path / "logs",
        work=tmp_path / "work",
        cache=tmp_path / "cache",
        tag=f"real-{tmp_path.name}",
    )
    mark = Mark(tag=setup.tag, folder=setup.work)
    assert (await describe(setup.python)).build == "cpu"
    plan = LaunchPlan(
        model=str(tiny_model()), served_name="tiny", strategy=Strategy(max_num_seqs=4), max_model_len=2048
    )
    upstream = UpstreamPool()
    running = 0
    seen: list[EngineSnapshot] = []
    keeper = EngineKeeper(
        launcher=VllmLauncher(setup, LocalMachine()),
        upstream=upstream,
        plan=plan,
        limits=TendLimits(start_timeout=START_WITHIN),
        in_flight=lambda _: running,
        last_activity=upstream.last_activity,
        luck=lambda: 0.0,
        on_change=seen.append,
    )

    async def ask(endpoint: Endpoint, tokens: int) -> tuple[int, bytes]:
        body = {"model": "tiny", "prompt": "one two", "max_tokens": tokens, "stream": True, "ignore_eos": True}
        headers = ((b"content-type", b"application/json"),)
        raw, received = json.dumps(body).encode(), b""
        async with upstream.send(
            endpoint, method="POST", target="/v1/completions", headers=headers, body=raw
        ) as answer:
            while part := await answer.receive():
                received += part
            return answer.status, received

    with trio.fail_after(START_WITHIN + 60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper.run)
            snapshot = keeper.snapshot()
            while snapshot.state is not EngineState.READY:
                assert snapshot.state is not EngineState.BACKOFF, (snapshot.reason, snapshot.log_tail)
                snapshot = await keeper.changed(snapshot)
            endpoint = keeper.endpoint()
            assert endpoint is not None
            assert (await ask(endpoint, 4))[0] == 200
            assert (await ask(replace(endpoint, api_key="wrong"), 4))[0] == 401
            assert endpoint.api_key
            assert endpoint.api_key not in "".join(command_line(pid) for pid in leftovers.find(mark))
            results: list[tuple[int, bytes]] = []

            async def long_answer() -> None:
                nonlocal running
                running += 1
                results.append(await ask(endpoint, 400))
                running -= 1

            nursery.start_soon(long_answer)
            await trio.sleep(0.2)
            await keeper.stop(reason="the test is over", grace=60)
            status, answer = results[0]
            assert (status, answer.endswith(b"data: [DONE]\n\n")) == (200, True)
            assert leftovers.find(mark) == []
            nursery.cancel_scope.cancel()
    await upstream.aclose()
    assert [snapshot.state for snapshot in seen][-3:] == [
        EngineState.DRAINING,
        EngineState.STOPPING,
        EngineState.STOPPED,
    ]
