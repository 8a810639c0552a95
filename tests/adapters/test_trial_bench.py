"""The bench: a script that misbehaves in its stead, and once the real vLLM with random weights."""

import os
import shutil
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio

from node.adapters.engine.install import SCRIPTS, EngineInstall, describe
from node.adapters.engine.trial_bench import BenchSetup, VllmBench, open_bench
from node.adapters.trial_file import TrialFile
from node.core import workloads
from node.core.strategy import DEFAULT, Speculation, Strategy
from node.core.trial_plan import Failure, Limits
from node.core.workload import Description
from node.core.workloads import MIRROR, Lengths
from node.errors import EngineUnavailable
from node.ports import LaunchPlan
from node.services.trials import Wish, run_trials
from node.trial_ports import BenchWord, Built, Hear, Order
from tests.e2e.tiny_model import tiny_model

pytestmark = pytest.mark.slow

STUB = Path(__file__).parent.parent / "fakes" / "stub_trial.py"
LOADS = workloads.loads(workloads.Scale(prefill=64, decode=8), kinds=("bursty",))
TRAFFIC = Description(
    requests=50,
    prompt_tokens=Lengths(mean=120, p50=100, p95=300),
    output_tokens=Lengths(mean=20, p50=16, p95=40),
    shared_prefix_share=0.2,
    prefix_groups=None,
    concurrency=1.5,
    requests_per_s=5.0,
    burstiness=1.0,
    streaming_share=1.0,
    copy_share=0.5,
    busy_share=0.4,
    span_s=600.0,
    latency_s=0.5,
)


def setup(scripts: Path, *, install: EngineInstall | None = None, model: str = "m") -> BenchSetup:
    return BenchSetup(
        python=Path(sys.executable),
        install=install or EngineInstall(build="cpu", vllm="1", openmp=None, embedded=False),
        plan=LaunchPlan(model=model, served_name="m", strategy=DEFAULT, max_model_len=2048),
        model=model,
        offline=True,
        kv_cache_bytes=64 << 20,
        threads=1,
        scripts=scripts,
    )


def order(strategy: Strategy = DEFAULT, *, build: float = 60.0) -> Order:
    return Order(
        strategy=strategy,
        warmup=workloads.warmup(workloads.Scale(prefill=64, decode=8)),
        loads=tuple((load.name, load.requests) for load in LOADS),
        build_seconds=build,
        load_seconds=60.0,
    )


@pytest.fixture
def stub(tmp_path: Path) -> Callable[[str], BenchSetup]:
    def make(fate: str) -> BenchSetup:
        shutil.copy(STUB, tmp_path / "trial.py")
        (tmp_path / "fate").write_text(fate)
        return setup(tmp_path)

    return make


def told_to(heard: list[BenchWord]) -> Hear:
    async def hear(word: BenchWord) -> None:
        heard.append(word)

    return hear


async def test_garbage_is_passed_over_and_a_failure_has_a_word_of_records(stub: Callable[[str], BenchSetup]) -> None:
    heard: list[BenchWord] = []
    with trio.fail_after(20):
        async with open_bench(stub("well")) as bench:
            assert (bench.facts.vllm, bench.facts.build) == ("1", "cpu")
            await bench.run(order(), told_to(heard))
    assert heard == [
        Built(seconds=1.0, facts={"max_model_len": 2048}),
        Failure(kind="crashed", reason="x", load="bursty"),
    ]


async def test_without_vllm_the_error_says_what_the_script_said(stub: Callable[[str], BenchSetup]) -> None:
    with pytest.raises(EngineUnavailable, match="No module named 'vllm'"), trio.fail_after(20):
        async with open_bench(stub("no vllm")):
            pass


async def test_a_bench_that_dies_is_an_error_with_its_last_words(stub: Callable[[str], BenchSetup]) -> None:
    with pytest.raises(EngineUnavailable, match="Segmentation fault"), trio.fail_after(20):
        async with open_bench(stub("dies")) as bench:
            await bench.run(order(), told_to([]))


async def test_a_cancelled_run_leaves_no_process_behind(stub: Callable[[str], BenchSetup], tmp_path: Path) -> None:
    with trio.fail_after(20):
        with trio.move_on_after(1):
            async with open_bench(stub("hangs")) as bench:
                await bench.run(order(), told_to([]))
        pid = int((tmp_path / "pid").read_text())
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


# --- the real engine


async def check_kill(bench: VllmBench) -> None:
    """An engine that the kernel kills mid-way is out of memory, and the bench goes on."""
    heard: list[BenchWord] = []

    async def hear(word: BenchWord) -> None:
        heard.append(word)
        if isinstance(word, Built):
            # by psutil: the kernel lists children by thread, and a worker thread started this one
            (zygote,) = [child for child in psutil.Process().children() if "trial.py" in " ".join(child.cmdline())]
            for child in zygote.children():
                child.kill()

    await bench.run(order(), hear)
    assert isinstance(heard[-1], Failure)
    assert heard[-1].kind == "out_of_memory"


@pytest.mark.engine
async def test_the_real_engine_is_measured_under_three_strategies_and_outlives_a_bad_one(tmp_path: Path) -> None:
    install = await describe(Path(sys.executable))
    bare = Strategy(prefix_caching=False, max_num_seqs=1)
    drafting = Strategy(prefix_caching=True, max_num_seqs=8, speculation=Speculation(method="ngram", tokens=4))
    impossible = Strategy(weight_quantization="fp8")  # no kernels for it on CPU
    wish = Wish(
        strategies=(DEFAULT, bare, drafting, impossible),
        kinds=("shared_prefix", "copy", MIRROR),
        description=TRAFFIC,
        repetitions=1,
        limits=Limits(foreign=1_000_000, waited=1_000_000),  # of CI's neighbours we ask nothing
    )
    told: list[tuple[str, Any]] = []
    with trio.fail_after(240):
        async with open_bench(setup(SCRIPTS, install=install, model=str(tiny_model()))) as bench:
            report = await run_trials(
                bench,
                TrialFile(tmp_path / "trials.jsonl"),
                wish,
                clock=trio.current_time,
                mint=lambda: "run",
                tell=lambda *event: told.append(event),
            )
            await check_kill(bench)
    assert (report.ended, report.tally.complete, report.tally.trials) == ("complete", 9, 9)
    cells = {(cell.strategy, cell.load): cell for cell in report.cells}
    assert all(cells[impossible, load].failure is not None for load in ("shared_prefix", "copy"))
    assert cells[bare, "shared_prefix"].figures["prefix_hit_share"].median == 0
    assert cells[drafting, "shared_prefix"].figures["prefix_hit_share"].median > 300_000
    assert cells[drafting, "copy"].figures["acceptance"].median > 0
    assert "acceptance" not in cells[bare, "copy"].figures
    (mirror,) = {load for _, load in cells} - {"shared_prefix", "copy"}
    for cell in (cells[key] for key in product((DEFAULT, bare, drafting), ("shared_prefix", "copy", mirror))):
        figures = cell.figures
        assert figures["failures"].median == 0
        assert figures["ttft.p50"].median <= figures["latency.p50"].median
        assert figures["cpu_us"].median > 0
        assert figures["peak_memory_bytes"].median > 64 << 20
