"""What counts as an answer, and when two engines of one model agree."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.answer_check import CHAT, COMPLETIONS, EMBEDDINGS, FirstTokens, disagreement, first_tokens, wrong_shape

ONE = {"completion_tokens": 1}


def body(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("target", "value"),
    [
        (COMPLETIONS, {"choices": [{"text": " 4"}], "usage": ONE}),
        (COMPLETIONS, {"choices": [{"text": ""}], "usage": ONE}),  # the end itself may be the likeliest token
        (CHAT, {"choices": [{"message": {"content": "4"}}], "usage": ONE}),
        (CHAT, {"choices": [{"message": {"content": None, "reasoning": "Hm"}}], "usage": ONE}),
        (EMBEDDINGS, {"data": [{"embedding": [0.5]}]}),
    ],
)
def test_sound_answers_pass(target: str, value: object) -> None:
    assert wrong_shape(target, body(value)) == ""


@pytest.mark.parametrize(
    ("target", "raw", "words"),
    [
        (COMPLETIONS, b"", "no JSON object"),
        (COMPLETIONS, b"\xff\x00!", "no JSON object"),
        (COMPLETIONS, b"[" * 100_000, "no JSON object"),
        (COMPLETIONS, b"[]", "no JSON object"),
        (COMPLETIONS, b"{}", "without a text"),
        (COMPLETIONS, body({"choices": [], "usage": ONE}), "without a text"),
        (COMPLETIONS, body({"choices": [{"text": 4}], "usage": ONE}), "without a text"),
        (COMPLETIONS, body({"choices": [{"text": "4"}]}), "without a token"),
        (COMPLETIONS, body({"choices": [{"text": "4"}], "usage": {"completion_tokens": 0}}), "without a token"),
        (COMPLETIONS, body({"choices": [{"text": "4"}], "usage": {"completion_tokens": True}}), "without a token"),
        (CHAT, body({"choices": [{"text": "4"}], "usage": ONE}), "without a message"),
        (CHAT, body({"choices": [{"message": {"content": []}}], "usage": ONE}), "without a message"),
        (EMBEDDINGS, body({"data": [{"embedding": []}]}), "without an embedding"),
    ],
)
def test_what_is_no_answer_is_told(target: str, raw: bytes, words: str) -> None:
    assert words in wrong_shape(target, raw)


@given(raw=st.binary() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(body))
def test_nothing_that_an_engine_says_breaks_the_check(raw: bytes) -> None:
    for target in (COMPLETIONS, CHAT, EMBEDDINGS):
        assert wrong_shape(target, raw)
    assert first_tokens(raw) is None


def told(*tokens: str, tops: list[dict[str, float]] | None = None) -> FirstTokens:
    alternatives = tops if tops is not None else [{token: -0.1} for token in tokens]
    logprobs = {"tokens": list(tokens), "top_logprobs": alternatives}
    found = first_tokens(body({"choices": [{"text": "".join(tokens), "logprobs": logprobs}]}))
    assert found is not None
    return found


def test_tokens_come_with_their_alternatives() -> None:
    found = told("a", "b", tops=[{"a": -0.1, "x": -3.0}, {"y": -0.2}])
    assert found.tokens == ("a", "b")
    assert found.alternatives == (frozenset({"a", "x"}), frozenset({"b", "y"}))


@pytest.mark.parametrize(
    "logprobs",
    [None, {}, {"tokens": ["a"]}, {"tokens": [], "top_logprobs": []}, {"tokens": ["a"], "top_logprobs": [None]}],
)
def test_an_engine_that_tells_no_alternatives_is_not_compared(logprobs: object) -> None:
    assert first_tokens(body({"choices": [{"text": "a", "logprobs": logprobs}]})) is None


def test_the_same_tokens_agree() -> None:
    assert disagreement(told("a", "b"), told("a", "b", "c")) == ""


def test_a_near_tie_is_no_disagreement_whatever_follows() -> None:
    tops = [{"a": -0.1}, {"b": -0.7, "c": -0.71}, {"d": -0.1}]
    assert disagreement(told("a", "b", "d", tops=tops), told("a", "c", "z", tops=tops)) == ""


def test_a_token_that_either_engine_held_for_unlikely_is_one() -> None:
    alone: list[dict[str, float]] = [{}]
    old_knows, new_knows = [{"!": -2.0}], [{"a": -2.0}]
    assert "token 1" in disagreement(told("a", tops=alone), told("!", tops=alone))
    assert disagreement(told("a", tops=old_knows), told("!", tops=alone))
    assert disagreement(told("a", tops=alone), told("!", tops=new_knows))
    assert disagreement(told("a", tops=old_knows), told("!", tops=new_knows)) == ""
    assert "token 2" in disagreement(told("a", "b"), told("a", "!"))
