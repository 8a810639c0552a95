"""When the node stops, and how: signals and commands become one wish that the composition root waits for.

Knows no service. The first wish asks for a graceful stop; a second one (a second Ctrl-C) for a stop at once.
"""

import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import trio

from node.errors import NodeError


class StopWish:
    """Whether, why and how urgently the node is to stop."""

    def __init__(self) -> None:
        self._wanted = trio.Event()
        self._urgent = trio.Event()
        self.reason = ""
        self.by_interrupt = False

    def ask(self, reason: str) -> None:
        """Ask for a graceful stop; asked again, for a stop at once."""
        if self._wanted.is_set():
            self._urgent.set()
            return
        self.reason = reason
        self._wanted.set()

    async def wanted(self) -> str:
        """Wait until somebody asks; return why."""
        await self._wanted.wait()
        return self.reason

    async def urgent(self) -> None:
        """Wait until somebody asks twice."""
        await self._urgent.wait()


@asynccontextmanager
async def stop_on_signals(wish: StopWish) -> AsyncIterator[None]:
    """Turn SIGINT, SIGTERM and SIGHUP (the terminal was closed) into the wish while the block runs."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                async for number in signals:
                    wish.by_interrupt = wish.by_interrupt or number == signal.SIGINT
                    wish.ask(signal.Signals(number).name)

            nursery.start_soon(listen)
            yield
            nursery.cancel_scope.cancel()


def first_node_error(group: BaseExceptionGroup[BaseException]) -> NodeError | None:
    """Return the error to show to a person when a nursery ends by nothing worse; None if there is a bug among them."""
    leaves = list(_leaves(group))
    shown = [leaf for leaf in leaves if isinstance(leaf, NodeError)]
    return shown[0] if len(shown) == len(leaves) else None


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
