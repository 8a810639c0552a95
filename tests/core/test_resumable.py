"""Which requests can be continued, and what of them is repeated."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.resumable import CHAT, COMPLETIONS, Terms, asking_for_ids, terms_of, text_only

SAID = [{"role": "user", "content": "hello"}]


def terms(path: str = CHAT, **fields: Any) -> Terms | None:
    asked: dict[str, Any] = {"messages": SAID} if path == CHAT else {"prompt": "hello"}
    return terms_of(path, json.dumps({**asked, "model": "m", "stream": True, **fields}).encode())


SOUND: list[dict[str, Any]] = [
    {},
    {"temperature": 0},
    {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1},
    {"temperature": 0, "seed": 7, "stop": "x"},
    {"temperature": 0.0, "stop": ["a", "bc"], "include_stop_str_in_output": True},
    {"temperature": 1, "stop": ["\n", "."]},
    {"n": 1, "frequency_penalty": 0, "presence_penalty": 0.0, "repetition_penalty": 1.0},
    {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "structured_outputs": None},
    {"seed": None, "stop": None, "max_tokens": None, "tools": None, "stream_options": None},
    {"logit_bias": {"5": 1}, "allowed_token_ids": [1, 2], "ignore_eos": True, "stop_token_ids": [9]},
    {"user": "u", "metadata": {"a": "b"}, "store": False, "request_id": "x", "cache_salt": "s", "priority": -1},
]


@pytest.mark.parametrize("fields", SOUND)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_what_only_its_tokens_decide_can_be_continued(path: str, fields: dict[str, Any]) -> None:
    assert terms(path, **fields) is not None


UNSOUND: list[dict[str, Any]] = [
    {"stream": False},
    {"stream": "true"},
    {"n": 2},
    {"best_of": 3},
    {"use_beam_search": True},
    {"seed": 3},
    {"temperature": 0.5, "stop": "xy"},
    {"temperature": "0"},
    {"temperature": True},
    {"frequency_penalty": 0.1},
    {"presence_penalty": -0.1},
    {"repetition_penalty": 1.01},
    {"bad_words": ["x"]},
    {"response_format": {"type": "json_schema"}},
    {"structured_outputs": {"choice": ["a"]}},
    {"guided_regex": "a"},
    {"tools": [{"type": "function"}]},
    {"tool_choice": "required"},
    {"functions": []},
    {"logprobs": True},
    {"logprobs": 2},
    {"top_logprobs": 1},
    {"prompt_logprobs": 1},
    {"echo": True},
    {"suffix": "x"},
    {"thinking_token_budget": 5},
    {"include_reasoning": False},
    {"return_token_ids": False},
    {"vllm_xargs": {}},
    {"kv_transfer_params": {}},
    {"max_tokens": 0},
    {"max_tokens": "5"},
    {"max_tokens": -1},
    {"min_tokens": -1},
    {"stop": [""], "temperature": 0},
    {"stop": ["x" * 300], "temperature": 0},
    {"stop": 5, "temperature": 0},
    {"stop": [5], "temperature": 0},
    {"stream_options": [1]},
    {"a_field_of_tomorrow": 1},
]


@pytest.mark.parametrize("fields", UNSOUND)
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_what_anything_else_decides_cannot_be_continued(path: str, fields: dict[str, Any]) -> None:
    assert terms(path, **fields) is None


@pytest.mark.parametrize("prompt", [["a"], ["a", "b"], [[1, 2]], [], 5, None, {"a": 1}])
def test_a_completion_is_of_one_text_or_one_list_of_tokens(prompt: object) -> None:
    assert terms(COMPLETIONS, prompt=prompt) is None
    assert terms(COMPLETIONS, prompt=[1, 2]) is not None


def test_a_completion_that_tells_chances_cannot_be_continued_and_a_chat_that_tells_none_can() -> None:
    assert terms(COMPLETIONS, logprobs=0) is None
    assert terms(COMPLETIONS, logprobs=False) is None
    assert terms(CHAT, logprobs=False) is not None


def test_other_endpoints_and_bodies_are_not_understood() -> None:
    assert terms("/v1/responses") is None
    assert terms_of(CHAT, b'{"stream":true}') is None
    assert terms_of(CHAT, b"[]") is None
    assert terms_of(CHAT, b'{"stream":true,"messages":' + b"[" * 100_000) is None
    assert terms_of(CHAT, b"\xff") is None
    assert terms(user="u" * 1_100_000) is None


def test_the_terms_are_what_the_request_says() -> None:
    found = terms(
        temperature=0,
        max_tokens=5,
        max_completion_tokens=7,
        min_tokens=2,
        stop=["a", "four"],
        stream_options={"include_usage": True},
        return_token_ids=True,
        user=None,
    )
    assert found is not None
    assert (found.chat, found.greedy, found.limit, found.least) == (True, True, 7, 2)
    assert (found.overlap, found.held, found.usage, found.ids_wanted) == (3, 3, True, True)
    assert found.repeated == {
        "model": "m",
        "temperature": 0,
        "stop": ["a", "four"],
        "stream_options": {"include_usage": True},
    }
    shown = terms(temperature=0, stop="four", include_stop_str_in_output=True)
    assert shown is not None
    assert (shown.overlap, shown.held) == (3, 0)
    plain, completion = terms(), terms(COMPLETIONS)
    assert plain is not None
    assert completion is not None
    assert (plain.greedy, plain.limit, completion.limit) == (False, None, 16)


def test_of_a_repeated_field_the_last_counts_as_it_does_for_vllm() -> None:
    assert terms_of(CHAT, b'{"n":2,"messages":[],"stream":true,"n":1}') is not None
    assert terms_of(CHAT, b'{"n":1,"messages":[],"stream":true,"n":2}') is None


@given(st.text(alphabet=" \n\t\r", max_size=5))
def test_ids_are_asked_for_at_the_beginning_and_nothing_else_is_touched(space: str) -> None:
    body = space.encode() + b'{ "messages":[{"role":"user","content":"{\\"a\\"}"}], "stream":true}'
    found = terms_of(CHAT, body)
    assert found is not None
    sent = asking_for_ids(body, found)
    assert sent.replace(b'"return_token_ids":true,', b"", 1) == body
    assert json.loads(sent) == {**json.loads(body), "return_token_ids": True}


def test_who_asks_for_ids_itself_is_taken_at_its_word() -> None:
    body = b'{"messages":[],"stream":true,"return_token_ids":true}'
    found = terms_of(CHAT, body)
    assert found is not None
    assert asking_for_ids(body, found) is body


@pytest.mark.parametrize(
    ("message", "so"),
    [
        ({"role": "user", "content": "text"}, True),
        ({"role": "user", "content": [{"type": "text", "text": "x"}, "y"]}, True),
        ({"role": "assistant", "content": None, "tool_calls": [{"type": "function"}]}, True),
        ({"role": "tool", "tool_call_id": "1", "content": "5"}, True),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}, False),
        ({"role": "user", "content": [{"image_url": "data:,"}]}, False),
        ({"role": "user", "content": [{"type": "text", "text": "x", "image_url": "data:,"}]}, False),
        ({"role": "assistant", "content": "x", "audio": {"id": "a"}}, False),
        ("text", False),
    ],
)
def test_a_chat_is_of_text_alone_where_all_its_parts_are(message: object, so: bool) -> None:
    assert text_only(json.dumps({"messages": [*SAID, message]}).encode()) is so


def test_what_is_no_chat_is_none_of_text() -> None:
    assert not text_only(b"{}")
    assert not text_only(b"{")
