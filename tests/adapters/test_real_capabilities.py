"""The real vLLM says what it takes, and its own parser takes every flag of every candidate that follows from that."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from node.adapters.engine.capabilities import probe
from node.adapters.engine.measure import inspect
from node.core.action_space import candidates
from node.core.capabilities import LONG_KNOWN, LONG_KNOWN_CHOICES, LONG_KNOWN_METHODS
from node.core.engine_defaults import Draft, Place
from node.core.engine_flags import engine_flags
from node.core.strategy import EXTRA_FLAGS
from tests.adapters.test_real_engine import PARSE, PARSE_WITHIN

pytestmark = [pytest.mark.slow, pytest.mark.engine]


async def test_vllm_says_what_it_takes_and_takes_every_flag_of_every_candidate() -> None:
    engine = await inspect(Path(sys.executable))
    found = await probe(engine, threads=1)
    assert (found.version, found.platform, found.missing) == (engine.install.vllm, "cpu", ())
    assert all(found.has(option) for option in LONG_KNOWN)
    assert all(found.has(f"--{key}") for key in EXTRA_FLAGS)
    assert set(found.methods) >= LONG_KNOWN_METHODS
    assert all(words <= set(found.choices[option]) for option, words in LONG_KNOWN_CHOICES.items())
    assert (found.defaults.prefix_caching, found.defaults.chunked_prefill) == (True, True)
    assert found.defaults.max_num_seqs
    assert found.defaults.max_num_batched_tokens
    everywhere = [
        Place(build="cpu", max_model_len=2048, capabilities=found),
        Place(
            build="cuda",
            max_model_len=32768,
            gpus=4,
            heads=32,
            mtp=True,
            drafts=(Draft(method="eagle3", model="org/head"), Draft(method="draft_model", model="org/draft")),
            capabilities=replace(found, helpers=("arctic_inference",)),
        ),
    ]
    lines = [
        engine_flags(strategy, place.build, found)
        for place in everywhere
        for strategy in candidates(place, lossy=True, most=256)
    ]
    assert len(lines) > 100
    done = await trio.to_thread.run_sync(_parse, lines)
    assert done.stdout.endswith("taken\n"), done.stderr[-2000:]


def _parse(lines: list[list[str]]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", PARSE],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        timeout=PARSE_WITHIN,
        check=False,
    )
