"""Prompts and contexts: what is sure to be too long is refused unasked; what only may be, goes where there is room."""

import json
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.candidates import Candidates, Offering
from node.core.context import CHARS_PER_TOKEN, WORDS_PER_TOKEN, least_tokens, refused_for_length, with_room
from node.core.prompt import OWNER, Prompt
from node.core.standings import Standings
from node.core.wanted import Wanted
from node.errors import Refused
from tests.core.routing import PEERS
from tests.fakes.wish import Plain

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def said(text: str, role: str = "user") -> dict[str, str]:
    return {"role": role, "content": text}


def test_words_and_characters_bound_the_tokens_of_a_text_from_below() -> None:
    assert least_tokens(COMPLETIONS, body(prompt="word " * 800)) == 800 // WORDS_PER_TOKEN
    assert least_tokens(COMPLETIONS, body(prompt="x" * 10 * CHARS_PER_TOKEN)) == 10
    assert least_tokens(COMPLETIONS, body(prompt=" " * 10 * CHARS_PER_TOKEN)) == 10  # spaces may be few tokens


@given(st.text(alphabet=" ab\n", max_size=400))
def test_no_text_is_taken_for_more_than_a_token_for_each_eight_words(text: str) -> None:
    words = len(text.split(" "))
    assert least_tokens(COMPLETIONS, body(prompt=text)) <= max(words // WORDS_PER_TOKEN, len(text) // CHARS_PER_TOKEN)


def test_token_ids_are_counted_and_of_several_prompts_the_longest_counts() -> None:
    assert least_tokens(COMPLETIONS, body(prompt=[1, 2, 3])) == 3
    assert least_tokens(COMPLETIONS, body(prompt=[[1, 2], [1, 2, 3, 4]])) == 4
    assert least_tokens(COMPLETIONS, body(prompt=["a", "word " * 80])) == 10


def test_of_a_chat_the_longest_that_a_user_says_counts() -> None:
    long = "word " * 80
    assert least_tokens(CHAT, body(messages=[said(long), said(long)])) == 10
    assert least_tokens(CHAT, body(messages=[said(long, "assistant"), said("short")])) == 0
    parts = [{"type": "text", "text": long}, {"type": "image_url", "image_url": {"url": "data:x"}}]
    assert least_tokens("/v1/messages", body(messages=[{"role": "user", "content": parts}])) == 10


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        (COMPLETIONS, body(prompt=[1] * 50, truncate_prompt_tokens=8)),
        (CHAT, body(messages=[said("word " * 80)], truncation="auto")),
        (CHAT, body(messages=[said("word " * 80)], chat_template="{{ messages[-1] }}")),
        (CHAT, body(messages="word " * 80)),
        (CHAT, b"\xff\xfe"),
        (COMPLETIONS, b"{"),
        (COMPLETIONS, body()),
        (COMPLETIONS, body(prompt=[])),
        ("/tokenize", body(prompt="word " * 80)),
        ("/v1/embeddings", body(input="word " * 80)),
    ],
)
def test_where_nothing_is_sure_nothing_is_said(path: str, raw: bytes) -> None:
    assert least_tokens(path, raw) == 0


VLLM = {
    "message": "This model's maximum context length is 512 tokens. However, your prompt contains 600 input tokens.",
    "type": "BadRequestError",
    "param": "input_tokens",
    "code": 400,
}


def test_an_engines_refusal_for_length_is_known_in_its_words_and_in_openais() -> None:
    found = refused_for_length(400, body(error=VLLM))
    assert found is not None
    assert (found.message, found.param, found.as_engine, found.code) == (VLLM["message"], "input_tokens", True, None)
    theirs = {"message": "too many", "type": "invalid_request_error", "code": "context_length_exceeded", "param": None}
    found = refused_for_length(400, body(error=theirs))
    assert found is not None
    assert (found.code, found.as_engine) == ("context_length_exceeded", False)


@pytest.mark.parametrize(
    ("status", "raw"),
    [
        (200, body(error=VLLM)),
        (429, body(error=VLLM)),
        (400, body(error=VLLM | {"message": "temperature must be non-negative"})),
        (400, b"maximum context length"),
        (400, body(error="maximum context length")),
        (400, body(error=VLLM, more="x" * 20_000)),
    ],
)
def test_nothing_else_is_taken_for_one(status: int, raw: bytes) -> None:
    assert refused_for_length(status, raw) is None


def among(*contexts: float) -> Candidates:
    offerings = [Offering(replica=peer, context=each) for peer, each in zip(PEERS, contexts, strict=False)]
    return Candidates(offerings, model="m", standings=Standings())


def asking(raw: bytes = b"{}") -> Prompt:
    return Prompt(
        request_id="r",
        method="POST",
        target=COMPLETIONS,
        headers=(),
        body=raw,
        model="m",
        stream=False,
        requester=OWNER,
    )


def wish(prompt: float = 100.0, answer: float = 100.0, *, most: int = 0, size: int = 400) -> Plain:
    return Plain(Wanted(model="m", prompt_tokens=prompt, output_tokens=answer, most_tokens=most, body_bytes=size))


def contexts(found: Candidates) -> list[float]:
    return found.context.tolist()


def test_all_with_room_stay_together() -> None:
    candidates = among(4096, 8192)
    assert with_room(candidates, wish(), asking()) == (candidates, candidates)
    untold = among(inf, inf)
    assert with_room(untold, wish(1e6), asking()) == (untold, untold)


def test_those_with_room_for_prompt_and_answer_are_preferred_by_the_estimate_alone() -> None:
    candidates = among(512, 8192, inf)
    able, roomy = with_room(candidates, wish(450, 100), asking())
    assert (able, contexts(roomy)) == (candidates, [8192, inf])
    assert contexts(with_room(candidates, wish(most=1000), asking())[1]) == [8192, inf]
    # Only estimated: where nobody likely has room, everybody may be asked, and the engine has the last word.
    small = among(512, 1024)
    assert with_room(small, wish(5000), asking()) == (small, small)


def test_a_prompt_goes_to_nobody_who_surely_cannot_hold_it_and_is_refused_where_nobody_can() -> None:
    sure = asking(body(prompt=[7] * 600))
    able, _ = with_room(among(512, 8192), wish(600), sure)
    assert contexts(able) == [8192]
    with pytest.raises(Refused) as caught:
        with_room(among(512, 599), wish(600), sure)
    refusal = caught.value.refusal
    assert (refusal.status, refusal.code, refusal.param) == (400, "context_length_exceeded", "prompt")
    assert "599 tokens" in refusal.message
    assert "at least 600" in refusal.message
    assert len(with_room(among(512, inf), wish(600), sure)[0]) == 1  # who tells no context may hold anything


def test_short_ids_are_counted_though_the_estimate_is_below() -> None:
    ids = asking(json.dumps({"prompt": [7] * 600}, separators=(",", ":")).encode())
    size = len(ids.body)
    assert contexts(with_room(among(512, 8192), wish(size / 4, 1, size=size), ids)[0]) == [8192]


def test_a_context_that_was_tried_in_vain_is_not_tried_again() -> None:
    able, _ = with_room(among(512, 1024, 8192), wish(), asking(), beyond=1024.0)
    assert contexts(able) == [8192]
    with pytest.raises(Refused):
        with_room(among(512, 1024), wish(), asking(), beyond=1024.0)


def test_subsets_by_context_are_kept_and_few() -> None:
    candidates = among(*(float(1000 + number) for number in range(40)))
    assert candidates.with_room(1010.5) is candidates.with_room(1011.0)
    for number in range(40):
        assert len(candidates.with_room(1000.0 + number)) == 40 - number
    assert len(candidates.with_room(5000.0)) == 0
    assert candidates.with_room(1.0) is candidates
