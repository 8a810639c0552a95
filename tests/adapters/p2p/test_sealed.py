"""A sealed connection says all whole and in order, however much of it the kernel takes and whoever is cancelled."""

import os
import random
from collections.abc import Callable
from math import inf

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from node.adapters.p2p.sealed import LENGTH_BYTES, MOST, TAG_BYTES, Gone, SealedSocket

STALL = 5.0


class CountingSeal:
    """A cipher that counts messages as the real one does, and finds out when one is missing or moved."""

    def __init__(self) -> None:
        self.sealed = self.opened = 0

    def encrypt(self, data: bytes) -> bytes:
        assert len(data) <= MOST
        self.sealed += 1
        return self.sealed.to_bytes(TAG_BYTES, "big") + data

    def decrypt(self, data: bytes) -> bytes:
        self.opened += 1
        if int.from_bytes(data[:TAG_BYTES], "big") != self.opened:
            raise ValueError("tampered with")
        return data[TAG_BYTES:]


class FakeSocket:
    """A kernel that takes as many bytes at a time as `takes` says; what it took is to be received at the other end."""

    def __init__(self, takes: Callable[[], int] = lambda: 1 << 20) -> None:
        self.takes = takes
        self.wire = bytearray()
        self.writes = 0
        self.stuck = False
        self.broken = False
        self.closed = False
        self._moved = trio.Event()

    def send_now(self, data: bytes | memoryview) -> int:
        if self.broken:
            raise BrokenPipeError
        some = 0 if self.stuck else min(len(data), self.takes())
        self.writes += some > 0
        self.wire += data[:some]
        self._move()
        return some

    async def until_writable(self) -> None:
        await trio.sleep(0.001)
        while self.stuck and not self.broken:
            await self._moved.wait()
        if self.broken:
            raise BrokenPipeError

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self.wire:
            if self.closed:
                return b""
            await self._moved.wait()
        some = max(1, self.takes())
        data = bytes(self.wire[:some])
        del self.wire[:some]
        return data

    def set(self, **state: bool) -> None:
        for name, value in state.items():
            setattr(self, name, value)
        self._move()

    def _move(self) -> None:
        self._moved.set()
        self._moved = trio.Event()


def a_pair(socket: FakeSocket) -> tuple[SealedSocket, SealedSocket]:
    """Return the two ends of one direction."""
    return tuple(SealedSocket(socket, CountingSeal(), plain=b"", stall=STALL) for _ in range(2))  # type: ignore[return-value]


async def all_of(end: SealedSocket, size: int) -> bytes:
    while len(end.plain) < size:
        await end.fill()
    return bytes(end.plain)


async def test_what_is_said_in_one_turn_of_the_loop_goes_in_one_message_and_one_write(
    autojump_clock: MockClock,
) -> None:
    socket = FakeSocket()
    near, far = a_pair(socket)
    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(near.write, b"%02d" % number)
    assert socket.writes == 1
    assert len(socket.wire) == LENGTH_BYTES + TAG_BYTES + 100
    said = await all_of(far, 100)
    assert sorted(said[at : at + 2] for at in range(0, 100, 2)) == [b"%02d" % number for number in range(50)]


async def test_what_was_opened_before_comes_first_and_a_long_piece_in_as_many_messages_as_it_needs(
    autojump_clock: MockClock,
) -> None:
    socket, seal = FakeSocket(), CountingSeal()
    near = SealedSocket(socket, seal, plain=b"", stall=STALL)
    far = SealedSocket(socket, CountingSeal(), plain=b"first ", stall=STALL)
    piece = os.urandom(2 * MOST + 5)
    await near.write(piece)
    assert seal.sealed == 3
    assert await all_of(far, 6 + len(piece)) == b"first " + piece


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), most=st.sampled_from([3, 70, 5000, 1 << 20]))
def test_whoever_is_cancelled_what_others_say_arrives_whole_and_in_order(seed: int, most: int) -> None:
    """Writers of every size over a kernel that takes little; every other one is cancelled at some moment."""
    luck = random.Random(seed)  # noqa: S311 -- the same for the same seed
    said, stayed, heard = trio.run(_speak_and_hear, luck, most, clock=MockClock(autojump_threshold=0))
    for writer, wanted in said.items():
        got = [each for each in heard if each[0] == writer]
        # What is being said at the moment of the cancellation may be heard or not; whole in any case.
        assert got == wanted or (writer not in stayed and got == wanted[:-1])


async def _speak_and_hear(luck: random.Random, most: int) -> tuple[dict[int, list[bytes]], set[int], list[bytes]]:
    """Return what each writer began to say, who said all, and what came."""
    near, far = a_pair(FakeSocket(lambda: luck.randint(0, most)))
    said: dict[int, list[bytes]] = {writer: [] for writer in range(8)}
    stayed: set[int] = set()

    async def speak(writer: int, patience: float) -> None:
        with trio.move_on_after(patience):
            for number in range(4):
                said[writer].append(bytes([writer, number]) + luck.randbytes(luck.choice((0, 5, 300))))
                await near.write(len(said[writer][-1]).to_bytes(2, "big") + said[writer][-1])
            stayed.add(writer)

    async with trio.open_nursery() as nursery:
        for writer in said:
            nursery.start_soon(speak, writer, luck.uniform(0, 0.02) if writer % 2 else inf)
    await near.write(b"\0\3end")
    heard: list[bytes] = []
    while b"end" not in heard:
        await all_of(far, 2)
        size = int.from_bytes(far.plain[:2], "big")
        heard.append((await all_of(far, 2 + size))[2 : 2 + size])
        del far.plain[: 2 + size]
    return said, stayed, heard[:-1]


async def test_a_socket_that_takes_nothing_for_too_long_is_the_end_for_all_who_write(autojump_clock: MockClock) -> None:
    socket = FakeSocket()
    near, _ = a_pair(socket)
    ends: list[str] = []

    async def speak() -> None:
        try:
            await near.write(b"x")
        except (Gone, trio.TooSlowError) as error:
            ends.append(type(error).__name__)

    socket.set(stuck=True)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(speak)
        await trio.sleep(1)
        nursery.start_soon(speak)
    assert sorted(ends) == ["Gone", "TooSlowError"]
    assert trio.current_time() - began == pytest.approx(STALL, abs=0.01)
    with pytest.raises(Gone):
        await near.write(b"x")


async def test_one_that_takes_a_little_now_and_then_is_waited_for(autojump_clock: MockClock) -> None:
    socket = FakeSocket(lambda: 10)
    near, far = a_pair(socket)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(near.write, b"x" * 100)
        for _ in range(10):
            socket.set(stuck=True)
            await trio.sleep(STALL - 1)
            socket.set(stuck=False)
            await wait_all_tasks_blocked()
            await trio.sleep(0.001)
    assert await all_of(far, 100) == b"x" * 100


async def test_who_waits_for_a_socket_may_leave_at_once_and_what_was_sealed_goes_on(autojump_clock: MockClock) -> None:
    socket = FakeSocket(lambda: 4)
    near, far = a_pair(socket)
    async with trio.open_nursery() as nursery:
        socket.set(stuck=True)
        nursery.start_soon(near.write, b"begun")
        await wait_all_tasks_blocked()
        began = trio.current_time()
        with trio.move_on_after(0.5) as scope:
            await near.write(b"never said")
        assert scope.cancelled_caught
        assert trio.current_time() - began == pytest.approx(0.5)
        socket.set(stuck=False)
    await near.write(b", and gone on with")
    assert await all_of(far, 23) == b"begun, and gone on with"


@pytest.mark.parametrize("end", ["closed", "broken"])
async def test_the_end_of_a_connection_is_told_to_whoever_reads_or_writes(autojump_clock: MockClock, end: str) -> None:
    socket = FakeSocket()
    near, far = a_pair(socket)
    await near.write(b"last words")
    socket.set(**{end: True})
    assert await all_of(far, 10) == b"last words"
    if end == "closed":
        with pytest.raises(Gone):
            await far.fill()
    else:
        for _ in range(2):
            with pytest.raises(Gone):
                await near.write(b"x")


async def test_a_message_that_was_tampered_with_is_not_read_past(autojump_clock: MockClock) -> None:
    socket = FakeSocket()
    near, far = a_pair(socket)
    await near.write(b"one")
    socket.wire[LENGTH_BYTES] ^= 1
    with pytest.raises(ValueError, match="tampered"):
        await far.fill()
    assert not far.plain
