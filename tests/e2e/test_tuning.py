"""The whole daemon over the stub engine, tuned by hand: strategies that fail in every way, and the verbs of the owner.

Real sockets, real processes, the real command line; only the engine is a stand-in. `WANTED` differs from the engine's
default by more than the node could do itself, so that an engine is started for it; the stub misbehaves under its
number of sequences alone.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.children import eventually
from tests.e2e.daemon import CHECKOUT, STATUS_S, Daemon, environment, metainf, node_over_stub
from tests.fakes.stub_launch import MODEL

pytestmark = pytest.mark.slow

ENGINE_S = 30.0  # for the stub to be ready: it takes a tenth of a second on a quiet machine
SWITCH_S = 60.0  # for a switch and the way back, of which six at most are the time-out below
WANTED = "seqs:4+budget:512"
UNDER_IT = 4  # sequences
ALONE = '[p2p]\nenabled = false\n[tuner]\nstart_first = "never"\n'
HASTY = "start_timeout_s = 4.0\n"


def verb(daemon: Daemon, *arguments: str, within: float = SWITCH_S) -> subprocess.CompletedProcess[str]:
    """Run one of the command line's verbs, whatever it ends with; a traceback fails here."""
    command = [sys.executable, "-m", "node", *arguments, "--data-dir", str(daemon.data)]
    done = subprocess.run(
        command, cwd=CHECKOUT, env=environment(), capture_output=True, text=True, timeout=within, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def ask(daemon: Daemon, *, tokens: int = 4) -> tuple[int, Any]:
    """Ask once; return status and JSON."""
    body = {"model": MODEL, "prompt": "a b", "max_tokens": tokens}
    answer = httpx2.post(f"{daemon.url}/v1/completions", json=body, timeout=SWITCH_S)
    return answer.status_code, answer.json()


def serves_on(daemon: Daemon, strategy: str) -> Mapping[str, Any]:
    """Assert that the node answers, and under what; return its status."""
    status, answer = ask(daemon)
    assert status == 200, answer
    assert answer["choices"][0]["text"] == "t0 t1 t2 t3 "
    told = daemon.status()
    assert (told["engine"]["state"], told["engine"]["strategy"]) == ("ready", strategy)
    return told


# --- a strategy that is no good


FAULTS: Mapping[str, tuple[str, Mapping[str, Any], str]] = {
    "crashes on start": ("start_failed", {"crash_before_listening": "RuntimeError: no such kernel"}, "no such kernel"),
    "hangs in start": ("timed_out", {"never_healthy": True}, "/health answers 503"),
    "has no memory": (
        "out_of_memory",
        {"crash_before_listening": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"},
        "Tried to allocate 2.00 GiB",
    ),
    "answers garbage": ("wrong_answers", {"garbage_answers": "%$!"}, "%$!"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_after_a_strategy_that_is_no_good_the_node_serves_on_the_last_good_one_and_says_why(
    tmp_path: Path, fault: str
) -> None:
    result, wrong, words = FAULTS[fault]
    with node_over_stub(tmp_path, engine=HASTY, config=ALONE, under_seqs=UNDER_IT, **wrong) as daemon:
        daemon.wait_for_engine(within=ENGINE_S)
        done = verb(daemon, "strategy", "set", WANTED)
        assert done.returncode == 1
        assert done.stdout.startswith("default runs still: ")
        assert words in done.stdout
        status = serves_on(daemon, "default")
        assert status["engine"]["reason"].startswith(f"back on default: '{WANTED}' ")
        assert words in status["engine"]["reason"]
        tuner = status["tuner"]
        assert (tuner["strategy"], tuner["last_good"], tuner["mode"]) == ("default", "default", "auto")
        assert (tuner["switches"], tuner["failed_starts"], tuner["banned"]) == (0, 1, [])
        steps = json.loads(metainf(daemon, "strategy", "history", "--json"))["history"]
        failed = next(step for step in steps if step["event"] == "failed")
        assert failed["reason"].startswith(f"{WANTED}: {result.replace('_', ' ')}: ")
        assert words in metainf(daemon, "status")


def test_a_strategy_that_crashes_beside_the_engine_that_serves_is_never_noticed_by_those_who_ask(
    tmp_path: Path,
) -> None:
    wrong = {"crash_before_listening": "RuntimeError: no such kernel"}
    with node_over_stub(tmp_path, config="[p2p]\nenabled = false\n", under_seqs=UNDER_IT, **wrong) as daemon:
        daemon.wait_for_engine(within=ENGINE_S)
        done = verb(daemon, "strategy", "set", WANTED, "--json")
        assert done.returncode == 1
        facts = json.loads(done.stdout)
        assert (facts["strategy"], facts["failed_starts"], facts["lost_s"]) == ("default", 1, 0.0)
        assert "no such kernel" in facts["reason"]
        serves_on(daemon, "default")
        assert daemon.engine_states().count("ready") == 1


# --- the owner's word


def test_what_is_asked_while_the_strategy_changes_waits_and_is_answered_though_its_owner_does_not_wait(
    tmp_path: Path,
) -> None:
    with node_over_stub(tmp_path, config=ALONE, under_seqs=UNDER_IT, slow_start=6.0) as daemon:
        daemon.wait_for_engine(within=ENGINE_S)
        command = [sys.executable, "-m", "node", "strategy", "set", WANTED, "--data-dir", str(daemon.data)]
        with subprocess.Popen(
            command, cwd=CHECKOUT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as owner:
            eventually(
                lambda: daemon.engine_states()[-1] != "ready", within=SWITCH_S, what="a switch", children=[daemon.child]
            )
            os.kill(owner.pid, signal.SIGINT)
            _, errors = owner.communicate(timeout=STATUS_S)
        assert owner.returncode == 130
        assert "the node goes on with it" in errors
        assert "Traceback" not in errors
        answers: list[tuple[int, Any]] = []
        people = [threading.Thread(target=lambda: answers.append(ask(daemon))) for _ in range(4)]
        for one in people:
            one.start()
        for one in people:
            one.join()
        assert [status for status, _ in answers] == [200] * 4
        status = serves_on(daemon, WANTED)
        assert (status["requests"]["served"], status["requests"]["failed"], status["requests"]["refused"]) == (5, 0, 0)
        assert status["tuner"]["mode"] == "fixed"
        assert status["tuner"]["lost_s"] > 1.5


def test_a_strategy_that_its_owner_set_is_shown_kept_over_a_restart_and_given_up_again(tmp_path: Path) -> None:
    with node_over_stub(tmp_path, config=ALONE) as daemon:
        daemon.wait_for_engine(within=ENGINE_S)
        assert json.loads(metainf(daemon, "strategy", "show", "--json"))["mode"] == "auto"
        assert json.loads(metainf(daemon, "strategy", "explain", "--json"))["decision"] is None
        done = verb(daemon, "strategy", "set", WANTED)
        assert (done.returncode, done.stdout) == (0, f"{WANTED} runs\n")
        file = tmp_path / "wanted.toml"
        file.write_text("[engine.strategy]\nmax_num_seqs = 8\nmax_num_batched_tokens = 256\n")
        again = json.loads(verb(daemon, "strategy", "set", str(file), "--json").stdout)
        assert (again["strategy"], again["mode"], again["phase"]) == ("seqs:8+budget:256", "fixed", "fixed")
        assert again["fields"] == {"max_num_seqs": 8, "max_num_batched_tokens": 256}
        serves_on(daemon, "seqs:8+budget:256")
        assert "seqs:8+budget:256" in metainf(daemon, "strategy", "show")
        page = daemon.metrics()
        assert 'metainf_strategy_info{strategy="seqs:8+budget:256"} 1.0' in page
        assert 'metainf_tuner_phase{phase="fixed"} 1.0' in page
        assert 'metainf_tuner_switches_total{result="done"} 2.0' in page
        assert 'metainf_owner_state{state="running"} 1.0' in page
    with node_over_stub(tmp_path, config=ALONE) as daemon:
        daemon.wait_for_engine(within=ENGINE_S)
        status = serves_on(daemon, "seqs:8+budget:256")
        assert (status["tuner"]["mode"], status["tuner"]["switches"]) == ("fixed", 2)
        events = [step["event"] for step in json.loads(metainf(daemon, "strategy", "history", "--json"))["history"]]
        assert events.count("done_fixed") == 2
        assert len(metainf(daemon, "strategy", "history", "--limit", "1").splitlines()) == 1
        assert json.loads(metainf(daemon, "strategy", "auto", "--json"))["mode"] == "auto"
        serves_on(daemon, "seqs:8+budget:256")  # what runs goes on until something better is known


def test_what_is_no_strategy_or_cannot_run_here_is_refused_with_a_word_and_changes_nothing(tmp_path: Path) -> None:
    with node_over_stub(tmp_path, config=ALONE) as daemon:
        daemon.wait_for_engine(within=ENGINE_S)
        cases = {
            ("strategy", "set", "fast"): (78, "'fast' is no part of a strategy's name"),
            ("strategy", "set", "tp:4"): (69, "tp:4 cannot run here"),
            ("strategy", "set", "external"): (69, "external"),
            ("pause", "--for", "400d"): (2, "400d"),
        }
        for arguments, (code, words) in cases.items():
            done = verb(daemon, *arguments)
            assert (done.returncode, done.stdout) == (code, ""), (arguments, done)
            assert words in done.stderr, (arguments, done.stderr)
        tuner = serves_on(daemon, "default")["tuner"]
        assert (tuner["mode"], tuner["switches"], tuner["failed_starts"]) == ("auto", 0, 0)


def test_without_a_tuner_nothing_is_set_and_everything_is_said(tmp_path: Path) -> None:
    with node_over_stub(tmp_path, config="[tuner]\nenabled = false\n[p2p]\nenabled = false\n") as daemon:
        daemon.wait_for_engine(within=ENGINE_S)
        done = verb(daemon, "strategy", "set", WANTED)
        assert (done.returncode, done.stdout) == (69, "")
        assert "tuner.enabled" in done.stderr
        assert json.loads(metainf(daemon, "strategy", "show", "--json"))["mode"] == "off"
        assert "tuner     off (tuner.enabled is false)" in metainf(daemon, "status")
        serves_on(daemon, "default")


# --- pauses


def test_a_pause_frees_the_device_holds_over_a_restart_and_ends_when_its_owner_says_so(tmp_path: Path) -> None:
    with node_over_stub(tmp_path, config=ALONE, token_delay=0.2) as daemon:
        daemon.wait_for_engine(within=ENGINE_S)
        said: list[tuple[int, Any]] = []
        long = threading.Thread(target=lambda: said.append(_asked(daemon, tokens=1000)))
        long.start()
        eventually(
            lambda: daemon.status()["requests"]["running"] == 1, within=ENGINE_S, what="a prompt",
            children=[daemon.child],
        )  # fmt: skip
        done = verb(daemon, "pause", "--now", "--json")
        assert done.returncode == 0
        facts = json.loads(done.stdout)
        assert (facts["state"], facts["why"], facts["free"], facts["until"]) == ("paused", "pause", True, None)
        long.join()
        assert said[0][0] != 200, "a thousand tokens of a fifth of a second each cannot have come"
        status, answer = ask(daemon)
        assert (status, answer["error"]["code"]) == (503, "paused")
        told = metainf(daemon, "status")
        assert "owner     paused: paused by its owner" in told
        noted = verb(daemon, "strategy", "set", WANTED, "--json")
        assert noted.returncode == 75
        assert json.loads(noted.stdout)["strategy"] == "default"
        daemon.signal(signal.SIGTERM)
        daemon.child.wait(within=ENGINE_S)
    with node_over_stub(tmp_path, config=ALONE) as daemon:
        status, answer = ask(daemon)
        assert (status, answer["error"]["code"]) == (503, "paused")
        assert "ready" not in daemon.engine_states()
        assert metainf(daemon, "resume").startswith("nothing holds the engine back")
        daemon.wait_for_engine(within=ENGINE_S)
        serves_on(daemon, "default")


def test_what_its_owner_wishes_in_a_pause_is_noted_and_comes_after_it(tmp_path: Path) -> None:
    with node_over_stub(tmp_path, config=ALONE) as daemon:
        daemon.wait_for_engine(within=ENGINE_S)
        done = verb(daemon, "pause", "--for", "1h")
        assert done.returncode == 0
        assert "the device is free" in done.stdout
        assert "the node goes on at" in done.stdout
        noted = verb(daemon, "strategy", "set", WANTED)
        assert noted.returncode == 75
        assert noted.stdout == f"{WANTED} is noted, and comes when the engine serves again: paused by its owner\n"
        metainf(daemon, "resume")
        eventually(
            lambda: daemon.status()["tuner"]["mode"] == "fixed",
            within=SWITCH_S,
            what="the wish come true",
            children=[daemon.child],
        )
        assert serves_on(daemon, WANTED)["owner"]["state"] == "running"


def _asked(daemon: Daemon, *, tokens: int) -> tuple[int, Any]:
    try:
        return ask(daemon, tokens=tokens)
    except httpx2.HTTPError as error:
        return 0, error
