"""Those who may answer prompts for one model, as columns: who they are, what they cost, and where each is kept.

Knows no load, no curve and no choice. Made once from adverts and kept until the book changes, so that what a decision
costs does not grow with Python's loops over candidates. Of the tables that are kept elsewhere by row (standings,
curves, corrections) it remembers the rows, for as long as that table's `version` stays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from node.core.standings import Standings
from protocol.advert import Advert, Hardware
from protocol.ids import PeerId

Floats: TypeAlias = NDArray[np.float64]
Rows: TypeAlias = NDArray[np.intp]
Flags: TypeAlias = NDArray[np.bool_]

USUAL_WATTS: Final = 300.0  # of an accelerator of which nothing is known: between a desktop's and a server's board
WATTS_PER_CORE: Final = 5.0  # of a machine without one: server processors are sold with 3.5 to 6 a core
MOST_DEVICES: Final = 1024.0  # that one offer is believed to use
MICRO: Final = 1_000_000.0
PRICE_KEY: Final = "device_hour_micro"  # of an advert's price: millionths of the swarm's unit for an hour of one device
PREFIX_KEY: Final = "prefix_caching"  # of an advert's strategy
SPECULATION_KEY: Final = "speculation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offering:
    """One candidate.

    Attributes:
        connected: whether no dial is needed.
        devices: that its engine uses.
        watts: that they draw together when busy.
        price: of a device for an hour; NaN where it tells none.
        caches: whether its engine keeps prefixes of prompts.
        guesses: whether it speculates: an event of a stream then holds more tokens than one.
    """

    replica: PeerId
    connected: bool = True
    devices: float = 1.0
    watts: float = USUAL_WATTS
    price: float = nan
    caches: bool = True
    guesses: bool = False


def offering(replica: PeerId, advert: Advert | None, *, connected: bool = True) -> Offering:
    """Return what an advert says; what it does not say, or says oddly, is what is usual."""
    if advert is None:
        return Offering(replica=replica, connected=connected)
    return offered(replica, hardware=advert.hardware, strategy=advert.strategy, price=advert.price, connected=connected)


def offered(
    replica: PeerId,
    *,
    hardware: Hardware | None,
    strategy: Mapping[str, object] | None,
    price: Mapping[str, object] | None = None,
    connected: bool = True,
) -> Offering:
    """Return what a machine under a strategy is, in the words of adverts."""
    devices, watts = 1.0, USUAL_WATTS
    if hardware is not None and hardware.accelerators:
        devices = min(float(sum(each.count for each in hardware.accelerators)), MOST_DEVICES)
        watts = devices * USUAL_WATTS
    elif hardware is not None and hardware.cpu_cores:
        watts = hardware.cpu_cores * WATTS_PER_CORE
    told = (price or {}).get(PRICE_KEY)
    return Offering(
        replica=replica,
        connected=connected,
        devices=devices,
        watts=watts,
        price=told / MICRO if type(told) is int and told >= 0 else nan,
        caches=(strategy or {}).get(PREFIX_KEY) is not False,
        guesses=(strategy or {}).get(SPECULATION_KEY) is not None,
    )


class ByModel(Protocol):
    """A table with a row for each replica and model."""

    version: int

    def rows(self, replicas: Sequence[PeerId], model: str, /) -> Rows:
        """Return the row of each, shape (n,)."""
        ...


class ByReplica(Protocol):
    """A table with a row for each replica."""

    version: int

    def rows(self, replicas: Sequence[PeerId], /) -> Rows:
        """Return the row of each, shape (n,)."""
        ...


class Candidates:
    """See the module. Frozen but for the rows that it remembers; the tables outlive it.

    Attributes:
        replicas: in the order of all columns, shape (n,).
        local: which of them is this node's own engine; None where it does not serve the model.
        index: the place of each replica.
        connected, devices, watts, price, caches, guesses: as in `Offering`, each of shape (n,).
    """

    __slots__ = (
        "_rows", "all_connected", "caches", "connected", "devices", "guesses", "index", "local", "model", "price",
        "replicas", "standings", "watts",
    )  # fmt: skip

    def __init__(
        self, offerings: Sequence[Offering], *, model: str, standings: Standings, local: PeerId | None = None
    ) -> None:
        self.model = model
        self.standings = standings
        self.replicas: tuple[PeerId, ...] = tuple(each.replica for each in offerings)
        self.index: Mapping[PeerId, int] = {replica: at for at, replica in enumerate(self.replicas)}
        self.local = None if local is None else self.index.get(local)
        self.connected: Flags = np.array([each.connected for each in offerings], dtype=np.bool_)
        self.all_connected = all(each.connected for each in offerings)
        self.devices: Floats = np.array([each.devices for each in offerings], dtype=np.float64)
        self.watts: Floats = np.array([each.watts for each in offerings], dtype=np.float64)
        self.price: Floats = np.array([each.price for each in offerings], dtype=np.float64)
        self.caches: Flags = np.array([each.caches for each in offerings], dtype=np.bool_)
        self.guesses: Flags = np.array([each.guesses for each in offerings], dtype=np.bool_)
        self._rows: dict[int, tuple[int, Rows]] = {}  # by table: its version, and where the candidates are in it

    def __len__(self) -> int:
        return len(self.replicas)

    def by_model(self, table: ByModel) -> Rows:
        """Return where the candidates are in a table by replica and model, shape (n,)."""
        found = self._rows.get(id(table))
        if found is None or found[0] != table.version:
            found = self._rows[id(table)] = (table.version, table.rows(self.replicas, self.model))
        return found[1]

    def by_replica(self, table: ByReplica) -> Rows:
        """Return where they are in a table by replica, shape (n,)."""
        found = self._rows.get(id(table))
        if found is None or found[0] != table.version:
            found = self._rows[id(table)] = (table.version, table.rows(self.replicas))
        return found[1]
