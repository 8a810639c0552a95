"""The history in memory: `node.record_ports.OwnHistory` without a disk. Keeps the same promises but for surviving."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import reduce
from hashlib import sha256
from typing import Any

import trio

from node.core.observation import Row, to_row
from node.core.retention import Entry, Quota, retained
from node.errors import Unavailable
from node.record_ports import OWN_ROWS, Admitted, HistoryFacts, Holding, Standing
from protocol import limits, ranges
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.ids import PUBLIC_SWARM, ContentDigest, Epoch, PeerId, RecordName, SwarmId
from protocol.records import Fork, Kind, Signed, SigningKey, Stamp, find_fork, sign, verify_and_open


def no_objection(_: object) -> None:
    """Believe everything that is signed."""


_verified: dict[bytes, Signed[Any]] = {}  # by all histories of a test run: a swarm of them would verify for seconds


class FakeHistory:
    """Keeps records as long as the object lives. `refusing` makes its disk refuse."""

    def __init__(
        self,
        kind: Kind[Any],
        *,
        now_us: Callable[[], int],
        swarm: SwarmId = PUBLIC_SWARM,
        check: Callable[[Signed[Any]], str | None] = no_objection,
        cell: Callable[[Signed[Any]], bytes] = lambda signed: b"%d" % signed.name.seq,
        quota: Quota | None = None,
        key: SigningKey | None = None,
    ) -> None:
        self.refusing = False
        self.records: dict[RecordName, Signed[Any]] = {}
        self.proofs: dict[PeerId, Fork] = {}
        self.calls: Counter[str] = Counter()
        self._kind = kind
        self._swarm = swarm
        self._now_us = now_us
        self._check = check
        self._cell = cell
        self._quota = quota or Quota()
        self._rejected: Counter[str] = Counter()
        self._series: dict[tuple[PeerId, Epoch], dict[int, bytes]] = {}
        self._counts: Counter[PeerId] = Counter()
        self._soonest = limits.TIME_MAX_US  # expiry
        self._key = key
        self._epoch: Epoch | None = None
        self._written = 0

    def begin_run(self) -> None:
        """Begin a new epoch with the next record of its own, as a node does that starts again."""
        self._epoch, self._written = None, 0

    async def append(self, compose: Callable[[Stamp], Any], *, lifetime_us: int) -> Signed[Any]:
        self.calls["append"] += 1
        await trio.lowlevel.checkpoint()
        self._may_refuse()
        if self._key is None:
            raise LocalProtocolError("a history that was opened without a pen has no records of its own")
        now = self._now_us()
        stamp = Stamp(
            version=self._kind.version,
            swarm=self._swarm,
            author=PeerId.from_public_key(self._key.public_key().public_bytes_raw()),
            epoch=self._epoch or Epoch(now),
            seq=self._written,
            time=now,
            expiry=now + lifetime_us,
        )
        self._epoch = stamp.epoch
        self._written += 1
        signed = sign(self._kind, compose(stamp), self._key)
        self._keep(signed)
        self._sweep()
        return signed

    async def own_rows(self, model: ContentDigest | None, *, most: int = OWN_ROWS) -> tuple[Row, ...]:
        """Keep the port `node.record_ports.OwnRows`, of a history of performance records."""
        self.calls["own_rows"] += 1
        await trio.lowlevel.checkpoint()
        self._may_refuse()
        if self._key is None:
            return ()
        me = PeerId.from_public_key(self._key.public_key().public_bytes_raw())
        own = [signed for name, signed in self.records.items() if name.author == me]
        newest = sorted(own, key=lambda signed: (signed.name.epoch.start_us, signed.name.seq), reverse=True)
        return tuple(to_row(each.body) for each in newest if model is None or each.body.model.digest == model)[:most]

    async def admit(self, sealed: Sequence[bytes], *, via: PeerId | None) -> tuple[Admitted, ...]:
        if len(sealed) > limits.BATCH_RECORDS:
            raise LocalProtocolError(f"{len(sealed)} records where {limits.BATCH_RECORDS} may come at once")
        self.calls["admit"] += 1
        await trio.lowlevel.checkpoint()
        self._may_refuse()
        verdicts = [self._admit(raw) for raw in sealed]
        self._sweep()
        verdicts = [
            Admitted(standing=Standing.REJECTED, name=each.name, reason="not_retained")
            if each.standing is Standing.NEW and each.name not in self.records
            else each
            for each in verdicts
        ]
        self._rejected.update(each.reason for each in verdicts if each.standing is Standing.REJECTED)
        return tuple(verdicts)

    async def holdings(self, authors: Collection[PeerId] | None = None) -> tuple[Holding, ...]:
        self.calls["holdings"] += 1
        await trio.lowlevel.checkpoint()
        self._may_refuse()
        self._sweep()
        series = {key: held for key, held in self._series.items() if authors is None or key[0] in authors}
        return tuple(
            _holding(author, epoch, digests)
            for (author, epoch), digests in sorted(series.items(), key=lambda each: (each[0][0], -each[0][1].start_us))
        )

    async def page(
        self, author: PeerId, epoch: Epoch, ranges: Sequence[tuple[int, int]], *, records: int, size: int
    ) -> tuple[bytes, ...]:
        self.calls["page"] += 1
        await trio.lowlevel.checkpoint()
        self._may_refuse()
        self._sweep()
        found: list[bytes] = []
        for seq in sorted(self._series.get((author, epoch), ()), reverse=True):
            name = RecordName(author=author, epoch=epoch, seq=seq)
            if any(first <= name.seq <= last for first, last in ranges):
                sealed = self.records[name].sealed
                size -= len(sealed)
                if size < 0 or len(found) == records:
                    break
                found.append(sealed)
        return tuple(found)

    def facts(self) -> HistoryFacts:
        return HistoryFacts(
            records=len(self.records),
            authors=len(self._counts),
            bytes=sum(len(signed.sealed) for signed in self.records.values()),
            quarantined=len(self.proofs),
            rejected=dict(self._rejected),
        )

    def _may_refuse(self) -> None:
        if self.refusing:
            raise Unavailable("the disk is full")

    def _admit(self, sealed: bytes) -> Admitted:
        try:
            signed = self._open(sealed)
        except RemoteProtocolError as error:
            return Admitted(standing=Standing.REJECTED, reason=error.reason.value)
        name, held = signed.name, self.records.get(signed.name)
        if held is not None and (fork := find_fork(held, signed)):
            self.proofs.setdefault(name.author, fork)
            return Admitted(standing=Standing.FORK, name=name)
        if held is not None:
            if signed.sealed < held.sealed:
                self._keep(signed)
            return Admitted(standing=Standing.KNOWN, name=name)
        if name.author in self.proofs:
            return Admitted(standing=Standing.REJECTED, name=name, reason="quarantined")
        if reason := self._check(signed):
            return Admitted(standing=Standing.REJECTED, name=name, reason=reason)
        self._keep(signed)
        return Admitted(standing=Standing.NEW, name=name)

    def _open(self, sealed: bytes) -> Signed[Any]:
        known, now = _verified.get(sealed), self._now_us()
        if known is not None and (known.kind, known.body.stamp.swarm) == (self._kind, self._swarm):
            stamp = known.body.stamp
            if stamp.time <= now + limits.CLOCK_SKEW_US and now < stamp.expiry:
                return known
        return _verified.setdefault(sealed, verify_and_open(sealed, self._kind, swarm=self._swarm, now_us=now))

    def _keep(self, signed: Signed[Any]) -> None:
        name = signed.name
        if name not in self.records:
            self._counts[name.author] += 1
        self.records[name] = signed
        self._series.setdefault((name.author, name.epoch), {})[name.seq] = sha256(signed.sealed).digest()
        self._soonest = min(self._soonest, signed.body.stamp.expiry)

    def _sweep(self) -> None:
        full = max(self._counts.values(), default=0) > self._quota.author or len(self.records) > self._quota.total
        if not full and self._now_us() < self._soonest:
            return
        entries = [
            Entry(name=name, cell=self._cell(each), time=each.body.stamp.time, expiry=each.body.stamp.expiry)
            for name, each in self.records.items()
        ]
        names = retained(entries, now_us=self._now_us(), quota=self._quota)
        kept = [signed for name, signed in self.records.items() if name in names]
        self.records, self._series, self._counts, self._soonest = {}, {}, Counter(), limits.TIME_MAX_US
        for signed in kept:
            self._keep(signed)


def _holding(author: PeerId, epoch: Epoch, digests: dict[int, bytes]) -> Holding:
    told = ranges.of(digests)[-limits.HISTORY_RANGES :]
    within = [digest for seq, digest in digests.items() if seq >= told[0][0]]
    return Holding(
        author=author,
        epoch=epoch,
        ranges=told,
        count=len(within),
        digest=reduce(lambda one, two: bytes(a ^ b for a, b in zip(one, two, strict=True)), within),
    )
