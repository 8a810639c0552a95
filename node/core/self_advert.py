"""What this node says of itself and when: its greeting, its adverts, their order in time.

Knows no network, no key and no clock: a description goes in with the time, the bodies to be signed and the moment
to speak next come out. Times of the wall are microseconds since 1970, those of the loop seconds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Final

from protocol import limits
from protocol.addresses import Address
from protocol.advert import Advert, Engine, Hardware, ModelOffer, ServeLimits, interval_us, lease_us, model_name
from protocol.hello import Hello, Versions
from protocol.ids import Epoch, PeerId, SwarmId
from protocol.records import Stamp
from protocol.wire import Value

SPOKEN: Final[Versions] = {
    "infer": (1,),
    "load": (1,),
    "advert": (1,),
    "history": (1,),
    "performance": (1,),
    "reach": (1,),
}

ANSWERS: Final = 16  # nodes that answer a newcomer whom they only heard of: it then knows a part of any swarm at once
HEARD_FIRST, HEARD_LAST = 0.2, 2.0  # s until such an answer: spread, or sixteen adverts would come in one moment
MET_FIRST, MET_LAST = 0.3, 0.9  # s until one that we met hears us: its subscription has to come first
REPEAT_FIRST, REPEAT_LAST = 1.4, 2.0  # s until the repetition after a first meeting: the mesh takes a heartbeat, 1 s
DEBOUNCE = 0.5  # s that a changed description has for its other changes
GAP: Final = limits.ADVERT_GAP_US / limits.SECOND_US
# One fewer in a row than others pass on: the last is for the leave, which may come at any time.
IN_A_ROW: Final = limits.ADVERT_BURST - 1
JITTER: Final = 0.1  # of an interval, taken off: added, it would let a lease end when two adverts in a row are lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a node serves, with what, and where it is reached: an advert without its stamp.

    `strategy` holds the fields of the acceleration strategy, `intends` a word of `protocol.advert`, `price` what
    `node.core.candidates.told_price` makes of the owner's; None of anything leaves it unsaid.
    """

    addresses: tuple[Address, ...] = ()
    circuits: tuple[Address, ...] = ()  # the ways to it through relays
    models: tuple[ModelOffer, ...] = ()
    roles: tuple[str, ...] = ()
    name: str | None = None
    hardware: Hardware | None = None
    engine: Engine | None = None
    strategy: Mapping[str, Value] | None = None
    limits: ServeLimits | None = None
    intends: str | None = None
    price: Mapping[str, Value] | None = None


def software(version: str) -> str:
    """Return how this program is called on the wire, for people."""
    return f"metainf/{version}"[: limits.SOFTWARE_CHARS]


def our_hello(*, me: PeerId, swarm: SwarmId, epoch: Epoch, version: str, certificate: bytes | None = None) -> Hello:
    """Return the greeting of this run; whoever says it fills in the time."""
    return Hello(
        swarm=swarm,
        sender=me,
        incarnation=epoch,
        time=epoch.start_us,
        software=software(version),
        versions=SPOKEN,
        features=(),
        certificate=certificate,
    )


def device_label(text: str) -> str | None:
    """Return a driver's name for a device as adverts may say it; None where nothing of it is left."""
    return "".join(char if " " <= char <= "~" else " " for char in text).strip()[: limits.WORD_CHARS].strip() or None


def sayable(offer: ModelOffer) -> bool:
    """Whether anybody could ask for this model by its name."""
    name = model_name(offer.name)
    return name is not None and name.pin is None


class OwnAdverts:
    """The adverts of this run, each outranking the one before. Sign and say each in the order it was made."""

    def __init__(
        self, *, me: PeerId, swarm: SwarmId, epoch: Epoch, version: str, certificate: bytes | None = None
    ) -> None:
        self.me: Final = me
        self._certificate = certificate
        self.swarm: Final = swarm
        self._epoch = epoch
        self._software = software(version)
        self._seq = 0
        self._latest_expiry = 0

    @property
    def made(self) -> int:
        """How many there were."""
        return self._seq

    def next(self, description: Description, *, members: int, now_us: int) -> Advert:
        """Return the next advert, a lease as long as a swarm of so many members wants.

        What the wire has no room for is left out from the end of its list, and so are models of names that nobody
        could ask for (see `sayable`).
        """
        name = description.name
        return Advert(
            stamp=self._stamp(now_us, lease_us(members)),
            addresses=tuple(str(address.of(None)) for address in description.addresses[: limits.ADDRESSES]),
            models=tuple(offer for offer in description.models if sayable(offer))[: limits.MODELS],
            roles=description.roles[: limits.ROLES],
            software=self._software,
            versions=SPOKEN,
            name=None if name is None else name.encode()[: limits.NODE_NAME_BYTES].decode(errors="ignore"),
            hardware=description.hardware,
            engine=description.engine,
            strategy=description.strategy,
            limits=description.limits,
            intends=description.intends,
            price=description.price,
            circuits=tuple(map(str, description.circuits[: limits.CIRCUITS])) or None,
            certificate=self._certificate,
        )

    def leave(self, *, now_us: int) -> Advert:
        """Return the last advert: this node is gone. It outlives those before it, or late copies would outrank it."""
        time = self._time(now_us)
        life = max(self._latest_expiry - time, limits.ADVERT_GAP_US)
        return Advert(
            # Beyond the bound only where the clock was set back by hours; then the bound is all that can be said.
            stamp=self._stamp(now_us, min(life, limits.ADVERT_LIFETIME_US)),
            addresses=(),
            models=(),
            roles=(),
            software=self._software,
            versions=SPOKEN,
            leaving=True,
            certificate=self._certificate,
        )

    def _time(self, now_us: int) -> int:
        return max(now_us, self._epoch.start_us)  # a clock that was set back: nothing is older than its own run

    def _stamp(self, now_us: int, life_us: int) -> Stamp:
        time = self._time(now_us)
        self._seq += 1
        self._latest_expiry = max(self._latest_expiry, time + life_us)
        return Stamp(
            version=1,
            swarm=self.swarm,
            author=self.me,
            epoch=self._epoch,
            seq=self._seq,
            time=time,
            expiry=time + life_us,
        )


class Timetable:
    """When to say the advert next: what is asked for meets what the others pass on (docs/protocol/gossip.md).

    Of the moments asked for only the first and the last are kept: one advert serves everybody who waited for it, and
    whoever came last is served too.
    """

    def __init__(self, luck: Callable[[], float]) -> None:
        self._luck = luck
        self._asked: tuple[float, ...] = ()
        self._unasked = inf
        self._paid_until = 0.0

    def ask(self, now: float, first: float, last: float) -> None:
        """Ask for an advert between `first` and `last` seconds from now."""
        at = now + first + (last - first) * self._luck()
        asked = (*self._asked, at)
        self._asked = tuple(dict.fromkeys((min(asked), max(asked))))

    def heard_newcomer(self, now: float, members: int) -> None:
        """Note a node that was only heard of; luck decides whether we are among those who answer it."""
        if self._luck() * max(members, 1) < ANSWERS:
            self.ask(now, HEARD_FIRST, HEARD_LAST)

    def said(self, now: float, members: int) -> None:
        """Note that an advert was said, with the lease of a swarm of so many members."""
        self._asked = tuple(at for at in self._asked if at > now)
        self._unasked = now + interval_us(members) / limits.SECOND_US * (1 - JITTER * self._luck())
        self._paid_until = max(self._paid_until, now) + GAP

    @property
    def next_at(self) -> float:
        """When to speak next; infinite before anything was asked for or said."""
        wanted = min((*self._asked, self._unasked))
        return max(wanted, self._paid_until - (IN_A_ROW - 1) * GAP)
