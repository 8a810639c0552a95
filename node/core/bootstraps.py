"""The nodes to join through that the operator named, and what became of each: what `status` and `doctor` tell of them.

Knows no network and no name server: what a name stood for, and how each dial and greeting ended, goes in with the time
(seconds of the loop); facts come out. A name of the kind `/dnsaddr` stands for a list of addresses that its TXT records
hold (multiformats' DNSADDR), so that a swarm may move its bootstraps without telling anybody.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from node.errors import WhyNot
from protocol import limits
from protocol.addresses import Address, parse_address
from protocol.ids import PeerId

Row: TypeAlias = Mapping[str, Any]  # one line of the block `bootstraps` of `metainf status --json`

PREFIX: Final = "/dnsaddr/"
ANSWERS: Final = 64  # TXT strings of one name that are looked at: lists of bootstraps have four to eight
ADDRESSES_OF_NAME: Final = 32  # that one name may stand for, all names that it refers to included
NAMES_OF_NAME: Final = 8  # other names that it may refer to, directly or not
WORDS: Final = 200  # characters of an error that are kept


@dataclass(frozen=True, slots=True, order=True)
class DnsAddr:
    """A name whose TXT records list addresses; only those of `peer` where one is named."""

    name: str
    peer: PeerId | None = None

    @property
    def question(self) -> str:
        """The name whose TXT records are asked for."""
        return f"_dnsaddr.{self.name}"

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}" + ("" if self.peer is None else f"/p2p/{self.peer}")


def parse_dnsaddr(text: str) -> DnsAddr | None:
    """Return the name in `/dnsaddr/NAME` or `/dnsaddr/NAME/p2p/PEER`; None where it is no such address."""
    if not text.startswith(PREFIX) or len(text) > limits.ADDRESS_BYTES:
        return None
    name, slash, peer = text.removeprefix(PREFIX).partition("/p2p/")
    # A name and a peer id are spelt here as in every other address.
    address = parse_address(f"/dns/{name}/tcp/1{slash}{peer}")
    return None if address is None or "/" in name else DnsAddr(address.host, address.peer)


def read_answers(wanted: DnsAddr, answers: Sequence[str]) -> tuple[tuple[Address, ...], tuple[DnsAddr, ...]]:
    """Return what TXT records say: addresses that lead to a peer, and further names to ask for.

    What is neither (another transport, somebody else's use of the records) is passed over.
    """
    addresses: dict[Address, None] = {}
    names: dict[DnsAddr, None] = {}
    for answer in answers[:ANSWERS]:
        key, _, value = answer.partition("=")
        if key.strip() != "dnsaddr":
            continue
        address, name = parse_address(value.strip()), parse_dnsaddr(value.strip())
        if address is not None and address.peer is not None and wanted.peer in (None, address.peer):
            addresses[address] = None
        elif name is not None and wanted.peer in (None, name.peer):
            names[name] = None
    return tuple(addresses), tuple(names)


@dataclass(slots=True, kw_only=True)
class _Line:
    """What is known of one address or name."""

    why: WhyNot | None = None
    words: str = ""
    failures: int = 0  # since it last went well
    tried_at: float | None = None
    well_at: float | None = None

    def fail(self, why: WhyNot, words: str, now: float) -> None:
        self.why, self.words, self.tried_at = why, words[:WORDS], now
        self.failures += 1

    def go_well(self, now: float) -> None:
        self.why, self.words, self.failures = None, "", 0
        self.tried_at = self.well_at = now

    def facts(self, now: float) -> dict[str, Any]:
        return {
            "why": None if self.why is None else self.why.value,
            "error": self.words or None,
            "failures": self.failures,
            "tried_s_ago": _ago(self.tried_at, now),
            "well_s_ago": _ago(self.well_at, now),
        }


@dataclass(slots=True)
class _Name:
    line: _Line = field(default_factory=_Line)
    addresses: tuple[Address, ...] = ()


class Bootstraps:
    """Account of the nodes to join through. Of other addresses nothing is kept."""

    def __init__(self, ours: PeerId, addresses: Iterable[Address], names: Iterable[DnsAddr] = ()) -> None:
        self._ours = ours
        self._given = tuple(dict.fromkeys(addresses))
        self._names = {name: _Name() for name in names}
        self._lines: dict[Address, _Line] = {address: _Line() for address in self._given}

    def resolved(self, name: DnsAddr, addresses: Sequence[Address], now: float) -> None:
        """Note what a name stands for now; of addresses that it no longer lists nothing is kept."""
        entry = self._names[name]
        entry.addresses = tuple(dict.fromkeys(addresses))[:ADDRESSES_OF_NAME]
        entry.line.go_well(now)
        listed = {*self._given, *(address for each in self._names.values() for address in each.addresses)}
        self._lines = {address: self._lines.get(address) or _Line() for address in listed}

    def unresolved(self, name: DnsAddr, why: WhyNot, words: str, now: float) -> None:
        """Note that a name could not be asked for, or stands for nothing. What it last stood for still counts."""
        self._names[name].line.fail(why, words, now)

    def ended(self, address: Address, why: WhyNot | None, words: str, now: float) -> None:
        """Note how a dial ended; None: well."""
        line = self._lines.get(address)
        if line is None:
            return
        if why is None:
            line.go_well(now)
        else:
            line.fail(why, words, now)

    def parted(self, peer: PeerId, why: WhyNot, words: str, now: float) -> None:
        """Note that a peer was reached and nothing came of it: it is of another swarm, has no room, says nothing."""
        for address, line in self._lines.items():
            if address.peer == peer:
                line.fail(why, words, now)

    def facts(self, met: Collection[PeerId], now: float) -> list[Row]:
        """Return one entry for each address and name, in the order in which they were given.

        Args:
            met: the peers that are connected and have greeted.
        """
        rows: list[Row] = [self._row(address, None, met, now) for address in self._given]
        for name, entry in self._names.items():
            state = "failing" if entry.line.failures else "resolved" if entry.line.well_at is not None else "waiting"
            rows.append({"address": str(name), "by": None, "state": state, **entry.line.facts(now)})
            rows += [self._row(each, name, met, now) for each in entry.addresses if each not in self._given]
        return rows

    def _row(self, address: Address, by: DnsAddr | None, met: Collection[PeerId], now: float) -> Row:
        line = self._lines[address]
        if address.peer == self._ours:
            state = "ourselves"
        elif address.peer in met:
            state = "connected"
        else:
            state = "failing" if line.failures else "waiting"
        return {"address": str(address), "by": None if by is None else str(by), "state": state, **line.facts(now)}


def _ago(then: float | None, now: float) -> float | None:
    return None if then is None else round(now - then, 1)


def told(rows: Iterable[Row]) -> str:
    """Return in one line why nobody of `Bootstraps.facts` is there; empty where somebody is, or nobody was named."""
    rows = [row for row in rows if row["state"] != "ourselves"]
    if not rows or any(row["state"] == "connected" for row in rows):
        return ""
    return "; ".join(f"{row['address'].partition('/p2p/')[0]}: {row['error']}" for row in rows if row["error"])
