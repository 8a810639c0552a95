"""Reaching a peer by any of its addresses: all at once, a deadline for each, the first that answers wins.

Knows no libp2p: what dials one address is given. Nobody waits for the slowest, and one dead address costs nothing.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import trio

from node.errors import Unreachable
from protocol.addresses import Address

T = TypeVar("T")


class _Race(Generic[T]):
    """What the attempts leave behind."""

    def __init__(self) -> None:
        self.winner: T | None = None
        self.failures: list[str] = []


async def dial_any(
    addresses: Sequence[Address],
    dial_one: Callable[[Address], Awaitable[T]],
    *,
    patience: float,
    at_once: int,
) -> T:
    """Dial up to `at_once` addresses at a time; return the first connection, and cancel the other attempts.

    Args:
        addresses: the likeliest first.
        dial_one: raises `Unreachable` where it fails. Cancelled, it closes what it opened.
        patience: seconds for each attempt.

    Raises:
        Unreachable: none answered, with what became of each.
    """
    if not addresses:
        raise Unreachable("no address of this peer is known")
    race: _Race[T] = _Race()
    lanes = trio.Semaphore(at_once)

    async def attempt(address: Address, nursery: trio.Nursery) -> None:
        with trio.move_on_after(patience) as limit:
            try:
                connection = await dial_one(address)
            except Unreachable as error:
                race.failures.append(f"{address}: {error.message}")
            else:
                race.winner = race.winner or connection
                nursery.cancel_scope.cancel()
        if limit.cancelled_caught:
            race.failures.append(f"{address}: no answer within {patience:g} s")
        lanes.release()

    async with trio.open_nursery() as nursery:
        for address in addresses:
            await lanes.acquire()  # here and not in the attempt: tasks start in no order
            nursery.start_soon(attempt, address, nursery)
    if race.winner is None:
        raise Unreachable("; ".join(race.failures))
    return race.winner
