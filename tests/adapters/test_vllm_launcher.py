"""What cannot be started is said before it is tried, with what to do about it."""

import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from node.adapters.engine.embedded_model import EMBEDDED, folder_in
from node.adapters.engine.external import parse_engine_url
from node.adapters.engine.vllm import VllmLauncher, default_served_name
from node.adapters.system import LocalMachine
from node.core.strategy import Strategy
from node.errors import ConfigError, EngineUnavailable
from node.ports import Endpoint, LaunchPlan
from tests.fakes.stub_launch import stub_plan, stub_setup

pytestmark = pytest.mark.slow


async def refusal(launcher: VllmLauncher, plan: LaunchPlan) -> EngineUnavailable:
    with pytest.raises(EngineUnavailable) as caught:
        async with launcher.launch(plan):
            pass
    return caught.value


async def test_a_missing_interpreter_is_named(tmp_path: Path) -> None:
    setup = replace(stub_setup(tmp_path), command=(), python=tmp_path / "no-python")
    error = await refusal(VllmLauncher(setup, LocalMachine()), stub_plan(tmp_path))
    assert error.permanent
    assert "no-python, which does not exist" in error.message
    assert "deploy/run" in error.remedy


def bare_python(folder: Path) -> Path:
    """Make a virtual environment with nothing in it, the short way."""
    python = folder / "bare" / "bin" / "python"
    python.parent.mkdir(parents=True)
    real = Path(sys.executable).resolve()
    (folder / "bare" / "pyvenv.cfg").write_text(f"home = {real.parent}\n")
    python.symlink_to(real)
    return python


async def test_an_interpreter_without_vllm_is_named(tmp_path: Path) -> None:
    setup = replace(stub_setup(tmp_path), command=(), python=bare_python(tmp_path))
    error = await refusal(VllmLauncher(setup, LocalMachine()), stub_plan(tmp_path))
    assert error.permanent
    assert "vLLM is not installed for" in error.message


async def test_a_missing_model_is_named(tmp_path: Path) -> None:
    plan = replace(stub_plan(tmp_path), model=str(tmp_path / "gone"))
    error = await refusal(VllmLauncher(stub_setup(tmp_path), LocalMachine()), plan)
    assert error.permanent
    assert "gone does not exist" in error.message


async def test_a_strategy_that_cannot_run_here_is_refused_with_the_reason(tmp_path: Path) -> None:
    plan = replace(stub_plan(tmp_path), strategy=Strategy(weight_quantization="fp8"))
    error = await refusal(VllmLauncher(stub_setup(tmp_path), LocalMachine()), plan)
    assert error.permanent
    assert "on CPU fp8 weights do not start" in error.message


async def test_a_taken_port_may_be_free_later(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        setup = replace(stub_setup(tmp_path), port=holder.getsockname()[1])
        error = await refusal(VllmLauncher(setup, LocalMachine()), stub_plan(tmp_path))
    assert not error.permanent
    assert "Address already in use" in error.message


async def test_two_launches_share_neither_port_nor_key_nor_folder(tmp_path: Path) -> None:
    launcher = VllmLauncher(stub_setup(tmp_path), LocalMachine())
    async with launcher.launch(stub_plan(tmp_path)) as one, launcher.launch(stub_plan(tmp_path)) as other:
        assert one.endpoint.port != other.endpoint.port
        assert one.endpoint.api_key != other.endpoint.api_key
        assert len(list((tmp_path / "work").iterdir())) == 2
    assert list((tmp_path / "work").iterdir()) == []


async def test_an_unpacked_embedded_model_is_not_unpacked_again(tmp_path: Path) -> None:
    setup = replace(stub_setup(tmp_path), python=tmp_path / "no-python")
    folder = folder_in(setup.cache)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    told: list[str] = []
    plan = replace(stub_plan(tmp_path), model=EMBEDDED)
    await VllmLauncher(setup, LocalMachine()).prepare(plan, tell=told.append)
    assert told == []


def test_a_model_is_called_by_its_own_name(tmp_path: Path) -> None:
    assert default_served_name(EMBEDDED) == "SmolLM2-135M-Instruct"
    assert default_served_name("org/model") == "org/model"
    assert default_served_name(str(tmp_path)) == tmp_path.name


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://h", Endpoint(host="h", port=80)),
        ("https://h/v1/", Endpoint(host="h", port=443, tls=True)),
        ("http://[::1]:8000/a/b/v1", Endpoint(host="::1", port=8000, base_path="/a/b")),
    ],
)
def test_an_engine_url_is_read(url: str, endpoint: Endpoint) -> None:
    assert parse_engine_url(url, None) == endpoint


@pytest.mark.parametrize(
    "url", ["", "h:80", "ftp://h", "http://", "http://h:x", "http://u:p@h", "http://h/?q", "http://h:99999"]
)
def test_what_is_no_engine_url_is_refused_with_a_remedy(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_engine_url(url, None)
    assert caught.value.remedy
