"""Whether a prompt names media that the engine would fetch: a lexical look at its JSON that nothing slips past.

Knows no engine, and does not build the document. It reads tokens in order and keeps the names of the objects it is
in, so that it sees every occurrence of a repeated key (whichever a parser believes), escapes in names and values,
non-standard numbers, malformed ends and any depth, at the cost of one pass. vLLM takes as media address the string (or
`url` inside the object) under `image_url`, `audio_url`, `video_url`, and Anthropic's `source.url`; it fetches
`http…` and `file`. Here everything but `data:` is remote, by the same test that vLLM makes, and `file_url` too.
"""

import json
import re
from dataclasses import dataclass

from node.core.endpoints import Dialect
from node.errors import Refusal

URL_KEYS = frozenset({"image_url", "audio_url", "video_url", "file_url"})
# Objects whose `url` is an address of media.
MEDIA_OBJECTS = URL_KEYS | {"source", "file", "input_image", "input_audio", "input_file"}
# What an assistant once passed to a tool (Anthropic's tool_use): quoted to the model, fetched by nobody. At the top
# level the same name is the prompt of a Responses or embeddings request, and is looked into.
QUOTED = "input"
QUOTED_BELOW = 2  # depth: the prompt's own object, and a list in it
# A long conversation with pictures and tools has some ten thousand tokens; a million takes half a second to read.
MAX_TOKENS = 1_000_000
# Bodies from here on are looked through in a thread: a loop that stands still for 10 ms is felt in every stream.
THREAD_BYTES = 256 * 1024

_TOKEN = re.compile(rb'[{}\[\]]|"([^"\\]*+(?:\\.[^"\\]*+)*+)"(\s*:)?', re.DOTALL)
_START = re.compile(rb"(?:\\u[0-9a-fA-F]{4}|\\.|[^\\]){1,5}", re.DOTALL)
_ESCAPED_LETTER = b"\\u00"  # every letter of the keys above is ASCII, and JSON has no other way to escape it


def not_utf8(body: bytes) -> bool:
    """Tell whether JSON parsers would take the body for UTF-16 or UTF-32, in which none of this could be read."""
    return not json.detect_encoding(body).startswith("utf-8")


@dataclass(frozen=True, slots=True)
class Forbidden:
    """Why a body must not reach an engine: the kind of the offence, and what its sender is told."""

    offence: str
    refusal: Refusal


def screen(body: bytes, dialect: Dialect) -> Forbidden | None:
    """Say why a body must not reach an engine; None where it may. Takes long for a long one: see `THREAD_BYTES`."""
    if not_utf8(body):
        return Forbidden("not_utf8", _invalid("JSON is sent in UTF-8."))
    try:
        remote = names_remote_media(body)
    except TooIntricate:
        return Forbidden("intricate_body", _invalid("The request's JSON has more parts than any prompt needs."))
    if not remote:
        return None
    message = "This node fetches no media from elsewhere: send it inside the request, as a data: URL or in base64."
    place = "source" if dialect is Dialect.MESSAGES else "url"
    return Forbidden("remote_media", _invalid(message, code="remote_media_refused", param=place))


def _invalid(message: str, *, code: str | None = None, param: str | None = None) -> Refusal:
    return Refusal(status=400, type="invalid_request_error", code=code, param=param, message=message)


class TooIntricate(Exception):
    """A body of more tokens than anybody's prompt has."""


def names_remote_media(body: bytes) -> bool:
    """Tell whether any media address in the JSON text `body` is something else than `data:`.

    A prompt without the letters "url", in plain or escaped, is not looked at further: that is nearly all of them.

    Raises:
        TooIntricate: after `MAX_TOKENS`.
    """
    if b"url" not in body and _ESCAPED_LETTER not in body:
        return False
    place = _Place()
    for count, token in enumerate(_TOKEN.finditer(body)):
        first = body[token.start()]
        if first in b"{[":
            place.enter()
        elif first in b"}]":
            place.leave()
        elif token.group(2) is not None:
            place.name = _text(token.group(1))
        else:
            if place.holds_media_address() and _is_remote(token.group(1)):
                return True
            place.name = ""
        if count > MAX_TOKENS:
            raise TooIntricate
    return False


class _Place:
    """Where in the document the reader is, by names alone."""

    def __init__(self) -> None:
        self.name = ""  # of the value that comes next, in an object
        self._around: list[str] = []  # names of the containers, outermost first; a list's elements have the list's
        self._quoted_from = 0  # depth at which quoted matter began; 0 outside

    def enter(self) -> None:
        self._around.append(self.name or self._nearest())
        if not self._quoted_from and self.name == QUOTED and len(self._around) > QUOTED_BELOW:
            self._quoted_from = len(self._around)
        self.name = ""

    def leave(self) -> None:
        if self._quoted_from == len(self._around):
            self._quoted_from = 0
        if self._around:
            self._around.pop()
        self.name = ""

    def holds_media_address(self) -> bool:
        """Tell whether a string at this place would be taken as an address of media."""
        if self._quoted_from:
            return False
        if self.name == "url":
            return self._nearest() in MEDIA_OBJECTS
        return (self.name or self._nearest()) in URL_KEYS

    def _nearest(self) -> str:
        return self._around[-1] if self._around else ""


def _is_remote(raw: bytes) -> bool:
    # Only the first characters matter, and a picture in base64 is long.
    start = _START.match(raw)
    return start is not None and _text(start.group()).lower() != "data:"


def _text(raw: bytes) -> str:
    """Decode the inside of a JSON string; what is malformed stays as it is."""
    text = raw.decode("utf-8", "replace")
    if "\\" not in text:
        return text
    try:
        return json.loads(f'"{text}"', strict=False)
    except ValueError:
        return text
