"""The stub engine behind the real launcher and guardian: the set-up and the plan that tests start it with."""

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import trio

from node.adapters.engine import leftovers
from node.adapters.engine.leftovers import Mark
from node.adapters.engine.vllm import VllmSetup
from node.core.strategy import Strategy
from node.ports import EngineProcess, LaunchPlan

STUB = Path(__file__).with_name("stub_engine.py")
MODEL = "stub-model"


def stub_setup(folder: Path, wrong: Mapping[str, object] | None = None, *, log_bytes: int = 1 << 20) -> VllmSetup:
    """Return a set-up in the folder; `wrong` are fields of the stub's `Misbehaviour`."""
    return VllmSetup(
        python=Path(sys.executable),
        command=(sys.executable, "-I", str(STUB), "--stub", json.dumps(wrong or {})),
        logs=folder / "logs",
        work=folder / "work",
        cache=folder / "cache",
        tag=tag_of(folder),
        log_bytes=log_bytes,
    )


def tag_of(folder: Path) -> str:
    """The folder's own tag: two runs of the tests at once must not sweep up each other's engines."""
    return f"test-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"


def stub_plan(folder: Path) -> LaunchPlan:
    model = folder / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text("{}")
    return LaunchPlan(model=str(model), served_name=MODEL, strategy=Strategy())


def engines_of(folder: Path) -> list[int]:
    """Every living process of engines launched with `stub_setup` in the folder."""
    return leftovers.find(Mark(tag=tag_of(folder), folder=folder / "work"))


async def until_it_listens(process: EngineProcess, *, within: float = 10.0) -> None:
    """Return once a connection to the engine's port is taken."""
    with trio.fail_after(within):
        while not await _connects(process):  # noqa: ASYNC110  # a foreign program tells no event
            await trio.sleep(0.02)


async def _connects(process: EngineProcess) -> bool:
    try:
        stream = await trio.open_tcp_stream(process.endpoint.host, process.endpoint.port)
    except OSError:
        return False
    await stream.aclose()
    return True


async def until_gone(folder: Path, *, within: float) -> float:
    """Return the seconds until no process of the folder's engines was left."""
    begin = trio.current_time()
    with trio.fail_after(within):
        while engines_of(folder):  # noqa: ASYNC110  # processes that lost their parent tell nobody
            await trio.sleep(0.02)
    return trio.current_time() - begin
