import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from node.adapters import profile_file
from node.adapters.engine.measure import engine_threads, inspect
from node.core.profile import METHOD, Absent, Conditions, Figure, Measurement, Profile
from tests.cli.conftest import CannedNode
from tests.core.test_capabilities import VLLM_032

Metainf = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.slow

FIGURES = (
    Figure(kind="gemv", dtype="bfloat16", device="cpu", shape="1x2048x2048", unit="B/s", median=13.4e9, mad=4e8,
           samples=60, disturbed=40),
    Figure(kind="gemm", dtype="bfloat16", device="cpu", shape="128x1024x1024", unit="FLOP/s", median=3.59e11, mad=9e10,
           samples=100),
    Figure(kind="allreduce", dtype="bfloat16", device="cpu", shape="64 KiB x 2", unit="s", median=12.3e-6, mad=1e-7,
           samples=20),
)  # fmt: skip


@pytest.fixture
def kept(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """A profile of this machine and this interpreter, measured just now beside other programs."""
    from node.cli.profiling import hardware_now  # brings what the other verbs do not want

    monkeypatch.delenv("METAINF_CACHE", raising=False)
    now_us = data_dir.parent.stat().st_ctime_ns // 1000
    hardware = hardware_now()
    engine = trio.run(inspect, Path(sys.executable))
    conditions = Conditions(
        time_us=now_us, torch=engine.torch, build=engine.install.build, threads=engine_threads(hardware.cpu.cores),
        method=METHOD, seconds=4.0, foreign_cpu=0.31,
    )  # fmt: skip
    absent = (Absent(kind="gemv", dtype="float8_e4m3fn", device="cpu", reason="no such kernel"),)
    profile = Profile(hardware=hardware, measurement=Measurement(conditions=conditions, figures=FIGURES, absent=absent))
    profile_file.save(data_dir / "cache" / profile_file.NAME, profile)
    return profile


def test_kept_figures_are_shown_at_once_with_what_is_doubtful_about_them(kept: Profile, metainf: Metainf) -> None:
    code, out, err = metainf("profile")
    assert (code, err) == (0, "")
    for words in ("13.40 GB/s", "359.00 GFLOP/s", "12.3 us", "60 of 100", "25.1%", "float8_e4m3fn: not here"):
        assert words in out
    assert "other programs had 31% of the CPU" in out
    assert "1 of 3 figures spread" in out
    assert (kept.hardware.cpu.name or "") in out


def test_as_json_it_is_the_profile_itself(kept: Profile, metainf: Metainf) -> None:
    content = json.loads(metainf("profile", "--json")[1])
    assert content["reused"] is True
    assert content["hardware"]["cpu"]["cores"] == kept.hardware.cpu.cores
    assert content["measurement"]["figures"][0]["median"] == FIGURES[0].median


def test_what_the_engine_takes_is_shown_where_it_was_asked_and_not_guessed_where_not(
    kept: Profile, metainf: Metainf, data_dir: Path
) -> None:
    assert "what it takes is not known yet" in metainf("profile")[1]
    engine = trio.run(inspect, Path(sys.executable))
    asked = profile_file.Asked(
        python=sys.executable, vllm=engine.install.vllm, torch=engine.torch, driver=kept.hardware.driver
    )
    file = data_dir / "cache" / profile_file.CAPABILITIES_NAME
    profile_file.save_capabilities(file, asked, VLLM_032)
    code, out, err = metainf("profile")
    assert (code, err) == (0, "")
    for words in ("vLLM 0.32.0 on cpu", "128 sequences at once", "2048 tokens a step", "prefix caching on"):
        assert words in out
    assert "suffix (needs arctic_inference)" in out
    content = json.loads(metainf("profile", "--json")[1])
    assert content["capabilities"]["defaults"]["max_num_batched_tokens"] == 2048
    assert "--max-num-seqs=" in content["capabilities"]["options"]


def test_a_node_without_an_engine_shows_the_machine_and_measures_nothing(
    metainf: Metainf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METAINF_ENGINE_ENABLED", "false")
    code, out, err = metainf("profile")
    assert code == 0
    assert out.startswith("CPU ")
    assert "no engine of its own" in err


def test_an_engine_that_cannot_be_measured_costs_the_figures_and_not_the_hardware(
    metainf: Metainf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("METAINF_ENGINE_PYTHON", str(tmp_path / "python"))
    code, out, err = metainf("profile", "--json")
    assert code == 1
    assert json.loads(out)["measurement"] is None
    assert "does not exist" in err
    assert "do: " in err


@pytest.mark.engine
def test_where_something_changed_it_measures_anew_says_why_and_marks_what_ran_beside_it(
    kept: Profile, metainf: Metainf, canned_node: CannedNode, data_dir: Path
) -> None:
    canned_node.answer("GET", "/status", {"engine": {"state": "ready"}})
    file = data_dir / "cache" / profile_file.NAME
    other = replace(kept.hardware, driver="1.0", cpu=replace(kept.hardware.cpu, isa=("abacus",)))
    profile_file.save(file, replace(kept, hardware=other))
    code, out, err = metainf("profile", "--seconds", "0.2")
    assert code == 0, err
    assert "CPU isa: abacus -> " in err
    assert "the figures are taken beside it" in err
    assert "measured beside the node's engine" in out
    new = profile_file.load(file)
    assert new is not None
    assert new.measurement is not None
    assert new.measurement.conditions.engine_running
    assert {figure.kind for figure in new.measurement.figures} == {"gemv", "gemm", "attention", "copy"}
