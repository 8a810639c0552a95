"""A whole node that learns: the real worker in its process, a real history on the disk, records signed by several.

Real time, unlike the other simulations: the worker is a process.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.adapters.store.history import open_history
from node.clock import wall_us
from node.history import record_rules
from node.learner_hands import learner_hands
from node.services.learn import LearnerPolicy
from protocol import limits
from protocol.ids import PUBLIC_SWARM, Epoch
from protocol.performance import Performance
from protocol.records import Signed
from tests.protocol.performance_samples import LIFETIME, OUTCOME, STRATEGY, WORKLOAD, performance
from tests.sim.node import SimNode

pytestmark = pytest.mark.slow

WITHIN = 180.0  # s: a dozen on a quiet machine
KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(1, 6)]
MEMORY = 2 << 30


def slower(factor: float) -> Any:
    """Return an outcome whose every time is so many times as long."""
    times = {name: getattr(OUTCOME, name) for name in OUTCOME.__slots__ if name.endswith("_us")}
    longer = {name: round(value * factor) for name, value in times.items() if value is not None}
    unused = {"prefix_hit_ppm": None, "acceptance_ppm": None}
    return replace(OUTCOME, output_tokens_per_s_milli=round(315_000 / factor), **longer | unused)


def signed(contexts: int) -> Iterator[Signed[Performance]]:
    """Yield four strategies in each context, told of by five authors; prefix caching and large batches pay."""
    begin = wall_us() - 1_000_000
    for context in range(contexts):
        key = KEYS[context % len(KEYS)]
        load = 4_000 * (1 + context % 3)
        for number in range(4):
            prefix, seqs = bool(number & 1), (16, 64)[number >> 1]
            yield performance(
                key,
                seq=context * 4 + number,
                epoch=Epoch(begin),
                time=begin,
                expiry=begin + LIFETIME,
                context=context + 1,
                strategy=replace(STRATEGY, prefix_caching=prefix, max_num_seqs=seqs, speculation=None),
                workload=replace(WORKLOAD, concurrency_milli=load),
                outcome=slower((1.0 if prefix else 2.0) * (1.0 if seqs == 64 else 1.2) * (1 + 0.01 * (context % 7))),
            )


def workers() -> list[psutil.Process]:
    """Return the learners among this process's children: other tests' engines may be there as well."""
    return [child for child in psutil.Process().children() if "node.learner.worker" in child.cmdline()]


def left(folder: Path) -> list[str]:
    """Return the names of what lessons left behind."""
    return [each.name for each in folder.iterdir() if "lesson" in each.name]


async def test_a_node_with_some_hundred_records_learns_them_and_says_how_well(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    file = tmp_path / "public.sqlite"
    all_records = [each.sealed for each in signed(75)]
    async with open_history(file, record_rules(PUBLIC_SWARM), now_us=wall_us) as history:
        for at in range(0, len(all_records), limits.BATCH_RECORDS):
            verdicts = await history.admit(all_records[at : at + limits.BATCH_RECORDS], via=None)
            assert {each.reason for each in verdicts} == {""}
        real: Any = history
        node = SimNode(
            None,
            history=real,
            clock=wall_us,
            learner=learner_hands(file, memory_bytes=MEMORY),
            learner_policy=LearnerPolicy(look=0.2),
        )
        with trio.fail_after(WITHIN):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.live)
                await node.until("ready", within=10.0)
                learner: dict[str, Any] = {}
                while learner.get("state") not in ("ready", "failing"):
                    await trio.sleep(0.2)
                    learner = (await node.call("GET", "/status", on="control"))[1]["learner"]
                (child,) = workers()
                assert child.nice() == 19
                page = (await node.ask("GET", "/metrics", on="control")).body.decode()
                nursery.cancel_scope.cancel()
    assert learner["reason"] == ""
    assert (learner["records_used"], learner["authors"], learner["trainings"]) == (300, 5, 1)
    assert learner["trained_at"]
    assert "trees" in learner["heads"]
    assert 0 <= learner["error_median"] < 0.2
    assert learner["train_s"] > 0
    assert 0 < learner["memory_bytes"] < MEMORY
    assert "metainf_learner_records 300.0" in page
    assert 'metainf_learner_trainings_total{outcome="learnt"} 1.0' in page
    assert workers() == []
    assert left(tmp_path) == []
