"""Relayed connections on real sockets: two ends and a relay on loopback, whose limits are told and kept."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
import trio
from libp2p.peer.id import ID

from node.adapters.p2p.circuit_words import DCUTR, HOP, STOP, Code, Said, Words, hear, spoken
from node.adapters.p2p.circuits import HOUSE_SECONDS, P2pWays, open_ways
from node.adapters.p2p.frames import Muxed
from node.adapters.p2p.host import P2pHost
from node.adapters.p2p.limits import DEFAULT_RELAY_LIMITS, RelayLimits
from node.adapters.p2p.relay import Lender
from node.errors import Broken, Unreachable
from protocol.addresses import Address
from protocol.ids import PeerId
from tests.adapters.p2p.hosts import ECHO, PATIENCE, a_host, echo, eventually, introduce, says

pytestmark = [pytest.mark.slow, pytest.mark.libp2p]

NOW = 1_800_000_000.0


def wall() -> float:
    return NOW + trio.current_time()


@dataclass(frozen=True, slots=True)
class End:
    host: P2pHost
    ways: P2pWays


@asynccontextmanager
async def an_end(limits: RelayLimits = DEFAULT_RELAY_LIMITS) -> AsyncIterator[End]:
    async with a_host() as host, open_ways(host, wall, limits) as ways:
        host.serve(ECHO, echo)
        yield End(host, ways)


@asynccontextmanager
async def three(limits: RelayLimits = DEFAULT_RELAY_LIMITS) -> AsyncIterator[tuple[End, End, End]]:
    """A relay that lends, one that has reserved there, and one that knows of nobody but the relay."""
    async with an_end(limits) as relay, an_end() as called, an_end() as caller:
        relay.ways.lend(True)
        await introduce(called.host, relay.host)
        await called.ways.reserve(relay.host.me)
        yield relay, called, caller


def way(relay: End, to: End) -> Address:
    return relay.host.addresses()[0].through(to.host.me)


async def call(caller: End, relay: End, to: End) -> None:
    with trio.fail_after(PATIENCE):
        await caller.host.dial(way(relay, to))


async def flood(caller: End, called: End, size: int) -> None:
    async with caller.host.open(called.host.me, ECHO, patience=5.0) as stream:
        while True:
            await stream.send(bytes(size))
            await stream.receive()


async def test_a_call_through_a_relay_is_a_connection_like_any_other() -> None:
    async with three() as (relay, called, caller):
        await call(caller, relay, called)
        assert caller.ways.via(called.host.me) == relay.host.me
        await eventually(lambda: caller.host.me in called.host.connected())
        assert called.ways.via(caller.host.me) == relay.host.me
        assert called.ways.called_by(caller.host.me)
        assert not caller.ways.called_by(called.host.me)
        assert (caller.ways.via(relay.host.me), caller.ways.observed(called.host.me)) == (None, None)
        assert await says(caller.host, called.host)
        assert await says(called.host, caller.host, bytes(300_000))  # more than the window of either stream
        lent = relay.ways.lent()
        assert (lent.reservations, lent.circuits, lent.circuits_total) == (1, 1, 1)
        assert lent.bytes_total > 600_000


async def test_the_relay_reads_nothing_of_what_it_carries() -> None:
    carried = bytearray()

    class Eavesdropper(Lender):
        async def _pass_on(self, one: Muxed, other: Muxed) -> None:
            await super()._pass_on(cast("Muxed", Overheard(one)), cast("Muxed", Overheard(other)))

    class Overheard:
        def __init__(self, stream: Muxed) -> None:
            self._stream = stream

        def __getattr__(self, name: str) -> Any:
            return getattr(self._stream, name)

        async def hear(self, most: int) -> bytes:
            data = await self._stream.hear(most)
            carried.extend(data)
            return data

    async with a_host() as host, an_end() as called, an_end() as caller:
        relay = Eavesdropper(host, DEFAULT_RELAY_LIMITS, wall)
        relay.lend(True)
        await introduce(called.host, host)
        await called.ways.reserve(host.me)
        with trio.fail_after(PATIENCE):
            await caller.host.dial(host.addresses()[0].through(called.host.me))
        assert await says(caller.host, called.host, b"nobody else is to read this" * 10)
    assert len(carried) > 1000
    assert b"/noise" in carried  # how a connection begins, on a socket as on a circuit
    assert b"nobody else" not in carried
    assert ECHO.encode() not in carried


async def test_nobody_is_called_who_has_not_reserved_or_has_gone() -> None:
    async with three() as (relay, called, caller), an_end() as other:
        await introduce(other.host, relay.host)
        with pytest.raises(Unreachable, match="no_reservation"):
            await call(caller, relay, other)
        await called.host.disconnect(relay.host.me)
        await eventually(lambda: called.host.me not in relay.host.connected())
        with pytest.raises(Unreachable, match="no_reservation"):
            await call(caller, relay, called)


async def test_who_does_not_lend_says_so_and_what_passes_through_goes_on() -> None:
    async with three() as (relay, called, caller), an_end() as other:
        await call(caller, relay, called)
        relay.ways.lend(False)
        await introduce(other.host, relay.host)
        with pytest.raises(Unreachable, match="denied"):
            await other.ways.reserve(relay.host.me)
        with pytest.raises(Unreachable, match="denied"):
            await call(other, relay, called)
        assert await says(caller.host, called.host)
        assert relay.ways.lent().reservations == 0


async def test_a_relay_that_was_let_go_brings_nobody_any_more() -> None:
    async with three() as (relay, called, caller):
        called.ways.release(relay.host.me)
        with pytest.raises(Unreachable, match="failed"):
            await call(caller, relay, called)


async def test_there_are_no_more_circuits_than_there_may_be() -> None:
    async with three(replace(DEFAULT_RELAY_LIMITS, circuits=2, circuits_per_peer=1)) as (relay, called, caller):
        await call(caller, relay, called)
        async with an_end() as other:
            with pytest.raises(Unreachable, match="limit"):  # of who is called
                await call(other, relay, called)
        await caller.host.disconnect(called.host.me)
        await eventually(lambda: relay.ways.lent().circuits == 0)
        await call(caller, relay, called)
        assert await says(caller.host, called.host)


async def test_there_are_no_more_reservations_from_one_address_than_there_may_be() -> None:
    async with three(replace(DEFAULT_RELAY_LIMITS, reservations_per_origin=1)) as (relay, called, _), an_end() as other:
        await introduce(other.host, relay.host)
        with pytest.raises(Unreachable, match="refused"):
            await other.ways.reserve(relay.host.me)
        assert await called.ways.reserve(relay.host.me) > 0  # to renew is no newcomer's


async def test_a_circuit_ends_when_it_has_had_its_bytes_or_its_time() -> None:
    for limits in (
        replace(DEFAULT_RELAY_LIMITS, circuit_bytes=200_000),
        replace(DEFAULT_RELAY_LIMITS, circuit_seconds=1.0),
    ):
        async with three(limits) as (relay, called, caller):
            await call(caller, relay, called)
            with pytest.raises(Broken), trio.fail_after(PATIENCE):
                await flood(caller, called, 10_000)
            await eventually(lambda: relay.ways.lent().circuits == 0)
            assert relay.ways.lent().bytes_total <= limits.circuit_bytes
            await eventually(lambda: called.host.me not in caller.host.connected())


async def test_one_who_has_much_to_say_leaves_turns_to_who_says_little() -> None:
    """Two callers through a relay of 1 MB/s: one sends without pause, the other's small words wait for a turn each."""
    limits = replace(DEFAULT_RELAY_LIMITS, bytes_per_second=1e6)
    async with three(limits) as (relay, called, caller), an_end() as other:
        await call(caller, relay, called)
        await call(other, relay, called)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood, caller, called, 60_000)
            await trio.sleep(1)
            before, began, worst = relay.ways.lent().bytes_total, trio.current_time(), 0.0
            async with other.host.open(called.host.me, ECHO, patience=5.0) as stream:
                for _ in range(20):
                    asked = trio.current_time()
                    await stream.send(b"t")
                    await stream.receive()
                    worst = max(worst, trio.current_time() - asked)
            rate = (relay.ways.lent().bytes_total - before) / (trio.current_time() - began)
            nursery.cancel_scope.cancel()
        assert worst < 0.5
        assert rate < 1.2e6


async def test_the_death_of_the_relay_ends_what_it_carried() -> None:
    async with an_end() as called, an_end() as caller:
        async with an_end() as relay:
            relay.ways.lend(True)
            await introduce(called.host, relay.host)
            await called.ways.reserve(relay.host.me)
            await call(caller, relay, called)
            assert await says(caller.host, called.host)
        await eventually(lambda: not caller.host.connected() and not called.host.connected())


async def test_once_there_is_a_direct_connection_all_goes_there_and_the_relay_is_let_go() -> None:
    async with three() as (relay, called, caller):
        await call(caller, relay, called)
        assert await says(caller.host, called.host)
        await caller.host.dial(called.host.addresses()[0])
        assert caller.ways.via(called.host.me) is None
        carried = relay.ways.lent().bytes_total
        assert await says(caller.host, called.host, bytes(100_000))
        assert relay.ways.lent().bytes_total < carried + 50_000
        await eventually(lambda: relay.ways.lent().circuits == 0)
        assert await says(caller.host, called.host)
        assert caller.host.me in called.host.connected()


async def test_what_runs_over_the_relay_may_end_there_although_there_is_a_direct_connection() -> None:
    async with three() as (relay, called, caller):
        await call(caller, relay, called)
        async with caller.host.open(called.host.me, ECHO, patience=5.0) as stream:
            await stream.send(b"1")
            assert await stream.receive() == b"1"
            await caller.host.dial(called.host.addresses()[0])
            await trio.sleep(2.5 * HOUSE_SECONDS)
            await stream.send(b"2")
            assert await stream.receive() == b"2"
            assert relay.ways.lent().circuits == 1
        await eventually(lambda: relay.ways.lent().circuits == 0)


async def test_a_relay_calls_nobody_through_another_relay() -> None:
    """A chain would let two strangers' relays carry what neither of them bounds."""
    async with three() as (relay, called, caller), an_end() as target:
        await call(caller, relay, called)
        called.ways.lend(True)
        await introduce(target.host, called.host)
        await target.ways.reserve(called.host.me)
        stream = await caller.host.begin_stream(caller.host.swarm.alive(ID(called.host.me.to_bytes()))[-1], HOP)
        await stream.tell(spoken(Words(said=Said.CONNECT, peer=target.host.me), HOP))
        assert (await hear(stream, HOP)).code is Code.DENIED


async def test_who_answers_must_be_who_was_called() -> None:
    """The relay connects with somebody else: the handshake shows it, and nothing is said to him."""
    async with three() as (relay, called, caller), an_end() as victim:
        with pytest.raises(Unreachable):
            await caller.ways.call(ID(victim.host.me.to_bytes()), replace(way(relay, called), peer=victim.host.me))

        class Liar(Lender):
            async def _connect(self, stream: Muxed, caller: PeerId, called: PeerId) -> None:
                await super()._connect(stream, caller, liars_friend)

        liars_friend = called.host.me
        liar = Liar(relay.host, DEFAULT_RELAY_LIMITS, wall)
        liar.lend(True)
        await called.ways.reserve(relay.host.me)
        with pytest.raises(Unreachable):
            await call(caller, relay, victim)
        assert victim.host.me not in caller.host.connected()
        assert called.host.me not in caller.host.connected()


async def test_knocking_proves_who_is_there() -> None:
    async with an_end() as one, an_end() as other:
        await one.ways.knock(other.host.addresses()[0])
        with pytest.raises(Unreachable):
            await one.ways.knock(other.host.addresses()[0].of(one.host.me))
        assert other.host.me not in one.host.connected()


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b"\x00", b"\x05hello", bytes(100), b"\x02\x08\x02"])
async def test_garbage_in_place_of_a_relays_words_ends_its_stream_and_no_more(garbage: bytes) -> None:
    async with three() as (relay, called, caller):
        await introduce(caller.host, relay.host)
        for protocol in (HOP, STOP, DCUTR):
            connection = caller.host.swarm.alive(ID(relay.host.me.to_bytes()))[-1]
            stream = await caller.host.begin_stream(connection, protocol)
            await stream.tell(garbage)
            with suppress(Broken), trio.fail_after(PATIENCE):
                while await stream.hear(1000):
                    pass
            await stream.abort()
        await call(caller, relay, called)
        assert await says(caller.host, called.host)
