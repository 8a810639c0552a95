"""Token ids read off a stream and taken out of it."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.continuation import Told
from node.core.resumable import CHAT, Terms, terms_of
from node.core.sse_events import HELD_BYTES
from node.core.token_stream import IDS_BYTES, TAIL, TokenStream, numbers
from tests.fakes.token_engine import TokenEngine, event, tokens_of

BODY = b'{"model":"m","stream":true,"temperature":0,"max_tokens":9000,"messages":[{"role":"user","content":"x"}]}'
TEXT = 'He said: "token_ids":[1,2] and \\"prompt_token_ids\\":[3]. €😀'
ASKING = BODY.replace(b"{", b'{"return_token_ids":true,', 1)


def terms(body: bytes = BODY) -> Terms:
    found = terms_of(CHAT, body)
    assert found is not None
    return found


def stream(*, ids_wanted: bool = False) -> TokenStream:
    return TokenStream(terms(ASKING if ids_wanted else BODY), asked_bytes=len(BODY))


@given(st.lists(st.integers(1, 5), min_size=1), st.lists(st.integers(1, 4), min_size=1))
def test_however_events_come_together_the_ids_are_read_and_taken_out(together: list[int], sizes: list[int]) -> None:
    engine = TokenEngine(tokens_of(TEXT), together=together)
    events, plain = engine.events(CHAT, ASKING), engine.events(CHAT, BODY)
    following, at, turn, out = stream(), 0, 0, b""
    wanted = b"".join(plain).replace(b'"created":1002', b'"created":1001')
    while at < len(events):
        size = sizes[turn % len(sizes)]
        out += following.take(b"".join(events[at : at + size]))
        at, turn = at + size, turn + 1
    assert out == wanted
    assert following.ended()
    told = following.told()
    assert isinstance(told, Told)
    assert told.prompt == engine.prompt_ids
    assert engine.text(told.ids) == TEXT
    assert TEXT.endswith(told.said)
    assert (told.finish, told.done) == ("stop", True)


def test_who_wants_ids_gets_them() -> None:
    events = b"".join(TokenEngine(tokens_of(TEXT)).events(CHAT, ASKING))
    following = stream(ids_wanted=True)
    assert following.take(events) == events
    told = following.told()
    assert isinstance(told, Told)
    assert len(told.ids) == len(tokens_of(TEXT)) + 1


def test_events_that_are_there_for_their_ids_alone_are_left_out() -> None:
    events = TokenEngine(tokens_of("word")).events(CHAT, ASKING)
    empty = events[2].replace(b'"delta":{"content":"d"}', b'"delta":{}')
    assert empty != events[2]
    following, wanting = stream(), stream(ids_wanted=True)
    assert following.take(b"".join(events[:2]) + empty).count(b"data: ") == 2
    assert wanting.take(b"".join(events[:2]) + empty) == b"".join(events[:2]) + empty
    assert following.take(empty) == b""
    last = empty.replace(b'"finish_reason":null', b'"finish_reason":"stop"')
    assert following.take(last) == last.replace(b'"token_ids":[108]', b'"token_ids":null')
    told = following.told()
    assert isinstance(told, Told)
    assert (len(told.ids), told.said, told.finish) == (4, "wor", "stop")


def test_ids_in_another_s_json_are_found_too() -> None:
    spaced = b"".join(TokenEngine(tokens_of(TEXT)).events(CHAT, ASKING)[:9]).replace(b'ids":[', b'ids" : [ ')
    following = stream()
    out = following.take(spaced)
    assert b'ids" : [' not in out
    assert out.count(b'ids" : null') == 9
    told = following.told()
    assert isinstance(told, Told)
    assert len(told.ids) == 8


def test_of_a_long_answer_only_its_end_is_kept_and_it_can_be_gone_on_with() -> None:
    text = "word and " * 400
    events = TokenEngine(tokens_of(text), context=9000).events(CHAT, ASKING)
    following = stream()
    for each in events[:1000]:
        following.take(each)
    told = following.told()
    assert isinstance(told, Told)
    assert (len(told.ids), len(told.marks)) == (999, TAIL)
    assert told.marks[-1].tokens == 999
    assert told.marks[0].tokens > 900


def test_an_answer_without_end_is_followed_as_far_as_memory_allows() -> None:
    (
        first,
        *_,
    ) = TokenEngine(tokens_of("x")).events(CHAT, ASKING)
    following = stream()
    following.take(first)
    many = event({"choices": [{"index": 0, "delta": {"content": "x"}, "token_ids": [1234567] * 20_000}]})
    for _ in range(IDS_BYTES // 160_000 + 3):
        assert b"1234567" not in following.take(many)
    assert following.told() == "it is longer than what is kept of an answer"


@pytest.mark.parametrize(
    "block",
    [
        b'data: {"token_ids":[' * 50_000,
        b'data: {"token_ids":[1],' + b'"token_ids":[' * 70_000 + b"\n\n",
        b'data: {"token_ids":[' + b" " * 900_000 + b"\n\n",
        b'data: {"error":' + b'"code":' * 100_000 + b"\n\n",
        b"\n\n" * 400_000,
        b"data:\r" * 150_000,
    ],
)
@pytest.mark.parametrize("begun", [True, False])
def test_a_liar_s_block_is_looked_at_a_few_times_and_no_more(block: bytes, begun: bool) -> None:
    assert len(block) <= HELD_BYTES
    following = stream()
    if begun:
        following.take(TokenEngine(tokens_of("x")).events(CHAT, ASKING)[0])
    began = time.process_time()
    following.take(block)
    following.told()
    following.ended()
    assert time.process_time() - began < 5.0  # the worst, 400,000 events in one block, takes half a second


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        (b"", []),
        (b" ", []),
        (b"1", [1]),
        (b" 1 , 22,3 ", [1, 22, 3]),
        (b"2147483647", [2**31 - 1]),
        (b"2147483648", None),
        (b"1,", None),
        (b",1", None),
        (b"1 2", None),
        (b"-1", None),
        (b"1.0", None),
        (b"[1]", None),
        (b'"1"', None),
        (b"1" * 11, None),
    ],
)
def test_ids_are_whole_numbers_that_a_tokenizer_may_have(text: bytes, ids: list[int] | None) -> None:
    assert numbers(text) == ids
