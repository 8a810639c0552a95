"""Lending circuits: this node takes calls for those who cannot be reached, and passes on what both ends say.

One of the twelve files that import libp2p. What it passes on is sealed between the ends: it sees who calls whom,
how much and when, and nothing else. Who may have what is the ledger's to say (`lending`); here are the words, the
deadlines, and turns: each circuit passes on one piece at a time, in the order in which they came, so that a large
download delays a token by no more than a round of the others.
"""

from collections.abc import Callable
from dataclasses import replace

import structlog
import trio
from libp2p.abc import INetConn
from libp2p.peer.id import ID

from node.adapters.p2p.circuit_words import HOP, STOP, Code, Said, Words, hear, spoken
from node.adapters.p2p.connections import peer_of, relay_of
from node.adapters.p2p.frames import Muxed
from node.adapters.p2p.host import P2pHost
from node.adapters.p2p.lending import Circuit, Full, Ledger
from node.adapters.p2p.limits import RelayLimits
from node.errors import Broken, Unreachable
from node.relay_ports import Lent
from protocol.ids import PeerId

log = structlog.get_logger(__name__)

AHEAD = 0.05  # s of the rate that may be passed on at once: what a timer is late by
LINGER = 2.0  # s for the last word to be read before the stream is reset


class Lender:
    """The relay's end. `lending` says whether newcomers get anything."""

    def __init__(self, host: P2pHost, limits: RelayLimits, wall: Callable[[], float]) -> None:
        """`wall`: seconds since 1970, in which the specification tells when a reservation ends."""
        self._host = host
        self._limits = limits
        self._wall = wall
        self._ledger = Ledger(limits)
        self._turns = Turns(limits.bytes_per_second)
        self._lending = False
        host.serve_bytes(HOP, self._serve)

    def lend(self, willing: bool) -> None:
        """See `node.relay_ports.Ways`."""
        self._lending = willing
        if not willing:
            self._ledger.drop_all()

    def lent(self) -> Lent:
        """See `node.relay_ports.Ways`."""
        return Lent(
            reservations=self._ledger.reservations(trio.current_time()),
            circuits=self._ledger.circuits,
            circuits_total=self._ledger.lent,
            bytes_total=self._ledger.carried,
        )

    async def _serve(self, connection: INetConn, stream: Muxed) -> None:
        caller = peer_of(connection.muxed_conn.peer_id)
        words = None
        with trio.move_on_after(self._limits.step_seconds):
            words = await hear(stream, HOP)
        if words is None or caller is None:
            return
        if relay_of(connection) is not None or not self._lending:
            answer = Words(said=Said.STATUS, code=Code.DENIED)
        elif words.said is Said.RESERVE:
            answer = self._reserve(connection, caller)
        elif words.said is Said.CONNECT and words.peer is not None:
            await self._connect(stream, caller, words.peer)
            return
        else:
            answer = Words(said=Said.STATUS, code=Code.UNEXPECTED)
        await last_word(stream, spoken(answer, HOP))

    def _reserve(self, connection: INetConn, peer: PeerId) -> Words:
        now = trio.current_time()
        for holder in self._ledger.holders():
            if not self._host.swarm.direct(_id(holder)):
                self._ledger.drop(holder)
        remote = connection.muxed_conn.get_remote_address()  # type: ignore[attr-defined]
        try:
            until = self._ledger.reserve(peer, self._host.swarm.origins.of(remote[0]).party if remote else "", now)
        except Full as error:
            log.debug("relay.refused", peer=str(peer), full=str(error))
            return Words(said=Said.STATUS, code=Code.REFUSED)
        return Words(
            said=Said.STATUS,
            expires=round(self._wall() + until - now),
            seconds=round(self._limits.circuit_seconds),
            bytes=self._limits.circuit_bytes,
        )

    async def _connect(self, stream: Muxed, caller: PeerId, called: PeerId) -> None:
        there = self._host.swarm.direct(_id(called))
        if not there or called == caller or not self._ledger.reserved(called, trio.current_time()):
            await self._refuse(stream, Code.NO_RESERVATION)
            return
        try:
            circuit = self._ledger.begin(caller, called)
        except Full as error:
            log.debug("relay.refused", peer=str(caller), full=str(error))
            await self._refuse(stream, Code.LIMIT)
            return
        try:
            await self._call(stream, circuit, there[-1])
        finally:
            self._ledger.end(circuit)

    async def _call(self, stream: Muxed, circuit: Circuit, there: INetConn) -> None:
        limits, other = self._limits, None
        bounds = Words(said=Said.CONNECT, seconds=round(limits.circuit_seconds), bytes=limits.circuit_bytes)
        answered = False
        try:
            with trio.move_on_after(limits.step_seconds):
                try:
                    other = await self._host.begin_stream(there, STOP)
                    await other.tell(spoken(replace(bounds, peer=circuit.caller), STOP))
                    answer = await hear(other, STOP)
                    answered = answer.said is Said.STATUS and answer.code is Code.OK
                except (Broken, Unreachable) as error:
                    log.debug("relay.not_taken", peer=str(circuit.called), reason=error.message)
            if other is None or not answered:
                await self._refuse(stream, Code.FAILED)
                return
            await stream.tell(spoken(replace(bounds, said=Said.STATUS), HOP))
            await self._pass_on(stream, other)
        finally:
            if other is not None:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + LINGER):
                    await other.abort()
                other.forgotten()

    async def _refuse(self, stream: Muxed, code: Code) -> None:
        await last_word(stream, spoken(Words(said=Said.STATUS, code=code), HOP))

    async def _pass_on(self, one: Muxed, other: Muxed) -> None:
        """Pass on both directions until both have ended, one breaks, or the circuit has had its share."""
        rest = self._limits.circuit_bytes

        async def pump(source: Muxed, sink: Muxed) -> None:
            nonlocal rest
            try:
                while data := await source.hear(self._limits.piece):
                    rest -= len(data)
                    if rest < 0:
                        break
                    await self._turns.take(len(data))
                    await sink.tell(data)
                    self._ledger.carried += len(data)
                else:
                    await sink.finish()
                    return
            except Broken as error:
                log.debug("relay.circuit_broke", reason=error.message)
            nursery.cancel_scope.cancel()

        with trio.move_on_after(self._limits.circuit_seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pump, one, other)
                nursery.start_soon(pump, other, one)


class Turns:
    """Lets pieces pass in the order in which they came, no more bytes a second than there may be."""

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._line = trio.StrictFIFOLock()
        self._free_at = 0.0

    async def take(self, size: int) -> None:
        """Wait for the turn of so many bytes."""
        async with self._line:
            now = trio.current_time()
            if self._free_at > now + AHEAD:
                await trio.sleep_until(self._free_at - AHEAD)
            self._free_at = max(self._free_at, now) + size / self._rate


async def last_word(stream: Muxed, data: bytes) -> None:
    """Say something, and leave time for it to be read: a reset would overtake it. Raises Broken."""
    await stream.tell(data)
    await stream.finish()
    with trio.move_on_after(LINGER):
        while await stream.hear(1):
            pass


def _id(peer: PeerId) -> ID:
    return ID(peer.to_bytes())
