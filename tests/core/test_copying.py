"""How much of an answer repeats: read off bytes of every dialect, bounded; where there is nothing to read, nothing."""

import json

import pytest

from node.core.answer_meter import AnswerMeter
from node.core.copying import ANSWER_BYTES, BODY_BYTES, copied_ppm, telling
from node.core.endpoints import Dialect
from tests.fakes.upstream import EVENTS

PASSAGE = "the quick brown fox jumps over the lazy dog while nobody in the house is awake to see it"
FRESH = "completely different words that were never asked about by anyone here before now today"


def chat(text: str) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]}).encode()


def whole(text: str) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


def streamed(text: str, form: str = '{"choices":[{"delta":{"content":%s}}]}') -> bytes:
    pieces = [text[at : at + 7] for at in range(0, len(text), 7)]  # cut in mid-word, as tokens are
    return b"".join(b"data: " + (form % json.dumps(piece)).encode() + b"\n\n" for piece in pieces)


def share(body: bytes, answer: bytes, *, dialect: Dialect = Dialect.OPENAI, stream: bool = True) -> float:
    found = copied_ppm(body, answer, dialect=dialect, streamed=stream)
    assert found is not None
    return found / 1e6


def test_an_answer_that_repeats_its_prompt_is_all_copied_and_fresh_words_are_not() -> None:
    assert share(chat(PASSAGE), whole(PASSAGE), stream=False) > 0.85
    assert share(chat(PASSAGE), whole(FRESH), stream=False) == 0.0
    assert 0.4 < share(chat(PASSAGE), whole(f"{PASSAGE} {FRESH}"), stream=False) < 0.65


def test_an_answer_that_repeats_itself_is_copied_from_the_second_time_on() -> None:
    assert share(chat("count"), whole(f"{FRESH}. {FRESH}."), stream=False) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("dialect", "form"),
    [
        (Dialect.OPENAI, '{"choices":[{"delta":{"content":%s}}]}'),
        (Dialect.OPENAI, '{"choices":[{"text":%s}]}'),
        (Dialect.RESPONSES, '{"type":"response.output_text.delta","delta":%s}'),
        (Dialect.MESSAGES, '{"type":"content_block_delta","delta":{"type":"text_delta","text":%s}}'),
    ],
)
def test_a_stream_says_the_same_as_the_whole_in_every_dialect(dialect: Dialect, form: str) -> None:
    for text in (PASSAGE, FRESH):
        expected = share(chat(PASSAGE), whole(text), stream=False)
        assert share(chat(PASSAGE), streamed(text, form), dialect=dialect) == expected


def test_the_whole_text_at_the_end_of_a_stream_of_responses_is_not_taken_for_a_copy() -> None:
    said = streamed(FRESH, '{"type":"response.output_text.delta","delta":%s}')
    done = b'data: {"type":"response.output_text.done","text":%s}\n\n' % json.dumps(FRESH).encode()
    assert share(chat(PASSAGE), said + done, dialect=Dialect.RESPONSES) == 0.0


def test_escapes_and_other_scripts_are_read_as_what_they_mean() -> None:
    german = 'Größe und Maß: "zwölf" Füße\nüber dem Fluß, schön und kühl wie früher'
    assert b"\\u" in chat(german)
    answer = json.dumps({"choices": [{"text": german}]}, ensure_ascii=False).encode()
    assert share(chat(german), answer, stream=False) > 0.8
    chinese = "从前有一座山山上有一座庙庙里有一个老和尚在讲故事"
    assert share(chat(chinese), whole(chinese), stream=False) > 0.8


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (b"{}", whole(PASSAGE)),  # tokens, or no text
        (chat(PASSAGE), b"{}"),
        (chat(PASSAGE), whole("yes")),
        (b'{"prompt": "\\ud800"}', whole(PASSAGE)),
        (b"\xff\xfe", b"\x00"),
        (b'{"prompt": "no end', whole(PASSAGE)),
    ],
)
def test_where_there_is_nothing_to_tell_it_by_nothing_is_told(body: bytes, answer: bytes) -> None:
    assert copied_ppm(body, answer, dialect=Dialect.OPENAI, streamed=False) is None


def test_large_requests_and_those_that_want_their_prompt_back_are_not_looked_at() -> None:
    assert telling(chat(PASSAGE))
    assert not telling(chat("x" * BODY_BYTES))
    assert not telling(b'{"prompt": "a", "echo": true}')


def test_a_meter_with_a_body_tells_what_was_copied_and_keeps_no_more_than_its_bound() -> None:
    meter = AnswerMeter(began=0.0, dialect=Dialect.OPENAI, body=chat(PASSAGE))
    meter.head(200, EVENTS, 0.1)
    data = streamed(PASSAGE)
    for at in range(0, len(data), 50):
        meter.piece(data[at : at + 50], 0.1, 0.1)
    held = 0
    for _ in range(3 * ANSWER_BYTES // 1000):
        meter.piece(b"x" * 1000, 0.1, 0.1)
        held = sum(len(piece) for piece in meter._first)
    assert held <= ANSWER_BYTES + 1000
    found = meter.measured()
    assert found is not None
    assert found.copied is not None
    assert found.copied > 850_000
    assert not meter._first


def test_a_meter_without_a_body_keeps_nothing_of_what_is_said() -> None:
    meter = AnswerMeter(began=0.0, dialect=Dialect.OPENAI)
    meter.head(200, EVENTS, 0.0)
    meter.piece(streamed(PASSAGE), 0.0, 0.1)
    assert not meter._first
    found = meter.measured()
    assert found is not None
    assert found.copied is None
