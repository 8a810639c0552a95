"""The records that metainf ships with: one text that says what is in it, opened whole or not at all.

Knows no file, no history and no clock. Each record in it is judged by every rule that a peer's would be, but by the
clock of its own stamp: it may be older than any peer may bring, and never becomes part of what peers are told. Why that
is safe: docs/decisions/warm-start.md.

JSON Lines, ASCII. The first line is the summary, in the words of `Summary`; each further one is a record as
`metainf records export` writes it, less what can be read from the sealed bytes: {"record.sealed": BASE64}. By name in
ascending order, so that equal records make equal bytes.
"""

import json
from base64 import b64decode, b64encode
from binascii import Error as NoBase64
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final, cast

from node.core.observation_columns import SEALED
from node.core.record_checks import first_doubt
from protocol import limits
from protocol.errors import RemoteProtocolError
from protocol.ids import PUBLIC_SWARM, PeerId, RecordName
from protocol.performance import DUMMY, PERFORMANCE, TRIAL, Performance
from protocol.records import Signed, verify_archived

VERSION: Final = 1
# As many as one author may have in the history: the project's word is worth an author's, not a swarm's. Our own sweep
# of nine strategies on three workloads has 27 records a machine.
RECORDS: Final = limits.AUTHOR_RECORDS
BYTES: Final = 4 * limits.MIB  # of the text: 1,024 records of 2 KiB, in base64, and half as much again
WORDS: Final = 160  # characters of what a broken snapshot says of itself


class InvalidSnapshot(Exception):
    """Nothing of this text is to be used; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """Who signed records, in which epochs (microseconds since 1970), and how many."""

    author: str
    epochs: tuple[int, ...]
    records: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a snapshot says of itself; always what its records say, or it does not open.

    Attributes:
        records: how many; `dummy` of them of models whose weights are random, whose answers mean nothing.
        signers: by author.
        engines: name and version; models, hardware: names; platforms: as the records have them, `cpu` or `cuda`.
        first_us, last_us: when the oldest and the newest was signed.
    """

    records: int
    dummy: int
    signers: tuple[Signer, ...]
    engines: tuple[str, ...]
    models: tuple[str, ...]
    hardware: tuple[str, ...]
    platforms: tuple[str, ...]
    first_us: int
    last_us: int

    def to_plain(self) -> Mapping[str, Any]:
        """Return it as JSON has it."""
        signers = [
            {"author": each.author, "epochs_us": list(each.epochs), "records": each.records} for each in self.signers
        ]
        return {
            "snapshot": VERSION,
            "records": self.records,
            "dummy": self.dummy,
            "signers": signers,
            "engines": list(self.engines),
            "models": list(self.models),
            "hardware": list(self.hardware),
            "platforms": list(self.platforms),
            "first_us": self.first_us,
            "last_us": self.last_us,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Verified records, by name in ascending order, and what they are. Come by with `open_snapshot` alone."""

    records: tuple[Signed[Performance], ...] = field(repr=False)
    summary: Summary

    @property
    def authors(self) -> frozenset[PeerId]:
        """Who signed them."""
        return frozenset(each.name.author for each in self.records)


def digest_of(raw: bytes) -> str:
    """Return what the program names a snapshot by: SHA-256 of the text, in hexadecimal."""
    return sha256(raw).hexdigest()


def open_snapshot(raw: bytes, *, digest: str) -> Snapshot:
    """Open a snapshot whose digest the program knows.

    Raises:
        InvalidSnapshot: it is another text than that, or says what is not so.
    """
    if len(raw) > BYTES:
        raise InvalidSnapshot(f"{len(raw)} bytes where {BYTES} may be")
    if (found := digest_of(raw)) != digest:
        raise InvalidSnapshot(f"its SHA-256 is {found}, and this version of metainf knows {digest} alone")
    lines = raw.splitlines()
    if not 0 < len(lines) - 1 <= RECORDS:
        raise InvalidSnapshot(f"{max(len(lines) - 1, 0)} records where 1 to {RECORDS} may be")
    records = tuple(_verified(_sealed(number, line), number) for number, line in enumerate(lines[1:], start=2))
    names = [_order(each.name) for each in records]
    if names != sorted(set(names)):
        raise InvalidSnapshot("its records are not in order, or one is there twice")
    summary = _summary(records)
    if _json(1, lines[0]) != summary.to_plain():
        raise InvalidSnapshot("its first line says other than its records")
    return Snapshot(records=records, summary=summary)


def write_snapshot(sealed: Iterable[bytes]) -> bytes:
    """Return the text of these records, each of which must be good; one that comes twice counts once.

    Raises:
        InvalidSnapshot: one is not, two have one name, or there are too many or none.
    """
    unique = dict.fromkeys(sealed)
    records = sorted(
        (_verified(each, number) for number, each in enumerate(unique, start=1)), key=lambda each: _order(each.name)
    )
    if not 0 < len(records) <= RECORDS:
        raise InvalidSnapshot(f"{len(records)} records where 1 to {RECORDS} may be")
    if len({each.name for each in records}) < len(records):
        raise InvalidSnapshot("two records have one name: their author, or a copy of its key, is not to be relied on")
    raw = b"".join(
        json.dumps(line, separators=(",", ":")).encode() + b"\n"
        for line in (_summary(records).to_plain(), *({SEALED: b64encode(each.sealed).decode()} for each in records))
    )
    if len(raw) > BYTES:
        raise InvalidSnapshot(f"{len(raw)} bytes where {BYTES} may be")
    return raw


def _verified(sealed: bytes, number: int) -> Signed[Performance]:
    try:
        signed = verify_archived(sealed, PERFORMANCE, swarm=PUBLIC_SWARM)
    except RemoteProtocolError as error:
        raise InvalidSnapshot(f"record {number}: {error}"[:WORDS]) from None
    # The one rule that is other than for a peer's record: what it says must have been possible when it was said.
    if doubt := first_doubt(signed.body, now_us=signed.body.stamp.time):
        raise InvalidSnapshot(f"record {number}, {signed.name}: it cannot be true ({doubt})")
    if signed.body.origin != TRIAL:
        raise InvalidSnapshot(
            f"record {number}, {signed.name}: it tells of somebody's traffic; only trials are shipped"
        )
    return signed


def _sealed(number: int, line: bytes) -> bytes:
    found = _json(number, line)
    if set(found) != {SEALED}:
        raise InvalidSnapshot(f"line {number} is no record")
    try:
        return b64decode(str(found[SEALED]), validate=True)
    except (NoBase64, ValueError):
        raise InvalidSnapshot(f"line {number} is no record") from None


def _json(number: int, line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidSnapshot(f"line {number} is no JSON")
    return cast("dict[str, Any]", found)


def _summary(records: Sequence[Signed[Performance]]) -> Summary:
    bodies = [each.body for each in records]
    epochs: defaultdict[PeerId, list[int]] = defaultdict(list)
    for each in records:
        epochs[each.name.author].append(each.name.epoch.start_us)
    return Summary(
        records=len(bodies),
        dummy=sum(body.model.weights == DUMMY for body in bodies),
        signers=tuple(
            Signer(author=str(author), epochs=tuple(sorted(set(theirs))), records=len(theirs))
            for author, theirs in epochs.items()
        ),
        engines=_words(f"{body.engine.name} {body.engine.version or 'of unknown version'}" for body in bodies),
        models=_words(body.model.name for body in bodies),
        hardware=_words(body.hardware.name for body in bodies),
        platforms=_words(body.hardware.platform for body in bodies),
        first_us=min(body.stamp.time for body in bodies),
        last_us=max(body.stamp.time for body in bodies),
    )


def _words(found: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(sorted({each for each in found if each}))


def _order(name: RecordName) -> tuple[bytes, int, int]:
    return name.author.key, name.epoch.start_us, name.seq
