"""A whole node on its first day, alone: its history is empty, and it learns from what metainf ships with all the same.

Real time: the learner is the real one, in its process.
"""

from pathlib import Path
from typing import Any

import pytest
import trio

from node.adapters.snapshot_file import read_shipped
from node.adapters.store.history import open_history
from node.clock import wall_us
from node.history import record_rules
from node.learner_hands import learner_hands
from node.services.learn import LearnerPolicy
from protocol.ids import PUBLIC_SWARM
from tests.sim.node import SimNode

pytestmark = pytest.mark.slow

WITHIN = 180.0  # s: a dozen on a quiet machine
MEMORY = 2 << 30


async def test_a_first_day_node_learns_from_what_is_shipped_at_once_and_holds_none_of_it(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    shipped = read_shipped()
    assert shipped is not None
    file = tmp_path / "public.sqlite"
    async with open_history(file, record_rules(PUBLIC_SWARM), now_us=wall_us) as history:
        real: Any = history
        node = SimNode(
            None,
            history=real,
            clock=wall_us,
            learner=learner_hands(file, memory_bytes=MEMORY, shipped=shipped),
            learner_policy=LearnerPolicy(look=0.2),
        )
        with trio.fail_after(WITHIN):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.live)
                await node.until("ready", within=10.0)
                status: dict[str, Any] = {"learner": {}}
                while status["learner"].get("state") not in ("ready", "failing"):
                    await trio.sleep(0.2)
                    status = (await node.call("GET", "/status", on="control"))[1]
                nursery.cancel_scope.cancel()
        assert history.facts().records == 0
    assert status["learner"]["reason"] == ""
    assert status["learner"]["records_used"] == shipped.summary.records
    assert status["learner"]["authors"] == len(shipped.authors)
    assert status["records"]["shipped"] == shipped.summary.records
    assert status["records"]["total"] == 0
