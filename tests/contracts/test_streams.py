"""What every `Swarm` with `Streams` promises: libp2p on real sockets, and the fake network that stands in for it."""

import os
import random
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.errors import Broken, NotSpoken, Unreachable
from node.ports import PeerStream, Streams, Swarm
from protocol import limits
from protocol.addresses import Address
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.ids import PeerId
from tests.fakes.network import FakeNetwork, Weather
from tests.places import at

with warnings.catch_warnings():  # libp2p 0.8.1 imports a part of websockets that announces its end
    warnings.simplefilter("ignore", DeprecationWarning)
    from node.adapters.p2p.host import open_host

pytestmark = [pytest.mark.slow, pytest.mark.libp2p]

ECHO = "/metainf/test-echo/1"
PATIENCE = 20.0  # seconds of the real clock that any step may take on a busy machine


class Node(Swarm, Streams, Protocol):
    """Both ports of one node."""


@dataclass
class Stage:
    """Two nodes; `one` knows where `two` is."""

    one: Node
    two: Node


def a_peer() -> PeerId:
    return PeerId.from_public_key(Ed25519PrivateKey.generate().public_key().public_bytes_raw())


@asynccontextmanager
async def on_fakes() -> AsyncIterator[Stage]:
    network = FakeNetwork(Weather(latency=0.002, jitter=0.001, dial=1.0))
    async with network.node(a_peer()) as one, network.node(a_peer()) as two:
        one.learn(two.me, two.addresses())
        yield Stage(one, two)


@asynccontextmanager
async def on_libp2p() -> AsyncIterator[Stage]:
    here = [Address("ip4", "127.0.0.1", 0)]
    async with open_host(os.urandom(32), here) as one, open_host(os.urandom(32), here) as two:
        one.learn(two.me, two.addresses())
        yield Stage(one, two)


Staging = Callable[[], AbstractAsyncContextManager[Stage]]
both = pytest.mark.parametrize("staging", [on_fakes, on_libp2p])


async def echo(stream: PeerStream) -> None:
    while (payload := await stream.receive()) is not None:
        await stream.send(payload)


async def exchange(node: Node, peer: PeerId, *payloads: bytes) -> list[bytes | None]:
    answers: list[bytes | None] = []
    async with node.open(peer, ECHO, patience=PATIENCE) as stream:
        for payload in payloads:
            await stream.send(payload)
            answers.append(await stream.receive())
    return answers


@both
async def test_frames_of_any_size_arrive_whole_and_in_order(staging: Staging) -> None:
    payloads = [b"a", bytes(range(256)) * 300, b"b", os.urandom(limits.FRAME_BYTES), b"c"]
    async with staging() as stage:
        stage.two.serve(ECHO, echo)
        assert await exchange(stage.one, stage.two.me, *payloads) == payloads


@both
async def test_frames_sent_at_one_go_arrive_apart_and_one_that_is_none_holds_back_all(staging: Staging) -> None:
    payloads = [b"a", os.urandom(limits.FRAME_BYTES), bytes(range(256)), b"b"]
    async with staging() as stage:
        stage.two.serve(ECHO, echo)
        async with stage.one.open(stage.two.me, ECHO, patience=PATIENCE) as stream:
            with pytest.raises(LocalProtocolError):
                await stream.send(b"never", b"")
            for some in (payloads[:2], payloads[2:], payloads[:1]):
                await stream.send(*some)
                assert [await stream.receive() for _ in some] == some


@both
async def test_each_end_knows_who_is_at_the_other(staging: Staging) -> None:
    seen: list[PeerId] = []

    async def note(stream: PeerStream) -> None:
        seen.append(stream.peer)

    async with staging() as stage:
        stage.two.serve(ECHO, note)
        async with stage.one.open(stage.two.me, ECHO, patience=PATIENCE) as stream:
            assert stream.peer == stage.two.me
            assert await stream.receive() is None
        assert seen == [stage.one.me]


@both
async def test_a_stream_ends_in_order_after_everything_was_read(staging: Staging) -> None:
    async def answer(stream: PeerStream) -> None:
        assert await stream.receive() == b"question"
        assert await stream.receive() is None
        await stream.send(b"one")
        await stream.send(b"two")

    async with staging() as stage:
        stage.two.serve(ECHO, answer)
        async with stage.one.open(stage.two.me, ECHO, patience=PATIENCE) as stream:
            await stream.send(b"question")
            await stream.finish()
            await stream.finish()
            assert [await stream.receive() for _ in range(4)] == [b"one", b"two", None, None]


@both
async def test_an_answer_is_not_lost_when_its_handler_has_returned(staging: Staging) -> None:
    async def answer(stream: PeerStream) -> None:
        await stream.send(b"x" * 200_000)

    async with staging() as stage:
        stage.two.serve(ECHO, answer)
        async with stage.one.open(stage.two.me, ECHO, patience=PATIENCE) as stream:
            await trio.sleep(0.1)  # the handler is long gone
            assert await stream.receive() == b"x" * 200_000
            assert await stream.receive() is None


@both
async def test_leaving_early_is_felt_at_once_at_the_other_end(staging: Staging) -> None:
    felt = trio.Event()

    async def work(stream: PeerStream) -> None:
        await stream.send(b"first")
        try:
            await stream.receive()
        except Broken:
            felt.set()
            raise

    async with staging() as stage:
        stage.two.serve(ECHO, work)
        async with stage.one.open(stage.two.me, ECHO, patience=PATIENCE) as stream:
            assert await stream.receive() == b"first"
        with trio.fail_after(2):
            await felt.wait()


@both
async def test_being_cancelled_is_felt_at_the_other_end(staging: Staging) -> None:
    felt, begun = trio.Event(), trio.Event()

    async def work(stream: PeerStream) -> None:
        begun.set()
        try:
            await stream.receive()
        except Broken:
            felt.set()

    async def ask(stage: Stage) -> None:
        async with stage.one.open(stage.two.me, ECHO, patience=PATIENCE) as stream:
            await stream.receive()

    async with staging() as stage:
        stage.two.serve(ECHO, work)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, stage)
            await begun.wait()
            nursery.cancel_scope.cancel()
        with trio.fail_after(2):
            await felt.wait()


@both
async def test_a_handler_that_fails_ends_its_stream_and_nothing_else(staging: Staging) -> None:
    async def fail(stream: PeerStream) -> None:
        raise ZeroDivisionError

    async with staging() as stage:
        stage.two.serve("/metainf/test-fails/1", fail)
        stage.two.serve(ECHO, echo)
        async with stage.one.open(stage.two.me, ECHO, patience=PATIENCE) as beside:
            async with stage.one.open(stage.two.me, "/metainf/test-fails/1", patience=PATIENCE) as stream:
                with pytest.raises(Broken):
                    await stream.receive()
            await beside.send(b"still here")
            assert await beside.receive() == b"still here"


@both
async def test_a_stream_that_was_kept_is_used_again_and_another_is_not(staging: Staging) -> None:
    opened = 0

    async def count(stream: PeerStream) -> None:
        nonlocal opened
        opened += 1
        await echo(stream)

    async with staging() as stage:
        stage.two.serve(ECHO, count)
        for fresh in (True, False, False):
            async with stage.one.open(stage.two.me, ECHO, patience=PATIENCE) as stream:
                assert stream.fresh is fresh
                await stream.send(b"x")
                await stream.receive()
                stream.keep()
        assert opened == 1
        async with stage.one.open(stage.two.me, ECHO, patience=PATIENCE):
            pass  # used, and not kept
        async with stage.one.open(stage.two.me, ECHO, patience=PATIENCE) as stream:
            assert stream.fresh
            await stream.send(b"x")
            await stream.receive()
        assert opened == 2


@both
async def test_two_exchanges_at_once_do_not_share_a_stream(staging: Staging) -> None:
    async with staging() as stage:
        stage.two.serve(ECHO, echo)
        async with (
            stage.one.open(stage.two.me, ECHO, patience=PATIENCE) as first,
            stage.one.open(stage.two.me, ECHO, patience=PATIENCE) as second,
        ):
            await first.send(b"1")
            await second.send(b"2")
            assert await second.receive() == b"2"
            assert await first.receive() == b"1"


@both
async def test_a_protocol_that_nobody_serves_is_not_spoken(staging: Staging) -> None:
    async with staging() as stage:
        with pytest.raises(NotSpoken):
            async with stage.one.open(stage.two.me, "/metainf/test-none/1", patience=PATIENCE):
                raise AssertionError


@both
async def test_a_peer_without_address_and_one_whose_address_is_dead_are_unreachable(staging: Staging) -> None:
    async with staging() as stage:
        stranger = a_peer()
        with pytest.raises(Unreachable):
            await stage.one.connect(stranger)
        stage.one.learn(stranger, [at("127.0.0.1", 1)])
        with pytest.raises(Unreachable):
            async with stage.one.open(stranger, ECHO, patience=PATIENCE):
                raise AssertionError


@both
async def test_an_impostor_at_the_address_is_refused(staging: Staging) -> None:
    async with staging() as stage:
        victim = a_peer()
        stage.one.learn(victim, [each.of(victim) for each in stage.two.addresses()])
        with pytest.raises(Unreachable):
            await stage.one.connect(victim)
        assert not stage.one.connected()


@both
async def test_one_address_can_be_dialled_alone(staging: Staging) -> None:
    async with staging() as stage:
        (address,) = stage.two.addresses()
        for hopeless in (address.of(None), address.of(a_peer()), at("127.0.0.1", 1, stage.two.me)):
            with pytest.raises(Unreachable):
                await stage.one.dial(hopeless)
        assert not stage.one.connected()
        await stage.one.dial(address)
        assert stage.one.connected() == {stage.two.me}


@both
async def test_both_ends_know_of_a_connection_and_of_its_end(staging: Staging) -> None:
    async with staging() as stage:
        one, two = stage.one, stage.two
        assert not one.connected()
        await one.connect(two.me)
        await one.connect(two.me)
        with trio.fail_after(PATIENCE):
            assert one.connected() == {two.me}
            assert await two.changed(frozenset()) == {one.me}
            await one.disconnect(two.me)
            assert await one.changed(frozenset({two.me})) == frozenset()
            assert await two.changed(frozenset({one.me})) == frozenset()


@both
async def test_only_the_end_that_opened_a_connection_has_dialled(staging: Staging) -> None:
    async with staging() as stage:
        one, two = stage.one, stage.two
        assert not one.dialled(two.me)
        await one.connect(two.me)
        with trio.fail_after(PATIENCE):
            assert await two.changed(frozenset()) == {one.me}
            assert one.dialled(two.me)
            assert not two.dialled(one.me)
            await one.disconnect(two.me)
            await one.changed(frozenset({two.me}))
        assert not one.dialled(two.me)


@both
async def test_a_frame_above_the_bound_of_the_one_who_opened_is_a_fault_of_the_peer(staging: Staging) -> None:
    async with staging() as stage:
        stage.two.serve(ECHO, echo)
        async with stage.one.open(stage.two.me, ECHO, patience=PATIENCE, frame_bytes=1000) as stream:
            for payload in (bytes(1000), bytes(1)):
                await stream.send(payload)
                assert await stream.receive() == payload
            await stream.send(bytes(1001))
            with pytest.raises(RemoteProtocolError):
                await stream.receive()


@both
async def test_a_frame_above_the_bound_of_the_one_who_serves_ends_the_stream(staging: Staging) -> None:
    async with staging() as stage:
        stage.two.serve(ECHO, echo, frame_bytes=100_000)
        async with stage.one.open(stage.two.me, ECHO, patience=PATIENCE) as stream:
            await stream.send(bytes(100_000))
            assert await stream.receive() == bytes(100_000)
            await stream.send(bytes(100_001))
            with pytest.raises(Broken):
                await stream.receive()


@both
async def test_the_bound_is_of_the_exchange_and_not_of_the_stream_that_was_kept(staging: Staging) -> None:
    async with staging() as stage:
        stage.two.serve(ECHO, echo)
        for frame_bytes in (10, 1000):
            async with stage.one.open(stage.two.me, ECHO, patience=PATIENCE, frame_bytes=frame_bytes) as stream:
                await stream.send(bytes(frame_bytes))
                assert await stream.receive() == bytes(frame_bytes)
                stream.keep()
        async with stage.one.open(stage.two.me, ECHO, patience=PATIENCE, frame_bytes=10) as stream:
            assert not stream.fresh
            await stream.send(bytes(11))
            with pytest.raises(RemoteProtocolError):
                await stream.receive()


@both
async def test_the_end_of_a_connection_breaks_its_streams_on_both_ends(staging: Staging) -> None:
    felt = trio.Event()

    async def wait(stream: PeerStream) -> None:
        try:
            await stream.receive()
        except Broken:
            felt.set()

    async with staging() as stage:
        stage.two.serve(ECHO, wait)
        async with stage.one.open(stage.two.me, ECHO, patience=PATIENCE) as stream:
            await stage.one.disconnect(stage.two.me)
            with trio.fail_after(PATIENCE), pytest.raises(Broken):
                await stream.receive()
            with pytest.raises(Broken):
                await stream.send(b"x")


@both
async def test_a_writer_waits_for_a_reader_that_is_slow(staging: Staging) -> None:
    go = trio.Event()
    size, frames = 100_000, 40

    async def late(stream: PeerStream) -> None:
        await go.wait()
        for _ in range(frames):
            assert len(await stream.receive() or b"") == size
        await stream.send(b"all")

    async with staging() as stage:
        stage.two.serve(ECHO, late)
        sent = 0

        async def write(stream: PeerStream) -> None:
            nonlocal sent
            for _ in range(frames):
                await stream.send(bytes(size))
                sent += 1

        async with stage.one.open(stage.two.me, ECHO, patience=PATIENCE) as stream, trio.open_nursery() as nursery:
            nursery.start_soon(write, stream)
            await trio.sleep(0.3)
            assert sent < frames
            go.set()
            with trio.fail_after(PATIENCE):
                assert await stream.receive() == b"all"
        assert sent == frames


@both
async def test_what_is_no_frame_is_our_own_fault(staging: Staging) -> None:
    async with staging() as stage:
        stage.two.serve(ECHO, echo)
        async with stage.one.open(stage.two.me, ECHO, patience=PATIENCE) as stream:
            for payload in (b"", bytes(limits.FRAME_BYTES + 1)):
                with pytest.raises(LocalProtocolError):
                    await stream.send(payload)
            await stream.send(b"fine")
            assert await stream.receive() == b"fine"


@both
async def test_a_peer_that_does_not_answer_costs_the_patience_and_no_more(staging: Staging) -> None:
    async with staging() as stage:
        stranger = a_peer()
        stage.one.learn(stranger, [at("192.0.2.1", 9)])  # RFC 5737: nobody is there
        began = trio.current_time()
        with pytest.raises(Unreachable):
            async with stage.one.open(stranger, ECHO, patience=0.5):
                raise AssertionError
        assert trio.current_time() - began < 5


@both
async def test_whoever_waits_for_a_frame_may_give_up_at_any_moment_and_loses_nothing(staging: Staging) -> None:
    luck = random.Random(5)  # noqa: S311 -- the same moments every time
    async with staging() as stage:
        stage.two.serve(ECHO, echo)
        async with stage.one.open(stage.two.me, ECHO, patience=PATIENCE) as stream:
            for number in range(100):
                sent = [b"%d" % number, b"and"]
                await stream.send(*sent)
                heard: list[bytes | None] = []
                with trio.fail_after(PATIENCE):
                    while len(heard) < len(sent):
                        with trio.move_on_after(luck.choice((0, 0.0001, 0.0005, 0.002, 0.01))):
                            heard.append(await stream.receive())
                assert heard == sent


@both
async def test_two_hundred_and_fifty_six_exchanges_with_one_peer_go_on_at_once(staging: Staging) -> None:
    many = 256
    there, here = 0, 0
    all_there = trio.Event()

    async def answer_when_all_ask(stream: PeerStream) -> None:
        nonlocal there
        payload = await stream.receive()
        there += 1
        if there == many:
            all_there.set()
        await all_there.wait()
        assert payload is not None
        await stream.send(payload)

    async def ask(stage: Stage, number: int) -> None:
        nonlocal here
        async with stage.one.open(stage.two.me, ECHO, patience=PATIENCE) as stream:
            await stream.send(b"%d" % number)
            assert await stream.receive() == b"%d" % number
            here += 1

    async with staging() as stage:
        stage.two.serve(ECHO, answer_when_all_ask)
        await stage.one.connect(stage.two.me)
        with trio.fail_after(3 * PATIENCE):
            async with trio.open_nursery() as nursery:
                for number in range(many):
                    nursery.start_soon(ask, stage, number)
    assert here == many
