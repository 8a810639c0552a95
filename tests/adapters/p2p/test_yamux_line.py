"""Common frames are taken off whatever the cuts, rare ones left for libp2p, and none is waited for without end."""

import random
import struct

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from node.adapters.p2p.sealed import SealedSocket
from node.adapters.p2p.unread import SMALL, FlowControlIgnored, Unread
from node.adapters.p2p.yamux_line import BODY_SECONDS, CREDIT, DATA, HEAD, PING, SYN, TURN, Common, Front, Line
from tests.adapters.p2p.test_sealed import CountingSeal, FakeSocket

LONGEST = 1000


class Taker:
    """Notes what common frames say."""

    def __init__(self) -> None:
        self.said: list[tuple[int, bytes | int]] = []
        self.common = Common(
            deliver=lambda number, data: self.said.append((number, bytes(data))),
            credit=lambda number, more: self.said.append((number, more)),
            longest=LONGEST,
        )


def data(number: int, content: bytes, *, flags: int = 0) -> bytes:
    return HEAD.pack(0, DATA, flags, number, len(content)) + content


frames = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 9), st.binary(max_size=40)).map(lambda each: (each, data(*each))),
        st.tuples(st.integers(1, 9), st.integers(0, 2**32 - 1)).map(
            lambda each: (each, HEAD.pack(0, CREDIT, 0, each[0], each[1]))
        ),
    ),
    max_size=20,
)


@given(some=frames, luck=st.randoms(use_true_random=False))
def test_common_frames_say_the_same_however_they_are_cut(
    some: list[tuple[tuple[int, bytes | int], bytes]], luck: random.Random
) -> None:
    taker, plain = Taker(), bytearray()
    wire = b"".join(raw for _, raw in some)
    front = Front.NOTHING
    while wire:
        cut = luck.randint(1, len(wire))
        plain += wire[:cut]
        wire = wire[cut:]
        front = taker.common.take(plain)
        assert front in (Front.NOTHING, Front.PART)
    assert taker.said == [said for said, _ in some]
    assert not plain
    assert front is Front.NOTHING


@pytest.mark.parametrize(
    "rare",
    [
        HEAD.pack(0, PING, SYN, 0, 7),
        HEAD.pack(0, 3, 0, 0, 0),
        HEAD.pack(1, DATA, 0, 1, 3),
        HEAD.pack(0, CREDIT, SYN, 1, 0),
        HEAD.pack(0, DATA, 0, 1, LONGEST + 1),
        data(1, b"new", flags=SYN),
    ],
)
def test_a_rare_frame_is_left_as_it_is_and_so_is_what_follows(rare: bytes) -> None:
    taker, after = Taker(), data(2, b"after")
    plain = bytearray(data(1, b"before") + rare + after)
    assert taker.common.take(plain) is Front.RARE
    assert taker.said == [(1, b"before")]
    assert plain == rare + after


def test_the_head_is_yamuxs() -> None:
    assert HEAD.pack(0, DATA, SYN, 3, 5) == struct.pack("!BBHII", 0, 0, 1, 3, 5)


def test_a_flood_of_empty_frames_is_taken_in_turns() -> None:
    taker, plain = Taker(), bytearray(data(1, b"") * (TURN + 3))
    assert taker.common.take(plain) is Front.MORE
    assert len(taker.said) == TURN
    assert taker.common.take(plain) is Front.NOTHING
    assert len(taker.said) == TURN + 3


def test_a_frame_that_its_stream_may_not_hold_is_told_of_once() -> None:
    def refuse(number: int, content: bytearray) -> None:
        raise FlowControlIgnored

    common, plain = Common(deliver=refuse, credit=lambda *_: None, longest=LONGEST), bytearray(data(1, b"x") * 2)
    with pytest.raises(FlowControlIgnored):
        common.take(plain)
    assert plain == data(1, b"x")


def a_line(taker: Taker) -> tuple[SealedSocket, FakeSocket, Line]:
    async def close() -> None:
        socket.set(closed=True)

    socket = FakeSocket()
    near, far = (SealedSocket(socket, CountingSeal(), plain=b"", stall=5) for _ in range(2))
    return near, socket, Line(far, taker.common, dead=EOFError, close=close)


async def test_heads_and_bodies_of_rare_frames_are_read_beside_common_ones(autojump_clock: MockClock) -> None:
    taker = Taker()
    near, _, line = a_line(taker)
    await near.write(
        data(1, b"a") * 3 + data(2, b"first words", flags=SYN) + data(2, b"more") + HEAD.pack(0, PING, SYN, 0, 1)
    )
    assert await line.read(HEAD.size) == HEAD.pack(0, DATA, SYN, 2, 11)
    assert await line.body(11) == b"first words"
    assert await line.read(HEAD.size) == HEAD.pack(0, PING, SYN, 0, 1)
    assert taker.said == [(1, b"a")] * 3 + [(2, b"more")]


@pytest.mark.parametrize("part", [data(1, b"x" * 100)[:50], data(1, b"x" * 100)[: HEAD.size]])
async def test_a_frame_that_trickles_is_given_up(autojump_clock: MockClock, part: bytes) -> None:
    taker = Taker()
    near, _, line = a_line(taker)
    await near.write(part)
    began = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def trickle() -> None:
            for _ in range(9):
                await trio.sleep(10)
                await near.write(b"x")

        nursery.start_soon(trickle)
        with pytest.raises(trio.TooSlowError):
            await line.read(HEAD.size)
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began == pytest.approx(BODY_SECONDS, abs=0.1)
    with pytest.raises(trio.TooSlowError):
        await line.body(200)


async def test_a_connection_may_rest_between_frames_and_its_end_is_told(autojump_clock: MockClock) -> None:
    taker = Taker()
    near, _, line = a_line(taker)
    async with trio.open_nursery() as nursery:

        async def later() -> None:
            await near.write(data(1, b"x"))
            await trio.sleep(10 * BODY_SECONDS)
            await near.write(data(1, b"y"))
            await line.close()

        nursery.start_soon(later)
        with pytest.raises(EOFError):
            await line.read(HEAD.size)
    assert taker.said == [(1, b"x"), (1, b"y")]


@pytest.mark.parametrize("dialled", [True, False])
def test_unread_bytes_are_bounded_for_each_stream_and_for_all_of_who_opened_them(dialled: bool) -> None:
    unread = Unread(dialled=dialled, each=3 * SMALL, ours=100 * SMALL, theirs=5 * SMALL)
    first = 2 if dialled else 1  # of those that the peer opened
    theirs, ours = range(first, first + 6, 2), range(3 - first, 33, 2)
    for number in (*theirs, *ours):
        unread[number] = bytearray()
    for number in ours:
        unread[number].extend(bytes(2 * SMALL))  # what we let come is no matter of theirs
    unread[theirs[0]].extend(bytes(3 * SMALL))
    with pytest.raises(FlowControlIgnored, match="unread where"):
        unread[theirs[0]].extend(b"x")
    unread[theirs[1]].extend(bytes(SMALL))
    unread[theirs[2]].extend(bytes(SMALL))
    with pytest.raises(FlowControlIgnored, match="of all streams"):
        unread[theirs[1]].extend(b"x")
    unread[theirs[0]].clear()
    unread[theirs[1]].extend(b"x")
    assert bytes(unread[theirs[1]]) == bytes(SMALL) + b"x"
