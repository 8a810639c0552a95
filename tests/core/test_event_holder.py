"""Events on their way through: the same bytes, none held that is complete, none torn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.sse_events import HELD_BYTES, EventHolder


def test_whole_events_pass_at_once_and_a_torn_one_waits_for_its_end() -> None:
    holder = EventHolder()
    assert holder.feed(b"data: 1\n\n") == b"data: 1\n\n"
    assert holder.feed(b"data: 2\n\ndata: 3\n") == b"data: 2\n\n"
    assert holder.feed(b"") == b""
    assert holder.feed(b"\n") == b"data: 3\n\n"
    assert holder.rest() == b""


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_each_line_ending_of_the_standard_ends_an_event(end: bytes) -> None:
    holder = EventHolder()
    event = b"event: x\ndata: 1" + end
    assert b"".join(holder.feed(event[i : i + 1]) for i in range(len(event))) == event
    assert holder.rest() == b""


def test_an_endless_event_is_passed_on_as_torn_until_it_ends() -> None:
    holder = EventHolder()
    huge = b"x" * (HELD_BYTES + 1)
    assert holder.feed(huge) == huge
    assert holder.torn
    assert holder.feed(b"more") == b"more"
    assert holder.feed(b"\n\n") == b"\n\n"
    assert not holder.torn


@given(st.lists(st.sampled_from([b"a", b"\n", b"\r", b"\r\n", b"data: 1\n\n", b"\n\n"]), max_size=60))
def test_any_pieces_come_out_as_they_went_in(pieces: list[bytes]) -> None:
    holder = EventHolder()
    out = b""
    for piece in pieces:
        out += holder.feed(piece)
        assert not holder.torn
        assert out == b"" or out.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))
    assert out + holder.rest() == b"".join(pieces)
