"""Whose fault it is, said in a form that no peer can turn against a terminal or a log."""

from hypothesis import given
from hypothesis import strategies as st

from protocol import limits
from protocol.errors import Flaw, LocalProtocolError, Reason, RemoteProtocolError, blame_peer, blame_us


@given(st.text(max_size=2000), st.text(max_size=2000))
def test_what_a_peer_sent_is_shown_bounded_and_printable(detail: str, path: str) -> None:
    error = RemoteProtocolError(Reason.MALFORMED, detail, path=path)
    for text in (error.detail, error.path, str(error)):
        assert all(" " <= char <= "~" for char in text)
    assert len(error.detail) <= limits.ERROR_DETAIL_CHARS
    assert len(str(error)) <= 2 * limits.ERROR_DETAIL_CHARS + 40


def test_a_flaw_is_the_peers_coming_in_and_ours_going_out() -> None:
    flaw = Flaw(Reason.WRONG_TYPE, "str where int belongs", "stamp.seq")
    assert str(blame_peer(flaw)) == "wrong_type at stamp.seq: str where int belongs"
    assert isinstance(blame_us(flaw), LocalProtocolError)
    assert not isinstance(blame_us(flaw), RemoteProtocolError)


def test_an_error_without_detail_reads_well() -> None:
    assert str(RemoteProtocolError(Reason.EXPIRED)) == "expired"
