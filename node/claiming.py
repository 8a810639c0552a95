"""Waiting for a port that an outgoing connection happens to use, and saying who has it.

Knows no transport. The usual port, 47470, lies where Linux takes the numbers of outgoing connections from (32768 to
60999): any program that dialled out may have it for a while, and nobody listens at it. That is worth waiting for; a
program that listens is not. See docs/decisions/bootstraps.md.
"""

from collections.abc import Callable, Sequence

import structlog
import trio

from node.adapters.system import Holder, port_free, port_holder
from node.core.network_findings import ANOTHER_PORT, port_remedy
from node.errors import Unavailable
from protocol.addresses import Address

log = structlog.get_logger(__name__)

PATIENCE = 10.0  # s: short requests end in as long; one that has just ended holds its port for 60, a chat for hours
PAUSE = 0.5  # s between two looks


async def until_free(
    listen: Sequence[Address],
    *,
    patience: float = PATIENCE,
    holder: Callable[[int], Holder | None] = port_holder,
) -> None:
    """Wait for as long as a port is used by connections that nobody listens for, and not longer than `patience`.

    Returns in any case: whoever then cannot listen says so (`taken`).
    """
    with trio.move_on_after(patience):
        for address in listen:
            waited = False
            while address.port and not await trio.to_thread.run_sync(_free, address):
                found = await trio.to_thread.run_sync(holder, address.port)
                if found is None or found.listens:
                    return
                if not waited:
                    waited = True
                    log.warning("port.waiting", port=address.port, held_by=found.words, seconds=patience)
                await trio.sleep(PAUSE)


def taken(error: Unavailable, listen: Sequence[Address]) -> Unavailable:
    """Return why the ports for peers cannot be had, with who has them and what to do."""
    for address in listen:
        found = port_holder(address.port) if address.port else None
        if found is not None:
            words = f"{error.message} (port {address.port} is held by {found.words})"
            return Unavailable(words, remedy=port_remedy(address.port, listens=found.listens))
    return Unavailable(error.message, remedy=ANOTHER_PORT)


def _free(address: Address) -> bool:
    try:
        return port_free(address.host, address.port)
    except OSError:
        return True  # no question of who has it: whoever listens will say what it is
