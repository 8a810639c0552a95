"""Each planted cause is named, and comes with something to do; a healthy machine is told so."""

from dataclasses import replace

import pytest

from node.core.findings import (
    EngineFacts,
    Finding,
    Verdict,
    judge_clock,
    judge_disk,
    judge_engine,
    judge_forecasts,
    judge_gpu,
    judge_memory,
    judge_port,
)

DRIFTS = {
    "ttft": {"answers": 80},
    "drift": {"ttft": {"factor": 1.8, "coverage_90": 0.55, "for_s": 240.0, "remedy": "look at whose answers are late"}},
}
ENGINE = EngineFacts(
    wanted=True, python="python", vllm="0.32.0", model_trouble="", running_state=None, running_reason=None
)


def test_a_healthy_machine_has_nothing_to_do() -> None:
    findings = [
        judge_engine(ENGINE),
        judge_engine(replace(ENGINE, running_state="ready", running_reason="one token in 40 ms")),
        judge_engine(replace(ENGINE, wanted=False, vllm=None)),
        judge_gpu(gpus=("NVIDIA H200",), driver="580.1", trouble=""),
        judge_gpu(gpus=(), driver="", trouble="no NVIDIA driver on this machine"),
        judge_memory(total=24 << 30, available=20 << 30, engine_running=False),
        judge_memory(total=24 << 30, available=1 << 30, engine_running=True),
        judge_disk(free=100 << 30, place="/data"),
        judge_clock(synchronised=True, now=2.0, built=1.0),
        judge_clock(synchronised=None, now=2.0, built=1.0),
        judge_port(address="127.0.0.1:8470", free=True, owner=None, ours=False),
        judge_port(address="127.0.0.1:8470", free=False, owner="python, pid 3", ours=True),
        judge_forecasts(None),
        judge_forecasts({}),
        judge_forecasts(DRIFTS | {"drift": {}}),
    ]
    assert [(f.subject, f.verdict, f.remedy) for f in findings if f.verdict is not Verdict.OK or f.remedy] == []


@pytest.mark.parametrize(
    ("finding", "verdict", "named"),
    [
        (judge_engine(replace(ENGINE, vllm=None)), Verdict.FAILURE, "not installed"),
        (judge_engine(replace(ENGINE, model_trouble="there is no folder /m")), Verdict.FAILURE, "/m"),
        (judge_engine(replace(ENGINE, running_state="failed", running_reason="boom")), Verdict.FAILURE, "boom"),
        (judge_engine(replace(ENGINE, running_state="backoff", running_reason="boom")), Verdict.FAILURE, "boom"),
        (judge_gpu(gpus=(), driver="580", trouble=""), Verdict.WARNING, "no GPU"),
        (judge_gpu(gpus=(), driver="", trouble="version mismatch"), Verdict.WARNING, "version mismatch"),
        (judge_memory(total=8 << 30, available=1 << 30, engine_running=False), Verdict.WARNING, "1.1 of 8.6 GB"),
        (judge_disk(free=1 << 20, place="/data"), Verdict.FAILURE, "/data"),
        (judge_clock(synchronised=False, now=2.0, built=1.0), Verdict.WARNING, "synchronised"),
        (judge_clock(synchronised=True, now=1.0, built=2.0), Verdict.FAILURE, "past"),
        (judge_port(address="127.0.0.1:8470", free=False, owner="nginx, pid 8", ours=False), Verdict.FAILURE, "nginx"),
        (judge_port(address="127.0.0.1:8470", free=False, owner=None, ours=False), Verdict.FAILURE, "taken"),
        (judge_forecasts(DRIFTS), Verdict.WARNING, "TTFT is 1.8 times what is foretold, 55% in 90 % intervals, for 4"),
    ],
    ids=lambda value: value.finding if isinstance(value, Finding) else "",
)
def test_a_planted_cause_is_named_with_a_remedy(finding: Finding, verdict: Verdict, named: str) -> None:
    assert finding.verdict is verdict
    assert named in finding.finding
    assert finding.remedy
