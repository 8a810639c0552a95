"""Asking what the names of bootstraps stand for, at the start and from time to time, and passing it on.

Knows no name server and dials nobody. A name that cannot be asked for now is asked for again, soon, then more seldom;
what it last stood for goes on counting. All names are asked for side by side: none waits for another.
"""

from collections.abc import Awaitable, Callable, Sequence

import structlog
import trio

from node.core.bootstraps import ADDRESSES_OF_NAME, NAMES_OF_NAME, Bootstraps, DnsAddr, read_answers
from node.errors import Unreachable, WhyNot
from protocol.addresses import Address

log = structlog.get_logger(__name__)

ASK = 5.0  # s for one question: three servers are asked in turn
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0  # s after an answer that did not come, doubled each time
AGAIN = 600.0  # s after a good one: a bootstrap that moves is found within as long

Ask = Callable[[str], Awaitable[Sequence[str]]]


class Resolving:
    """Keeps the account of what names stand for. `run` is its one long-lived task; it returns where there is none."""

    def __init__(
        self,
        names: Sequence[DnsAddr],
        ask: Ask,
        *,
        bootstraps: Bootstraps,
        hear: Callable[[Sequence[Address]], None],
    ) -> None:
        """Prepare.

        Args:
            ask: returns the TXT records of a name; raises `Unreachable`.
            hear: gets the addresses that a name stands for.
        """
        self._names = names
        self._ask = ask
        self._bootstraps = bootstraps
        self._hear = hear

    async def run(self) -> None:
        """Ask, again and again."""
        async with trio.open_nursery() as nursery:
            for name in self._names:
                nursery.start_soon(self._keep, name)

    async def _keep(self, name: DnsAddr) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                addresses = await stands_for(name, self._ask)
            except Unreachable as error:
                log.warning("bootstrap.unresolved", name=str(name), reason=error.message)
                self._bootstraps.unresolved(name, error.why, error.message, trio.current_time())
                await trio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            self._bootstraps.resolved(name, addresses, trio.current_time())
            self._hear(addresses)
            pause = FIRST_PAUSE
            await trio.sleep(AGAIN)


async def stands_for(name: DnsAddr, ask: Ask) -> Sequence[Address]:
    """Return the addresses of a name, and of those that it refers to; each name is asked for once.

    Raises:
        Unreachable: the name itself cannot be asked for, or nothing that could be dialled comes of it.
    """
    found: dict[Address, None] = {}
    asked: dict[DnsAddr, None] = {}
    waiting = [name]
    while waiting:
        each = waiting.pop(0)
        asked[each] = None
        try:
            addresses, names = read_answers(each, await _answers(each, ask))
        except Unreachable:
            if each == name:
                raise
            continue  # one of those that it refers to: the others may do
        found |= dict.fromkeys(addresses)
        room = NAMES_OF_NAME + 1 - len(asked) - len(waiting)
        waiting += [more for more in names if more not in asked and more not in waiting][: max(room, 0)]
    if not found:
        raise Unreachable(f"{name.question} lists no address that this node could dial", why=WhyNot.NO_NAME)
    return tuple(found)[:ADDRESSES_OF_NAME]


async def _answers(name: DnsAddr, ask: Ask) -> Sequence[str]:
    with trio.move_on_after(ASK):
        return await ask(name.question)
    raise Unreachable(f"no name server answered within {ASK:g} s", why=WhyNot.NO_NAME)
