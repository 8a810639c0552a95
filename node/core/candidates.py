"""Those who may answer prompts for one model, as columns: who they are, what they cost, and where each is kept.

Knows no load, no curve and no choice. Made once from adverts and kept until the book changes, so that what a decision
costs does not grow with Python's loops over candidates. Of the tables that are kept elsewhere by row (standings,
curves, corrections) it remembers the rows, for as long as that table's `version` stays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, nan
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
ROOMS: Final = 8  # of a model's candidates, subsets by context that are kept: peers may make up any number of contexts
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
        context: tokens of prompt and answer together that it takes; infinite where it does not tell.
    """

    replica: PeerId
    connected: bool = True
    devices: float = 1.0
    watts: float = USUAL_WATTS
    price: float = nan
    caches: bool = True
    guesses: bool = False
    context: float = inf


def offering(replica: PeerId, advert: Advert | None, *, connected: bool = True, context: int | None = None) -> Offering:
    """Return what an advert says; what it does not say, or says oddly, is what is usual.

    `context`: of the model that is meant, as the advert's offer of it tells.
    """
    if advert is None:
        return Offering(replica=replica, connected=connected)
    return offered(
        replica,
        hardware=advert.hardware,
        strategy=advert.strategy,
        price=advert.price,
        connected=connected,
        context=context,
    )


def offered(
    replica: PeerId,
    *,
    hardware: Hardware | None,
    strategy: Mapping[str, object] | None,
    price: Mapping[str, object] | None = None,
    connected: bool = True,
    context: int | None = None,
) -> Offering:
    """Return what a machine under a strategy is, in the words of adverts."""
    devices = devices_of(hardware)
    watts = devices * USUAL_WATTS
    if hardware is not None and not hardware.accelerators and hardware.cpu_cores:
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
        context=inf if context is None else float(context),
    )


def devices_of(hardware: Hardware | None) -> float:
    """Return how many devices a machine is reckoned to be: its accelerators, or the machine itself."""
    if hardware is None or not hardware.accelerators:
        return 1.0
    return min(float(sum(each.count for each in hardware.accelerators)), MOST_DEVICES)


def told_price(per_hour: float | None, hardware: Hardware | None) -> Mapping[str, int] | None:
    """Return what an advert says of a machine whose owner asks so much for an hour of it; None where he asks nothing.

    `per_hour`: in the unit that the swarm reckons in. Adverts tell the price of one device.
    """
    if per_hour is None:
        return None
    return {PRICE_KEY: round(per_hour * MICRO / devices_of(hardware))}


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
        connected, devices, watts, price, caches, guesses, context: as in `Offering`, each of shape (n,).
        shortest, longest: of the contexts; infinite where one is not told.
        priced: whether any but the own engine asks for money.
    """

    __slots__ = (
        "_offerings", "_rooms", "_rows", "all_connected", "caches", "connected", "context", "devices", "guesses",
        "index", "local", "longest", "model", "price", "priced", "replicas", "shortest", "standings", "watts",
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
        self.context: Floats = np.array([each.context for each in offerings], dtype=np.float64)
        self.shortest = min((each.context for each in offerings), default=inf)
        self.longest = max((each.context for each in offerings), default=inf)
        # What the own engine is worth is no debt.
        self.priced = any(each.price > 0.0 and each.replica != local for each in offerings)
        self._offerings = tuple(offerings)
        self._rooms: dict[float, Candidates] = {}  # by the least context of those that are in it
        self._rows: dict[int, tuple[int, Rows]] = {}  # by table: its version, and where the candidates are in it

    def __len__(self) -> int:
        return len(self.replicas)

    def with_room(self, tokens: float) -> "Candidates":
        """Return those whose context holds so many tokens, or does not say; these themselves where all do."""
        if tokens <= self.shortest:
            return self
        enough = self.context[self.context >= tokens]
        least = float(enough.min()) if len(enough) else inf
        if least not in self._rooms:
            if len(self._rooms) >= ROOMS:
                self._rooms.clear()
            self._rooms[least] = self.only(self.context >= least)
        return self._rooms[least]

    def only(self, which: Flags) -> "Candidates":
        """Return some of them, `which` of shape (n,), in the same order."""
        kept = [each for each, keep in zip(self._offerings, which.tolist(), strict=True) if keep]
        local = None if self.local is None or not which[self.local] else self.replicas[self.local]
        return Candidates(kept, model=self.model, standings=self.standings, local=local)

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
