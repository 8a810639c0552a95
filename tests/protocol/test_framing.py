"""Frames: what comes out depends on the bytes alone, never on how the network cut them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits
from protocol.errors import LocalProtocolError, Reason, RemoteProtocolError
from protocol.framing import Framer, frame
from tests.protocol.strategies import cuts

PAYLOADS = st.lists(st.binary(min_size=1, max_size=40), max_size=6)


def drain(framer: Framer, pieces: list[bytes]) -> tuple[list[bytes], Reason | None]:
    """Feed the pieces and the end; return the frames and what the stream was refused for."""
    frames: list[bytes] = []
    try:
        for piece in pieces:
            framer.feed(piece)
            while (payload := framer.next_frame()) is not None:
                frames.append(payload)
        framer.end()
    except RemoteProtocolError as error:
        return frames, error.reason
    return frames, None


@given(PAYLOADS, st.data())
def test_frames_survive_any_split(payloads: list[bytes], data: st.DataObject) -> None:
    pieces = data.draw(cuts(b"".join(map(frame, payloads))))
    assert drain(Framer(), pieces) == (payloads, None)


@given(st.binary(max_size=120) | PAYLOADS.map(lambda some: b"".join(map(frame, some)) + b"\0\0\0\0"), st.data())
def test_garbage_means_the_same_however_it_is_split(raw: bytes, data: st.DataObject) -> None:
    assert drain(Framer(limit=64), data.draw(cuts(raw))) == drain(Framer(limit=64), [raw])


def test_a_frame_of_the_limit_passes_and_one_byte_more_does_not() -> None:
    largest = bytes(limits.FRAME_BYTES)
    assert drain(Framer(), [frame(largest)]) == ([largest], None)
    with pytest.raises(LocalProtocolError):
        frame(largest + b"x")
    assert drain(Framer(), [(limits.FRAME_BYTES + 1).to_bytes(4, "big")]) == ([], Reason.TOO_LARGE)


def test_we_never_send_an_empty_frame() -> None:
    with pytest.raises(LocalProtocolError):
        frame(b"")


def test_a_huge_claim_is_refused_at_its_prefix() -> None:
    framer = Framer()
    framer.feed(b"\xff\xff\xff\xff")
    with pytest.raises(RemoteProtocolError):
        framer.next_frame()


def test_a_broken_stream_stays_broken_and_holds_nothing() -> None:
    framer = Framer()
    framer.feed(b"\0\0\0\0" + frame(b"good"))
    for _ in range(3):
        with pytest.raises(RemoteProtocolError) as caught:
            framer.next_frame()
        assert caught.value.reason is Reason.EMPTY_FRAME
        framer.feed(frame(b"good"))
    with pytest.raises(RemoteProtocolError):
        framer.end()


def test_whoever_feeds_without_taking_is_told_before_memory_runs_out() -> None:
    framer = Framer(limit=100)
    framer.feed(frame(bytes(100), limit=100))
    framer.feed(frame(bytes(100), limit=100))
    with pytest.raises(LocalProtocolError):
        framer.feed(b"x")
    assert framer.next_frame() == bytes(100)
    framer.feed(b"x")
