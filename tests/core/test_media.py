"""Remote media in prompts: found however it is written, and nothing else is mistaken for it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.media import MAX_TOKENS, TooIntricate, names_remote_media, not_utf8

REMOTE = "http://169.254.169.254/latest"


def chat(part: object) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "see"}, part]}]}


REMOTE_BODIES: list[object] = [
    chat({"type": "image_url", "image_url": {"url": REMOTE}}),
    chat({"type": "image_url", "image_url": REMOTE}),
    chat({"image_url": REMOTE}),
    chat({"image_url": {"detail": "low", "url": REMOTE}}),
    chat({"type": "audio_url", "audio_url": {"url": REMOTE}}),
    chat({"type": "video_url", "video_url": {"url": REMOTE}}),
    chat({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}),
    chat({"type": "image_url", "image_url": {"url": "HTTP://x"}}),
    chat({"type": "image_url", "image_url": {"url": " data:image/png;base64,"}}),
    chat({"type": "image_url", "image_url": [REMOTE]}),
    {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": REMOTE}]}]},
    {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": REMOTE}]}]},
    {"input": {"image_url": REMOTE}},
    {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": REMOTE}}]}]},
    {"messages": [{"content": [{"type": "tool_result", "content": [{"source": {"url": REMOTE, "type": "url"}}]}]}]},
    {"documents": [{"content": [{"type": "image_url", "image_url": {"url": REMOTE}}]}]},
]
HARMLESS_BODIES: list[object] = [
    {"model": "m", "messages": [{"role": "user", "content": f"what is at {REMOTE}?"}]},
    chat({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}),
    chat({"type": "image_url", "image_url": {"url": "DATA:image/png;base64,iVBORw0KGgo="}}),
    chat({"type": "image_url", "image_url": None, "uuid": "x"}),
    chat({"type": "text", "text": '{"image_url": "http://x"}'}),
    {"tools": [{"function": {"parameters": {"properties": {"url": {"type": "string"}, "image_url": {}}}}}]},
    {"messages": [{"content": [{"type": "tool_use", "name": "get", "input": {"url": REMOTE, "image_url": REMOTE}}]}]},
    {"messages": [{"content": [{"type": "image", "source": {"type": "base64", "data": "aGk="}}]}]},
    {"prompt": [1, 2, 3], "metadata": {"url": REMOTE}},
    "image_url",
    [],
]  # fmt: skip


def spellings(document: object) -> list[bytes]:
    text = json.dumps(document)
    return [
        text.encode(),
        json.dumps(document, indent=3).encode(),
        b"\xef\xbb\xbf" + text.encode(),
        text.replace("url", "\\u0075\\u0072l").encode(),
        text.replace("image", "im\\u0061ge").replace("source", "\\u0073ource").encode(),
    ]


@pytest.mark.parametrize("document", REMOTE_BODIES)
def test_remote_media_is_found_in_every_spelling(document: object) -> None:
    for body in spellings(document):
        assert json.loads(body) == document
        assert names_remote_media(body), body


@pytest.mark.parametrize("document", HARMLESS_BODIES)
def test_what_names_no_remote_media_passes_in_every_spelling(document: object) -> None:
    for body in spellings(document):
        assert not names_remote_media(body), body


@pytest.mark.parametrize(
    "part",
    [
        '{"url": "data:,", "url": "http://x"}',
        '{"url": "http://x", "url": "data:,"}',
        '{"url": "http:\\/\\/x"}',
        '{"url": "\\u0068ttp://x"}',
        '{"detail": NaN, "url": "http://x"}',
        '{"url" \n : \t "http://x"}',
        '{"a": {"b": [{}, [[], "}"]]}, "url": "http://x"}',
        '{"a": "\\"", "url": "http://x"}',
        '{"a": "\\\\", "url": "http://x"}',
        '"http://x"',
    ],
)
def test_what_json_allows_does_not_hide_an_address(part: str) -> None:
    body = f'{{"messages": [{{"content": [{{"type": "image_url", "image_url": {part}}}]}}]}}'.encode()
    json.loads(body)
    assert names_remote_media(body)


def test_repeated_keys_are_all_looked_at() -> None:
    first = b'{"image_url": {"url": "http://x"}, "image_url": {"url": "data:,"}}'
    last = b'{"image_url": {"url": "data:,"}, "image_url": {"url": "http://x"}}'
    assert names_remote_media(first)
    assert names_remote_media(last)


def test_escaped_data_addresses_are_recognised_at_any_length() -> None:
    for tail in ("", "image/png;base64," + "A" * 100, "\\u0041" * 40):
        body = '{"image_url": {"url": "\\u0064\\u0061\\u0074\\u0061\\u003a' + tail + '"}}'
        assert not names_remote_media(body.encode())


def test_other_encodings_are_recognised_as_such() -> None:
    text = json.dumps(chat({"image_url": REMOTE}))
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"):
        assert not_utf8(text.encode(encoding)), encoding
    for body in (text.encode(), text.encode("utf-8-sig"), b"", b"{", b"\xff"):
        assert not not_utf8(body), body


def test_depth_is_no_matter() -> None:
    depth = 100_000
    body = b'{"a":' * depth + b'{"image_url": "http://x"}' + b"}" * depth
    assert names_remote_media(body)
    assert not names_remote_media(b"[" * depth + b'"url"')


def test_a_body_of_endless_parts_is_given_up() -> None:
    with_url = b'{"image_url": [' + b"[]," * (MAX_TOKENS // 2 + 10)
    try:
        names_remote_media(with_url)
    except TooIntricate:
        return
    raise AssertionError("it was read to its end")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["url", "image_url", "a", 'b"', "source", "\\"]), inner, max_size=4)
    ),
    max_leaves=20,
)


def holds_remote(value: object, name: str = "", around: str = "", depth: int = 0) -> bool:
    """The same question, asked of the document instead of its text."""
    if isinstance(value, str):
        media = around in {"image_url", "source"} if name == "url" else (name or around) == "image_url"
        return media and value != "" and value[:5].lower() != "data:"
    inside = name or around
    if isinstance(value, list):
        return any(holds_remote(item, "", inside, depth + 1) for item in value)
    if isinstance(value, dict):
        return any(holds_remote(item, key, inside, depth + 1) for key, item in value.items())
    return False


@given(JSON, st.booleans())
def test_the_text_and_the_document_agree(document: object, ascii_only: bool) -> None:
    body = json.dumps(document, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert names_remote_media(body) == holds_remote(document)


@given(st.binary(max_size=200))
def test_any_bytes_are_borne(body: bytes) -> None:
    names_remote_media(b'"url"' + body)
    not_utf8(body)
