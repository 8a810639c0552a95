"""Asking the engine what it takes: kept once it is known, asked anew when the engine changes, unknown when it fails."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from node import machine_profile
from node.adapters import profile_file
from node.adapters.engine import capabilities
from node.adapters.engine.install import EngineInstall
from node.adapters.engine.measure import Interpreter, inspect
from node.adapters.engine.vllm import VllmLauncher
from node.adapters.system import LocalMachine
from node.core.capabilities import LONG_KNOWN, UNKNOWN, Capabilities
from node.core.strategy import Strategy
from node.errors import EngineUnavailable
from node.machine_profile import find_capabilities, kept_capabilities
from tests.core.test_capabilities import SAID, VLLM_032
from tests.fakes.stub_launch import stub_plan, stub_setup

pytestmark = pytest.mark.slow

PYTHON = Path(sys.executable)


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Interpreter]:
    """Run this source in the script's place."""

    def write(source: str) -> Interpreter:
        (tmp_path / "scripts").mkdir(exist_ok=True)
        (tmp_path / "scripts" / "capabilities.py").write_text(source)
        monkeypatch.setattr("node.adapters.engine.measure.SCRIPTS", tmp_path / "scripts")
        install = EngineInstall(build="cpu", vllm="0.32.0", openmp=None, embedded=False)
        return Interpreter(python=PYTHON, install=install, torch="2.13.0+cpu")

    return write


def speaking(*parts: object) -> str:
    return f"import json\nfor part in {parts!r}:\n    print('INFO vLLM chats')\n    print(json.dumps(part))\n"


async def test_what_the_script_says_is_what_the_engine_takes(scripted: Callable[[str], Interpreter]) -> None:
    assert await capabilities.probe(scripted(speaking(*SAID)), threads=1) == VLLM_032


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import sys; sys.exit('no vllm here')", "no vllm here"),
        ("print('nothing to say')", "could not be listed"),
        ("print('{\"options\": 7}')", "cannot be read"),
        ("print('{' + 'x' * 10)", "cannot be read"),
    ],
)
async def test_a_failure_says_what_the_script_said(
    source: str, words: str, scripted: Callable[[str], Interpreter]
) -> None:
    with pytest.raises(EngineUnavailable, match=words):
        await capabilities.probe(scripted(source), threads=1)


async def test_an_engine_that_hangs_is_given_up(
    scripted: Callable[[str], Interpreter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capabilities, "DEADLINE", 0.5)
    with trio.fail_after(20), pytest.raises(EngineUnavailable, match="was not done"):
        await capabilities.probe(scripted("import time; time.sleep(600)"), threads=1)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Which interpreters were asked; each answers as vLLM 0.32 does."""
    found: list[Path] = []

    async def probe(engine: Interpreter, *, threads: int) -> Capabilities:
        assert threads >= 1
        found.append(engine.python)
        return VLLM_032

    monkeypatch.setattr(machine_profile, "probe", probe)
    return found


async def test_an_engine_is_asked_once_and_again_only_on_wish_or_when_it_changed(
    asked: list[Path], tmp_path: Path
) -> None:
    for _ in range(2):
        assert await find_capabilities(tmp_path, PYTHON) == VLLM_032
    assert len(asked) == 1
    await find_capabilities(tmp_path, PYTHON, again=True)
    assert len(asked) == 2
    file = tmp_path / profile_file.CAPABILITIES_NAME
    kept = profile_file.load_capabilities(file)
    assert kept is not None
    for number, change in enumerate(({"vllm": "0.1"}, {"driver": "1"}, {"torch": "1"}, {"python": "/x"}), start=3):
        profile_file.save_capabilities(file, replace(kept[0], **change), VLLM_032)
        await find_capabilities(tmp_path, PYTHON)
        assert len(asked) == number


async def test_what_is_kept_is_known_without_asking_for_that_version_alone(asked: list[Path], tmp_path: Path) -> None:
    engine = await inspect(PYTHON)
    assert kept_capabilities(tmp_path, PYTHON, engine.install.vllm) == UNKNOWN
    await find_capabilities(tmp_path, PYTHON)
    assert kept_capabilities(tmp_path, PYTHON, engine.install.vllm) == VLLM_032
    assert kept_capabilities(tmp_path, PYTHON, "0.1") == UNKNOWN
    assert kept_capabilities(tmp_path, Path("/other/python"), engine.install.vllm) == UNKNOWN


async def test_a_failure_is_unknown_and_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def fail(engine: Interpreter, *, threads: int) -> Capabilities:
        raise EngineUnavailable("vLLM does not import")

    monkeypatch.setattr(machine_profile, "probe", fail)
    assert await find_capabilities(tmp_path, PYTHON) == UNKNOWN
    assert await find_capabilities(tmp_path, tmp_path / "no-python") == UNKNOWN
    assert not (tmp_path / profile_file.CAPABILITIES_NAME).exists()


def test_the_words_of_the_script_are_json() -> None:
    assert all(json.loads(json.dumps(each)) == each for each in SAID)


async def test_the_launcher_refuses_a_flag_that_the_version_lacks_by_name(tmp_path: Path) -> None:
    vllm = (await inspect(PYTHON)).install.vllm
    old = replace(VLLM_032, version=vllm, options=tuple(LONG_KNOWN))
    wanted = Strategy(engine_extra=(("max-num-active-seqs", "4"),))
    plan = replace(stub_plan(tmp_path), strategy=wanted)
    known = {vllm: old}
    setup = replace(stub_setup(tmp_path), command=(), python=PYTHON, capabilities=lambda of: known[of])
    with pytest.raises(EngineUnavailable) as caught:
        async with VllmLauncher(setup, LocalMachine()).launch(plan):
            pass
    assert caught.value.permanent
    assert f"vLLM {vllm} has no flag --max-num-active-seqs" in caught.value.message
    assert "[engine.strategy]" in caught.value.remedy
