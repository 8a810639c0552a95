"""What a node can do about trials: the bench, the book and the parts that their records share, put together.

Knows the adapters and no settings and no service. A running node uses it, and so does `metainf profile --trials` where
none runs.
"""

import hashlib
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import trio

from node.adapters import nvml
from node.adapters.engine.install import EngineInstall
from node.adapters.engine.measure import inspect
from node.adapters.engine.model_content import model_of
from node.adapters.engine.trial_bench import BenchSetup, bench_setup, open_bench
from node.adapters.system import LocalMachine, node_lock
from node.adapters.trial_file import TrialFile
from node.adapters.trial_spending import SpendingFile
from node.core.own_records import Setting
from node.core.profile import Profile
from node.core.profile_record import benchmark_on_wire, hardware_on_wire
from node.errors import EngineUnavailable
from node.machine_profile import find_profile, hardware_now, kept_capabilities, kept_profile
from node.places import Places
from node.ports import LaunchPlan
from node.trial_ports import Bench, TrialHands, Workshop
from protocol.performance import Engine

log = structlog.get_logger(__name__)

RUN_BYTES: Final = 8
VLLM: Final = "vllm"
SPENT: Final = "trials-spent.json"  # in the data folder: each node has a budget of its own
_VERSION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+:/-]{0,63}")

Say = Callable[[str], None]


def trial_hands(*, python: Path, plan: LaunchPlan, where: Places) -> TrialHands:
    """Return them for the engine that the plan means, under that interpreter."""
    return TrialHands(
        prepare=partial(_prepare, python, plan, where),
        mint=lambda: os.urandom(RUN_BYTES).hex(),
        spending=SpendingFile(where.data / SPENT),
    )


def kept_setting(*, python: Path, plan: LaunchPlan, where: Places) -> Callable[[], Awaitable[Setting]]:
    """Return what tells the shared parts of records of the node's own engine. It never measures.

    Raises (when called):
        EngineUnavailable: there is no such interpreter.
    """

    async def setting() -> Setting:
        engine = await inspect(python)
        profile = await trio.to_thread.run_sync(kept_profile, where.cache)
        return await _setting(engine.install, plan, where, profile, devices=plan.strategy.devices)

    return setting


async def _prepare(python: Path, plan: LaunchPlan, where: Places, say: Say) -> Workshop:
    say("looking at the engine")
    setup = await bench_setup(python, plan, cache=where.cache / "models", machine=LocalMachine(), tell=say)
    known = await trio.to_thread.run_sync(kept_capabilities, where.cache, python, setup.install.vllm)
    setup = replace(setup, capabilities=known)
    engine = await inspect(python)
    gpu = await trio.to_thread.run_sync(nvml.survey)
    trials = where.cache / "trials"  # in the cache, which nodes may share: it can all be made again
    return Workshop(
        open=partial(_open, setup, trials / "lock"),
        book=TrialFile(trials / f"{hashlib.sha256(setup.model.encode()).hexdigest()[:16]}.jsonl"),
        context={
            "gpus": list(gpu.gpus),
            "driver": gpu.driver,
            "threads": setup.threads,
            "installed": [setup.install.vllm, engine.torch],
            # What was asked for: on a CPU the cache that it comes to follows the memory that is free at the moment.
            "kv_cache_bytes": plan.kv_cache_bytes,
            "max_model_len": plan.max_model_len,
            "load_format": setup.load_format,
        },
        model=plan.served_name,
        gpus=len(gpu.gpus),
        setting=partial(_measured, python, setup.install, plan, where, say),
    )


@asynccontextmanager
async def _open(setup: BenchSetup, lock: Path) -> AsyncIterator[Bench]:
    # Nodes that share a cache are of one machine: they would measure each other, and write into one book.
    with node_lock(lock, holder="a run of trials"):
        async with open_bench(setup) as bench:
            yield bench


async def _measured(python: Path, install: EngineInstall, plan: LaunchPlan, where: Places, say: Say) -> Setting:
    """Return what records share; measures the machine where that was not done yet, or something changed."""
    try:
        found = await find_profile(
            where.cache,
            python,
            engine_running=False,  # it was put out of the way
            announce=lambda why: say(f"measuring the machine: {why}"),
            tell=lambda doing, _: say(f"measuring the machine: {doing}"),
        )
        profile = found.profile
    except EngineUnavailable as error:
        # The trials may well succeed, and a record without these figures is one all the same.
        log.warning("profile.not_measured", reason=error.message)
        profile = Profile(hardware=await trio.to_thread.run_sync(hardware_now))
    return await _setting(install, plan, where, profile, devices=1)


async def _setting(
    install: EngineInstall, plan: LaunchPlan, where: Places, profile: Profile, *, devices: int
) -> Setting:
    look = partial(model_of, plan, cache=where.cache / "models", environment=os.environ)
    return Setting(
        model=await trio.to_thread.run_sync(look),
        hardware=hardware_on_wire(profile, install.build, devices=devices),
        benchmark=benchmark_on_wire(profile, install.build),
        engine=Engine(name=VLLM, version=install.vllm if _VERSION.fullmatch(install.vllm) else None),
    )
