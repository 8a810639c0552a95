"""Reading the history for people: which records are wanted, what each says, and whether it is to be believed.

Knows the file on the disk and no running node: it works beside one and without one. What does not verify is handed on
with its reason and never left out.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import click

from node.adapters.keystore import load
from node.adapters.store.database import Damaged
from node.adapters.store.reader import read_history
from node.adapters.store.tables import Listed, Query, Tables
from node.clock import wall_us
from node.core.record_checks import Doubt, doubts
from node.errors import ConfigError, NodeError, Unavailable
from node.places import Places
from protocol import limits
from protocol.errors import RemoteProtocolError
from protocol.ids import Epoch, InvalidId, PeerId, RecordName, SwarmId
from protocol.performance import PERFORMANCE, Performance
from protocol.records import open_unverified, verify_archived

T = TypeVar("T")

PAGE: Final = 200  # records read at once: a writer waits for one page at most
ENDING_CHARS: Final = 8  # of a peer id, in the short form of a name; its beginning is everybody's
ENDING_DIGITS: Final = 6  # of an epoch, there too: the runs of one author are seconds apart, and end as luck has it
ENDING_CHARS_MIN: Final = 4  # that people may type; what several authors end in is refused
SHOWN: Final = 5  # names that an ambiguous one may mean
_NUMBER: Final = re.compile("[0-9]{1,16}")  # no epoch and no sequence number is longer
MISPLACED: Final = "misplaced"  # it verifies, and is not the record that the file says it is


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which records somebody asks for. `author` as it was typed; `model` a part of the name; `limit` None for all."""

    author: str | None = None
    mine: bool = False
    model: str | None = None
    origin: str | None = None
    limit: int | None = None

    def fits(self, body: Performance) -> bool:
        """Tell whether a record is of this model and origin."""
        if self.origin is not None and body.origin != self.origin:
            return False
        return self.model is None or self.model.casefold() in (body.model.name or "").casefold()


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One record, and what is to be said of it.

    Attributes:
        name: what the file calls it.
        body: what somebody wrote; None where the bytes are no record.
        failure: why the author cannot be shown to have signed it: a stable code; empty where the signature holds.
        doubts: why what was signed cannot be true.
        expired: its time is over; the node drops it at its next chance.
        mine: this node's own.
        quarantined: there is a proof that the author gave one name to two records.
    """

    name: RecordName
    sealed: bytes
    body: Performance | None
    failure: str
    doubts: tuple[str, ...]
    expired: bool
    mine: bool
    quarantined: bool

    @property
    def trouble(self) -> str:
        """Say in a few codes why it is not to be believed; empty where nothing speaks against it."""
        return self.failure or ",".join(self.doubts)


def own_author(where: Places) -> PeerId | None:
    """Return whose records are this node's own; None where it has no identity that can be read, which is said."""
    try:
        return PeerId.from_public_key(load(where.identity_file).public_key)
    except FileNotFoundError:
        return None
    except (ConfigError, OSError) as error:
        click.echo(f"this node's own records are not marked: {error}", err=True)
        return None


@contextmanager
def reading(where: Places, swarm: SwarmId) -> Iterator["Reading"]:
    """Open the history of a swarm for reading.

    Raises:
        Unavailable: there is none, it is damaged, or of another version.
    """
    file = where.history_file(swarm)
    if not file.exists():
        raise Unavailable(
            f"there is no history of the swarm {str(swarm)!r} in {where.data} yet",
            remedy="`metainf up` begins one, and so does `metainf records import FILE`",
        )
    mend = "start the node: it sets the damaged file aside and goes on with all that can be read of it"
    try:
        with read_history(file) as tables:
            yield Reading(tables, swarm=swarm, own=own_author(where), now_us=wall_us())
    except Damaged as error:
        raise Unavailable(error.message, remedy=mend) from error
    except InvalidId as error:  # what people type is parsed apart: this is of the file
        raise Unavailable(f"{file} is damaged: {error}", remedy=mend) from error


class Reading:
    """Questions to an open history. `unreadable` counts what no filter could look into. Errors are the file's."""

    def __init__(self, tables: Tables, *, swarm: SwarmId, own: PeerId | None, now_us: int) -> None:
        self.tables = tables
        self.swarm = swarm
        self.own = own
        self.now_us = now_us
        self.unreadable = 0

    def pick(self, wanted: Wanted) -> Iterator[Judged]:
        """Yield the records that are wanted, newest first.

        Raises:
            NodeError: there is no such author, or several.
        """
        query, found = Query(author=self._author(wanted)), 0
        while page := self.tables.browse(query, most=PAGE):
            for listed in page:
                if not self._fits(wanted, listed):
                    continue
                yield self._judge(listed.name, listed.sealed)
                found += 1
                if found == wanted.limit:
                    return
            query = replace(query, after=page[-1].place)

    def sealed(self) -> Iterator[bytes]:
        """Yield all records as they lie there, newest first."""
        query = Query()
        while page := self.tables.browse(query, most=PAGE):
            yield from (listed.sealed for listed in page)
            query = replace(query, after=page[-1].place)

    def find(self, text: str) -> Judged:
        """Return the record of this name: AUTHOR/EPOCH/SEQ, of the first two as much of the end as tells them apart.

        Raises:
            NodeError: it is no name, there is no such record, or several could be meant.
        """
        name = self._named(text)
        sealed = self.tables.under(name)
        if sealed is None:
            raise NodeError(f"there is no record {text}", remedy="`metainf records list` shows the newest")
        return self._judge(name, sealed)

    def _judge(self, name: RecordName, sealed: bytes) -> Judged:
        failure, body = "", None
        try:
            signed = verify_archived(sealed, PERFORMANCE, swarm=self.swarm)
        except RemoteProtocolError as error:
            failure, body = error.reason.value, unverified(sealed)
        else:
            failure, body = "" if signed.name == name else MISPLACED, signed.body
        expired = body is not None and body.stamp.expiry <= self.now_us
        found = doubts(body, now_us=self.now_us) if body is not None and not failure else ()
        return Judged(
            name=name,
            sealed=sealed,
            body=body,
            failure=failure,
            doubts=tuple(each.value for each in found if not (expired and each is Doubt.CLOCK)),
            expired=expired,
            mine=name.author == self.own,
            quarantined=self.tables.quarantined(name.author),
        )

    def _fits(self, wanted: Wanted, listed: Listed) -> bool:
        if wanted.model is None and wanted.origin is None:
            return True
        body = unverified(listed.sealed)
        self.unreadable += body is None
        return body is not None and wanted.fits(body)

    def _author(self, wanted: Wanted) -> PeerId | None:
        if wanted.mine:
            if self.own is None:
                raise Unavailable("this node has no identity, and so no records of its own")
            return self.own
        if wanted.author is None:
            return None
        if len(wanted.author) == limits.PEER_ID_CHARS:
            return _typed(PeerId.from_string, wanted.author)
        _hold_ending(wanted.author)
        everybody = self.tables.authors_by_size(most=limits.RETAINED_RECORDS)
        found = [peer for *_, key in everybody if str(peer := PeerId(key)).endswith(wanted.author)]
        return _only(found, f"author whose peer id ends in {wanted.author}")

    def _named(self, text: str) -> RecordName:
        author, *numbers = text.strip().split("/")
        if len(author) == limits.PEER_ID_CHARS:
            return _typed(RecordName.from_string, text.strip())
        if len(numbers) != 2 or not all(map(_NUMBER.fullmatch, numbers)):
            raise NodeError(f"{text!r} is no record's name", remedy="names are AUTHOR/EPOCH/SEQ, as `list` prints them")
        _hold_ending(author)
        epoch, seq = numbers
        alike = [
            RecordName(author=PeerId(key), epoch=Epoch(start), seq=number)
            for key, start, number, _ in self.tables.all_numbers()
            if str(number) == seq and str(start).endswith(epoch)
        ]
        return _only([name for name in alike if str(name.author).endswith(author)], f"record {text}")


def unverified(sealed: bytes) -> Performance | None:
    """Return what somebody wrote; None where it is no record."""
    try:
        return open_unverified(sealed, PERFORMANCE)
    except RemoteProtocolError:
        return None


def _typed(parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except InvalidId as error:
        raise NodeError(f"{text}: {error}", remedy="copy it as `metainf records list` prints it") from error


def _hold_ending(text: str) -> None:
    if len(text) < ENDING_CHARS_MIN:
        raise NodeError(f"{text!r} is too short", remedy=f"give the last {ENDING_CHARS} characters of the peer id")


def _only(found: list[T], what: str) -> T:
    if not found:
        raise NodeError(f"there is no {what}", remedy="`metainf records list` and `stats` show what there is")
    if len(found) > 1:
        named = ", ".join(map(str, found[:SHOWN])) + (", ..." if len(found) > SHOWN else "")
        raise NodeError(f"there are {len(found)} of {what}: {named}", remedy="give more of it")
    return found[0]
