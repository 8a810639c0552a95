"""Every performance record of one swarm, as this node keeps it: which file, what is believed, whose pen.

The one place where the store is opened for writing; a running node does, and so do commands that find none running.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from node.adapters.keystore import Identity
from node.adapters.run_epoch import begin_run
from node.adapters.store.history import StoredHistory, open_history
from node.adapters.store.pen import Pen
from node.adapters.store.rules import Rules
from node.clock import wall_us
from node.core.cells import cell_of
from node.core.record_checks import first_doubt
from node.places import Places
from protocol.ids import Epoch, SwarmId
from protocol.performance import PERFORMANCE, Performance
from protocol.records import Signed


def doubt_of(wall: Callable[[], int]) -> Callable[[Signed[Performance]], str | None]:
    """Return what says why a verified record is not believed; None where it is."""
    return lambda signed: first_doubt(signed.body, now_us=wall())


def record_rules(swarm: SwarmId, wall: Callable[[], int] = wall_us) -> Rules[Performance]:
    """Return what belongs into a swarm's history."""
    return Rules(kind=PERFORMANCE, swarm=swarm, check=doubt_of(wall), cell=cell_of)


async def begin_epoch(where: Places) -> Epoch:
    """Return the start of this run, later than that of every run before it, and keep it."""
    return Epoch(await trio.to_thread.run_sync(begin_run, where.epoch_file, wall_us()))


@asynccontextmanager
async def open_own_history(
    where: Places, swarm: SwarmId, identity: Identity, epoch: Epoch
) -> AsyncIterator[StoredHistory[Performance]]:
    """Open a swarm's history, or make it; closed when the block is left. One process at a time: hold the node's lock.

    Raises:
        node.errors.Unavailable: the file system refused, or a newer version of this program made the file.
    """
    rules = record_rules(swarm)
    pen = Pen(identity.signing_key(), rules, run_us=epoch.start_us)
    async with open_history(where.history_file(swarm), rules, now_us=wall_us, pen=pen) as history:
        yield history
