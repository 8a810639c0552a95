"""Whole events out of any pieces, and what one holds."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.sse_events import HELD_BYTES, EventHolder, data_of, events_of

ENDS = [b"\n\n", b"\r\n\r\n", b"\r\r"]
LINES = st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"").replace(b"\r", b""))


@given(st.lists(st.tuples(LINES, st.sampled_from(ENDS)), max_size=8), st.lists(st.integers(1, 9), min_size=1))
def test_what_goes_in_in_any_pieces_comes_out_in_whole_events(
    said: list[tuple[bytes, bytes]], sizes: list[int]
) -> None:
    stream = b"".join(b"data: " + line + end for line, end in said)
    holder, out, at, turn = EventHolder(), [], 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        out.append(holder.feed(stream[at : at + size]))
        at, turn = at + size, turn + 1
    assert b"".join(out) == stream
    assert holder.rest() == b""
    assert all(not piece or piece.endswith(tuple(ENDS)) for piece in out)


@given(st.lists(st.tuples(LINES, st.sampled_from(ENDS)), max_size=8))
def test_a_block_is_its_events(said: list[tuple[bytes, bytes]]) -> None:
    events = [b"data: " + line + end for line, end in said]
    assert events_of(b"".join(events)) == events
    assert events_of(b"".join(events) + b"data: half") == events


def test_what_is_held_when_a_stream_breaks_off_is_not_told() -> None:
    holder = EventHolder()
    assert holder.feed(b"data: 1\n\ndata: 2") == b"data: 1\n\n"
    assert holder.feed(b"\n") == b""
    assert holder.feed(b"\ndata") == b"data: 2\n\n"
    assert holder.rest() == b"data"


def test_an_event_beyond_all_measure_passes_in_pieces_until_the_next_one() -> None:
    holder = EventHolder()
    assert holder.feed(b"a" * HELD_BYTES) == b""
    assert len(holder.feed(b"a")) == HELD_BYTES + 1
    assert holder.torn
    assert holder.feed(b"b\n\nc") == b"b\n\n"
    assert not holder.torn


@pytest.mark.parametrize("block", [b"x" * HELD_BYTES, b"data: [" * 150_000, b"\n\r" * 500_000])
def test_a_liar_s_bytes_without_an_end_are_looked_at_once(block: bytes) -> None:
    began = time.process_time()
    holder = EventHolder()
    for at in range(0, len(block), 500):
        holder.feed(block[at : at + 500])
    events_of(block)
    data_of(block)
    assert time.process_time() - began < 5.0  # the many events of the last take half a second; squared it were minutes


def test_an_event_says_what_its_data_lines_say() -> None:
    assert data_of(b": a comment\n\n") is None
    assert data_of(b"event: x\ndata: 1\ndata:2\n\n") == b"1\n2"
    assert data_of(b"data: {\r\n\r\n") == b"{"
