"""Reaching a peer by any of its addresses: all at once, a deadline for each, the first that answers wins.

Knows no libp2p: what dials one address is given. Nobody waits for the slowest, and one dead address costs nothing.
Ways through relays begin a moment later than the others: a relay's work is asked for only where nothing else answers.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

import trio

from node.errors import Unreachable
from protocol.addresses import Address

T = TypeVar("T")

HEAD_START: Final = 0.5  # s that direct addresses have before relays are asked: two round trips around the world
STEPS_BEHIND_RELAY: Final = 2  # to the relay first, then to who is called: each has the whole patience


def patience_for(address: Address, seconds: float) -> float:
    """Return the seconds for one address, where a direct one has so many."""
    return seconds * (1 if address.relay is None else STEPS_BEHIND_RELAY)


class _Race(Generic[T]):
    """The attempts, and what they leave behind."""

    def __init__(self, dial_one: Callable[[Address], Awaitable[T]], patience: float, direct: int) -> None:
        self.winner: T | None = None
        self.failures: list[str] = []
        self._dial_one = dial_one
        self._patience = patience
        self._direct = direct
        self._all_failed = trio.Event()  # the direct ones
        if not direct:
            self._all_failed.set()

    async def attempt(self, address: Address, lanes: trio.Semaphore, over: trio.CancelScope) -> None:
        """Dial one, and end the race if it answers."""
        seconds = patience_for(address, self._patience)
        with trio.move_on_after(seconds) as limit:
            try:
                connection = await self._dial_one(address)
            except Unreachable as error:
                self.failures.append(f"{address}: {error.message}")
            else:
                self.winner = self.winner or connection
                over.cancel()
        if limit.cancelled_caught:
            self.failures.append(f"{address}: no answer within {seconds:g} s")
        if len(self.failures) >= self._direct:
            self._all_failed.set()
        lanes.release()

    async def head_start(self) -> None:
        """Wait until relays may be asked."""
        with trio.move_on_after(HEAD_START):
            await self._all_failed.wait()


async def dial_any(
    addresses: Sequence[Address],
    dial_one: Callable[[Address], Awaitable[T]],
    *,
    patience: float,
    at_once: int,
) -> T:
    """Dial up to `at_once` addresses at a time; return the first connection, and cancel the other attempts.

    Args:
        addresses: the likeliest first; ways through relays go last whatever their place.
        dial_one: raises `Unreachable` where it fails. Cancelled, it closes what it opened.
        patience: seconds for each attempt; for one through a relay, twice that.

    Raises:
        Unreachable: none answered, with what became of each.
    """
    if not addresses:
        raise Unreachable("no address of this peer is known")
    direct = [each for each in addresses if each.relay is None]
    relayed = [each for each in addresses if each.relay is not None]
    race = _Race(dial_one, patience, len(direct))
    lanes = trio.Semaphore(at_once)
    async with trio.open_nursery() as nursery:
        for address in (*direct, *relayed):
            if address in relayed[:1]:
                await race.head_start()
            await lanes.acquire()  # here and not in the attempt: tasks start in no order
            nursery.start_soon(race.attempt, address, lanes, nursery.cancel_scope)
    if race.winner is None:
        raise Unreachable("; ".join(race.failures))
    return race.winner
