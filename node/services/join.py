"""Finding the swarm and staying in it: dials what the address book plans, and tells it what became of each.

Knows no transport and decides nothing about addresses. Bootstraps, the peers of the last run and whoever was heard of
are dialled side by side, and nobody waits for the slowest; a node that finds nobody is alone, says so, and goes on.
"""

from collections.abc import Callable, Collection, Iterable

import trio

from node.core.addressbook import AddressBook, Dial, Source
from node.errors import Unreachable
from node.ports import Swarm
from protocol.addresses import Address
from protocol.ids import PeerId

DIALS = 16  # at a time: each holds a socket and 3 ms of CPU, and a whole list must not take minutes
PACE = 50e-6  # s for each peer in the book, between two looks at it: a tenth of the CPU while adverts pour in


class Joining:
    """Keeps the node in company. `run` is its one long-lived task."""

    def __init__(  # noqa: PLR0913 -- each is one capability
        self,
        swarm: Swarm,
        book: AddressBook,
        *,
        wanted: Callable[[], Iterable[PeerId]],
        luck: Callable[[], float],
        tell: Callable[[bool], None],
        met: Callable[[], Collection[PeerId]] | None = None,
        ended: Callable[[Address, Unreachable | None], None] = lambda *_: None,
    ) -> None:
        """Prepare.

        Args:
            wanted: whom to be connected with besides those whom the operator gave, the dearest first.
            luck: uniform in [0, 1).
            tell: gets True when the node is alone (everybody it knows was tried), False when it is not any more.
            met: who is company: connected, and greeted. None: whoever is connected.
            ended: gets each address that was dialled, and why nothing came of it.
        """
        self._swarm = swarm
        self._book = book
        self._wanted = wanted
        self._luck = luck
        self._tell = tell
        self._met = met or swarm.connected
        self._ended = ended
        self._alone = False
        self._dialling = 0
        self._failed = False  # something was tried, and led nowhere, since there was company
        self._news = trio.Event()

    def hear(self, addresses: Iterable[Address], source: Source) -> None:
        """Take in addresses, and look at once whether one is to be dialled."""
        self._book.learn(addresses, source)
        self._news.set()

    def look_again(self) -> None:
        """Say that what is wanted may have changed."""
        self._news.set()

    def in_vain(self) -> None:
        """Say that somebody was reached with whom we do not go together: that is no company."""
        self._failed = True
        self._news.set()

    async def run(self) -> None:
        """Dial what is due, wait for what is next; return never."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            while True:
                self._news = trio.Event()
                plan = self._book.plan(
                    wanted=self._wanted(),
                    connected=self._swarm.connected(),
                    room=DIALS - self._dialling,
                    now=trio.current_time(),
                )
                for dial in plan.dials:
                    self._dialling += 1
                    nursery.start_soon(self._dial, dial)
                self._judge()
                with trio.move_on_at(float("inf") if plan.wake_at is None else plan.wake_at):
                    await self._news.wait()
                await trio.sleep(PACE * len(self._book))

    async def _watch(self) -> None:
        company: frozenset[PeerId] = frozenset()
        while True:
            company = await self._swarm.changed(company)
            self._news.set()

    async def _dial(self, dial: Dial) -> None:
        ended = False
        try:
            await self._swarm.dial(dial.address)
            ended = True
            self._book.succeeded(dial, trio.current_time())
            self._ended(dial.address, None)
        except Unreachable as error:
            ended = self._failed = True
            self._book.failed(dial, trio.current_time(), self._luck())
            self._ended(dial.address, error)
        finally:
            if not ended:
                self._book.gave_up(dial)
            self._dialling -= 1
            self._news.set()

    def _judge(self) -> None:
        if self._met():
            self._failed = False
            alone = False
        else:
            busy = self._dialling or self._swarm.connected()  # who is connected may greet yet
            alone = self._alone or (self._failed and not busy)
        if alone != self._alone:
            self._alone = alone
            self._tell(alone)
