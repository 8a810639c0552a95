"""Headers between nodes: what the lists name travels, secrets never do, and nothing can be smuggled."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import headers, limits
from protocol.errors import Flaw
from protocol.headers import ANSWER, CREDENTIALS, REQUEST, HeaderList, travelling

RULE = HeaderList(REQUEST)
ANYTHING = st.lists(st.tuples(st.sampled_from(sorted(REQUEST | CREDENTIALS)) | st.binary(), st.binary()), max_size=50)


@given(ANYTHING)
def test_what_travels_passes_the_rule_whatever_a_client_sent(given_headers: list[tuple[bytes, bytes]]) -> None:
    kept = travelling(given_headers, REQUEST)
    assert RULE.load(RULE.dump(kept)) == kept
    assert all(name in REQUEST for name, _ in kept)


@pytest.mark.parametrize(("count", "size"), [(100, 10), (20, 4096), (3, 4096), (1, 4097)])
def test_a_client_with_too_many_headers_loses_some_and_breaks_nothing(count: int, size: int) -> None:
    kept = travelling([(b"TraceState", b"x" * size)] * count, REQUEST)
    RULE.dump(kept)
    fitting = 0 if size > limits.HEADER_VALUE_BYTES else limits.HEADERS_BYTES // (len(b"tracestate") + size)
    assert len(kept) == min(count, limits.HEADERS, fitting)


def test_no_list_names_a_credential_or_what_belongs_to_one_connection() -> None:
    hop_by_hop = {b"connection", b"transfer-encoding", b"content-length", b"te", b"trailer", b"upgrade", b"host"}
    assert not (REQUEST | ANSWER) & (CREDENTIALS | hop_by_hop)


@pytest.mark.parametrize("name", sorted(CREDENTIALS))
def test_a_credential_stays_and_is_refused_where_it_arrives(name: bytes) -> None:
    assert travelling([(name.upper(), b"secret")], REQUEST) == ()
    with pytest.raises(Flaw) as caught:
        RULE.load([[name, b"secret"]])
    assert "secret" not in caught.value.detail


def test_an_unknown_header_is_dropped_coming_in_and_a_bug_going_out() -> None:
    assert RULE.load([[b"x-new", b"1"], [b"accept", b"*/*"]]) == ((b"accept", b"*/*"),)
    with pytest.raises(Flaw):
        RULE.dump(((b"x-new", b"1"),))


@pytest.mark.parametrize(
    "value", [b"a\r\nb: c", b"a\nb", b"a\rb", b"a\0b", b"\x7f", b"x" * (limits.HEADER_VALUE_BYTES + 1)]
)
def test_a_value_that_could_end_its_line_is_refused(value: bytes) -> None:
    with pytest.raises(Flaw):
        RULE.load([[b"accept", value]])
    assert headers.travelling([(b"accept", value)], REQUEST) == ()


@pytest.mark.parametrize("name", [b"", b"Accept", b"a b", b"a:", b"\xe9", b"x" * (limits.HEADER_NAME_BYTES + 1)])
def test_a_name_that_is_no_lower_case_token_is_refused(name: bytes) -> None:
    with pytest.raises(Flaw):
        RULE.load([[name, b"x"]])
