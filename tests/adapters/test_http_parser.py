"""The request reader by its promises: any split says the same, any bytes are borne, every bound holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.adapters.http_server.parser import Bad, Body, End, Event, Head, RequestReader

POST = b"POST /v1/x?q=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello"
CHUNKED = (
    b"POST /y HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;e=1\r\nllo\r\n0\r\nT: t\r\n\r\n"
)
GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def reader() -> RequestReader:
    return RequestReader(max_head_bytes=1024, max_headers=10)


def read(*pieces: bytes) -> list[Event]:
    one = reader()
    events: list[Event] = []
    for piece in pieces:
        for event in one.feed(piece):
            if isinstance(event, Body) and events and isinstance(events[-1], Body):
                events[-1] = Body(events[-1].data + event.data)
            else:
                events.append(event)
    return events


def status(data: bytes) -> int:
    last = read(data)[-1]
    assert isinstance(last, Bad)
    return last.status


def test_a_request_is_read_whole() -> None:
    head, body, end = read(POST)
    assert head == Head(
        method="POST",
        path=b"/v1/x",
        query=b"q=1",
        version="1.1",
        headers=((b"host", b"h"), (b"content-length", b"5"), (b"x-a", b"b")),
        keep_alive=True,
        expects_continue=False,
    )
    assert (body, end) == (Body(b"hello"), End())


@given(st.lists(st.integers(1, len(POST + CHUNKED + GET) - 1), max_size=12).map(sorted))
def test_any_split_says_the_same(cuts: list[int]) -> None:
    data = POST + CHUNKED + GET
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert read(*pieces) == read(data)


@given(st.lists(st.binary(max_size=60), max_size=8), st.booleans())
def test_any_bytes_are_borne_and_nothing_follows_a_bad(pieces: list[bytes], begin_well: bool) -> None:
    events = read(*([GET] if begin_well else []), *pieces)
    assert all(not isinstance(event, Bad) for event in events[:-1])


@pytest.mark.parametrize(
    "data",
    [
        POST.replace(b"Content-Length: 5", b"Content-Length: 5\r\nTransfer-Encoding: chunked"),
        POST.replace(b"Content-Length: 5", b"Content-Length: 5\r\nContent-Length: 6"),
        POST.replace(b"Content-Length: 5", b"Content-Length: 5\r\nContent-Length: 5"),
        POST.replace(b"Content-Length: 5", b"Content-Length: +5"),
        POST.replace(b"Content-Length: 5", b"Content-Length: 5, 5"),
        POST.replace(b"Content-Length: 5", b"Content-Length : 5"),
        POST.replace(b"Content-Length: 5", b"Transfer-Encoding: xchunked"),
        POST.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked, gzip"),
        POST.replace(b"Content-Length: 5", b"Transfer-Encoding:\x0bchunked"),
        POST.replace(b"\r\n", b"\n"),
        POST.replace(b"X-A: b", b"X-A: b\r\n c"),
        POST.replace(b"X-A: b", b"X-A: b\0"),
        POST.replace(b"X-A", b"X A"),
        CHUNKED.replace(b"\r\n2\r\n", b"\r\n0x2\r\n"),
        CHUNKED.replace(b"\r\n2\r\n", b"\r\n-2\r\n"),
        CHUNKED.replace(b"\r\n2\r\n", b"\r\n" + b"f" * 17 + b"\r\n"),
        CHUNKED.replace(b"he\r\n", b"hel\r\n"),
        GET.replace(b"GET / ", b"GET /\x7f "),
        GET.replace(b"GET", b"FOO"),
        GET.replace(b"Host: h\r\n", b""),
        GET.replace(b"Host: h\r\n", b"Host: h\r\nHost: h\r\n"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_smuggles_or_is_no_http_is_refused(data: bytes) -> None:
    assert status(data) == 400


def test_unknown_versions_are_named_as_such() -> None:
    assert status(GET.replace(b"1.1", b"2.0")) == 505


@pytest.mark.parametrize(
    "data",
    [
        GET.replace(b"/ ", b"/" + b"a" * 1100 + b" "),
        b"GET /" + b"a" * 1100,
        b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 1100,
        b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 11 + b"\r\n",
        CHUNKED.replace(b"T: t\r\n", b"T: t\r\n" * 300),
        b"\r\n" * 600,
    ],
)
def test_heads_and_trailers_beyond_their_bounds_are_refused(data: bytes) -> None:
    assert status(data) == 431


def test_the_end_of_a_long_body_is_not_taken_for_a_long_head() -> None:
    one = reader()
    one.feed(POST.replace(b"Length: 5", b"Length: 5000")[:-5])
    assert one.feed(b"x" * 5000) == [Body(b"x" * 5000), End()]
    assert not one.in_head
    assert one.feed(GET[:5]) == []
    assert one.in_head


def test_absolute_addresses_are_reduced_to_their_path() -> None:
    head = read(GET.replace(b"GET / ", b"GET http://other:1/v1/models?x=1 "))[0]
    assert isinstance(head, Head)
    assert (head.path, head.query) == (b"/v1/models", b"x=1")


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket"])
def test_a_wish_for_another_protocol_is_answered_in_this_one_and_ends_the_connection(upgrade: bytes) -> None:
    events = read(GET.replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: %b\r\n\r\nPRI * HT" % upgrade))
    assert [type(event) for event in events] == [Head, End]
    assert isinstance(events[0], Head)
    assert not events[0].keep_alive
