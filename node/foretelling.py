"""What a node foretells of every replica, and how far away each is: what its router reads, and what keeps that true.

The part of the composition between the learner and the router. Decides nothing: the tables are made at once, because
the router is built on them; what fills them is connected when the learner is there, and without one they say that
nothing is known.
"""

from collections.abc import Callable, Iterable
from typing import Any

import trio

from node.core.curves import Shelf
from node.core.own_records import Setting
from node.core.peer_cells import BELIEVED, Known
from node.core.peerbook import Peerbook
from node.core.round_trips import RoundTrips
from node.learner_ports import Authors
from node.ports import Swarm
from node.record_ports import Told
from node.services.foretell import Foretell, Learner, Own
from node.services.measure_rtt import RttReader
from node.services.read_machines import MachineReader
from protocol.ids import PeerId


class Foretelling:
    """`shelf` and `trips` are for the router. `run` keeps them; `connect` comes before it."""

    def __init__(self, me: PeerId, *, swarm: Swarm, book: Peerbook) -> None:
        self._me = me
        self._book = book
        self.shelf = Shelf()
        self.trips = RoundTrips(me)
        self._known = Known()
        self._rtt = RttReader(swarm, self.trips.note)
        self._foretell: Foretell | None = None
        self._reader: MachineReader | None = None

    def connect(
        self,
        learner: Learner,
        *,
        authors: Callable[[], Authors],
        told: Told | None,
        own: Own | None,
        shipped: Iterable[tuple[PeerId, Setting]] = (),
    ) -> None:
        """Say whom to ask.

        Args:
            authors: who is who among the authors of records.
            told: what their records were measured on; None where no history is kept in a file.
            own: this node's engine; None where it has none, or cannot tell what it is.
            shipped: what the records that metainf came with were measured on, by author, the newest first.
        """
        by_author: dict[PeerId, list[Setting]] = {}
        for author, setting in shipped:
            by_author.setdefault(author, []).append(setting)
        for author, settings in by_author.items():
            self._known.hear(author, settings, BELIEVED)
        self._foretell = Foretell(self.shelf, learner, me=self._me, book=self._book, known=self._known, own=own)
        if told is not None:
            self._reader = MachineReader(
                told, self._known, book=self._book, authors=authors, changed=self._foretell.look_again
            )

    def look_again(self) -> None:
        """Note that the book, or this node's own engine, has changed."""
        if self._foretell is not None:
            self._foretell.look_again()

    async def run(self) -> None:
        """Keep curves and distances; return never."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._rtt.run)
            if self._foretell is not None:
                nursery.start_soon(self._foretell.run)
            if self._reader is not None:
                nursery.start_soon(self._reader.run)

    def facts(self) -> dict[str, Any]:
        """Return how it stands, for `metainf status` and the metrics."""
        found = {} if self._foretell is None else self._foretell.facts()
        return {**found, "distances": len(self.trips)}
