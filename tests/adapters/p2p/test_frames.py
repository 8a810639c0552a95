"""Frames on a stream: what is known against it, and what cancelling does to either direction."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from node.adapters.p2p.frames import AT_ONCE, FrameStream
from node.adapters.p2p.limits import DEFAULT_LIMITS
from node.errors import Broken
from protocol.errors import RemoteProtocolError
from protocol.framing import frame
from protocol.ids import PeerId

PEER = PeerId.from_public_key(bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"))


class FakeMuxed:
    """`node.adapters.p2p.frames.Muxed`: what is said is kept, what is to be heard is given."""

    def __init__(self) -> None:
        self.usable = True
        self.room = 1 << 18
        self.said = b""
        self.ended = self.aborted = self.finished = False
        self.fault: Broken | None = None
        self._unread = bytearray()
        self._over = False
        self._moved = trio.Event()

    def give(self, data: bytes = b"", *, over: bool = False) -> None:
        self._unread += data
        self._over = over
        self._moved.set()
        self._moved = trio.Event()

    async def hear(self, most: int) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self._unread and not self._over:
            await self._moved.wait()
            if self.fault is not None:
                raise self.fault
        data = bytes(self._unread[:most])
        del self._unread[:most]
        return data

    async def tell(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        while len(data) > self.room:
            await self._moved.wait()
        if self.fault is not None:
            raise self.fault
        self.said += data

    async def finish(self) -> None:
        await trio.lowlevel.checkpoint()
        self.finished = True

    async def end(self) -> None:
        await trio.lowlevel.checkpoint()
        self.ended = True

    async def abort(self) -> None:
        await trio.lowlevel.checkpoint()
        self.aborted = True

    def forgotten(self) -> None:
        pass


def a_stream(frame_bytes: int = 1000) -> tuple[FrameStream, FakeMuxed]:
    muxed = FakeMuxed()
    return FrameStream(muxed, PEER, DEFAULT_LIMITS, frame_bytes), muxed


async def test_a_wait_for_a_frame_that_is_cancelled_loses_nothing_and_says_nothing_against_the_stream(
    autojump_clock: MockClock,
) -> None:
    stream, muxed = a_stream()
    whole = frame(b"payload")
    muxed.give(whole[:5])
    with trio.move_on_after(1) as scope:
        await stream.receive()
    assert scope.cancelled_caught
    muxed.give(whole[5:])
    assert await stream.receive() == b"payload"
    assert stream.alive


async def test_a_frame_that_was_not_sent_whole_is_the_end_of_the_stream(autojump_clock: MockClock) -> None:
    stream, muxed = a_stream()
    muxed.room = 3
    with trio.move_on_after(1) as scope:
        await stream.send(b"long")
    assert scope.cancelled_caught
    assert not stream.alive
    for act in (stream.send(b"x"), stream.receive(), stream.finish()):
        with pytest.raises(Broken):
            await act


async def test_a_peer_that_takes_nothing_breaks_the_stream_after_a_while(autojump_clock: MockClock) -> None:
    stream, muxed = a_stream()
    muxed.room = 3
    began = trio.current_time()
    with pytest.raises(Broken, match="took nothing"):
        await stream.send(b"long")
    assert trio.current_time() - began == DEFAULT_LIMITS.send_seconds


async def test_one_task_may_hear_while_another_waits_to_say(autojump_clock: MockClock) -> None:
    stream, muxed = a_stream()
    muxed.room = 3
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send, b"long")
        await wait_all_tasks_blocked()
        muxed.give(frame(b"meanwhile"))
        assert await stream.receive() == b"meanwhile"
        muxed.room = 100
        muxed.give()
    assert muxed.said == frame(b"long")
    assert stream.alive


async def test_frames_that_came_together_are_handed_out_without_starving_the_others(autojump_clock: MockClock) -> None:
    stream, muxed = a_stream()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    muxed.give(b"".join(frame(b"%d" % number) for number in range(10 * AT_ONCE)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        heard = [await stream.receive() for _ in range(10 * AT_ONCE)]
        nursery.cancel_scope.cancel()
    assert heard == [b"%d" % number for number in range(10 * AT_ONCE)]
    assert turns >= 10


async def test_what_ended_in_order_is_closed_and_all_else_is_reset(autojump_clock: MockClock) -> None:
    stream, muxed = a_stream()
    muxed.give(frame(b"last"), over=True)
    assert [await stream.receive() for _ in range(3)] == [b"last", None, None]
    await stream.finish()
    await stream.finish()
    await stream.leave()
    assert (muxed.finished, muxed.ended, muxed.aborted) == (True, True, False)
    stream, muxed = a_stream()
    await stream.leave()
    assert (muxed.ended, muxed.aborted) == (False, True)


async def test_a_stream_that_ends_inside_a_frame_is_the_peers_fault_and_a_lost_one_nobodys(
    autojump_clock: MockClock,
) -> None:
    stream, muxed = a_stream()
    muxed.give(frame(b"cut")[:-1], over=True)
    with pytest.raises(RemoteProtocolError):
        await stream.receive()
    stream, muxed = a_stream()
    async with trio.open_nursery() as nursery:

        async def lose() -> None:
            await wait_all_tasks_blocked()
            muxed.fault = Broken("lost")
            muxed.give()

        nursery.start_soon(lose)
        with pytest.raises(Broken, match="lost"):
            await stream.receive()
    with pytest.raises(Broken, match="lost"):
        await stream.send(b"x")
    assert not stream.alive
