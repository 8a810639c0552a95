"""Keeps the addresses that work for a node's next run, now and then and whenever its company has changed.

Knows neither disk nor network: what changes, what works and where it is kept are given.
"""

from collections.abc import Awaitable, Callable, Sequence

import trio

from protocol.addresses import Address
from protocol.ids import PeerId

AFTER = 1.0  # s after the company has changed: comings come in bursts
EVERY = 60.0  # s


async def keep_remembered(
    changed: Callable[[frozenset[PeerId]], Awaitable[frozenset[PeerId]]],
    working: Callable[[], Sequence[Address]],
    *,
    kept: Sequence[Address],
    keep: Callable[[Sequence[Address]], Awaitable[None]],
) -> None:
    """Keep what works whenever it is not what was kept last; return never.

    Args:
        changed: waits until the company is another than this, and returns it.
        working: the addresses by which peers were reached.
        kept: what was kept by the run before.
    """
    company: frozenset[PeerId] = frozenset()
    while True:
        with trio.move_on_after(EVERY):
            company = await changed(company)
            await trio.sleep(AFTER)
        now = working()
        if now and now != kept:
            kept = now
            await keep(now)
