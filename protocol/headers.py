"""Which HTTP headers travel between nodes, and in what form. Specification: docs/protocol/inference.md.

Knows no HTTP library and no endpoint. Two lists say what may travel; everything else stays where it is, so that a
header which nobody thought of (a cookie of tomorrow) leaks nothing. Credentials are the sender's own and are
refused even where they arrive.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, cast

from protocol import limits
from protocol.errors import Flaw, Reason
from protocol.wire import Value

Headers = tuple[tuple[bytes, bytes], ...]

# What changes an engine's answer, and what ties together the traces of those who take part.
REQUEST: Final = frozenset(
    {
        b"accept",
        b"anthropic-beta",
        b"anthropic-version",
        b"content-type",
        b"openai-beta",
        b"traceparent",
        b"tracestate",
        b"x-request-id",
    }
)
# What a client's SDK reads of an answer. Lengths and encodings belong to one connection, not to the answer.
ANSWER: Final = frozenset(
    {
        b"cache-control",
        b"content-type",
        b"openai-processing-ms",
        b"openai-version",
        b"retry-after",
        b"x-metainf-model",
        b"x-metainf-strategy",
        b"x-request-id",
    }
)
# A peer that sends one of these leaks a secret: its own, or a client's. It should hear of it.
CREDENTIALS: Final = frozenset(
    {
        b"api-key",
        b"authorization",
        b"cookie",
        b"proxy-authorization",
        b"set-cookie",
        b"x-api-key",
        b"x-goog-api-key",
    }
)

_NAME = re.compile(rb"[!#$%%&'*+.^_`|~0-9a-z-]{1,%d}" % limits.HEADER_NAME_BYTES)  # RFC 9110 token, in lower case
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]{0,%d}" % limits.HEADER_VALUE_BYTES)  # no CR, LF, NUL: no smuggling


def travelling(headers: Iterable[tuple[bytes, bytes]], allowed: frozenset[bytes]) -> Headers:
    """Return those of `headers` that travel, names in lower case, in their order: the rest stays behind unsaid.

    What a client sent must not make us send what peers refuse: over-long and malformed ones stay behind too.
    """
    kept: list[tuple[bytes, bytes]] = []
    size = 0
    for given, value in headers:
        name = given.lower()
        if name not in allowed or not _VALUE.fullmatch(value):
            continue
        size += len(name) + len(value)
        if len(kept) == limits.HEADERS or size > limits.HEADERS_BYTES:
            break
        kept.append((name, value))
    return tuple(kept)


@dataclass(frozen=True, slots=True)
class HeaderList:
    """The rule (`protocol.schema.Rule`) of a list of [name, value] pairs of byte strings.

    Arriving names that are not allowed are dropped: a newer peer may know more of them. Leaving ones are a bug.
    """

    allowed: frozenset[bytes]

    def load(self, value: Value) -> Headers:
        """See `Rule`."""
        if type(value) is not list:
            raise Flaw(Reason.WRONG_TYPE, f"{type(value).__name__} where a list belongs")
        return tuple(header for header in _checked(value) if header[0] in self.allowed)

    def dump(self, value: Headers) -> Value:
        """See `Rule`."""
        pairs = [cast("Value", list(header)) for header in value]
        for name, _ in _checked(pairs):
            if name not in self.allowed:
                raise Flaw(Reason.MALFORMED, f"{name!r} does not travel")
        return pairs


def _checked(pairs: list[Value]) -> Headers:
    if len(pairs) > limits.HEADERS:
        raise Flaw(Reason.OUT_OF_BOUNDS, f"{len(pairs)} headers where {limits.HEADERS} are allowed")
    headers = tuple(map(_checked_pair, pairs))
    size = sum(len(name) + len(value) for name, value in headers)
    if size > limits.HEADERS_BYTES:
        raise Flaw(Reason.OUT_OF_BOUNDS, f"{size} bytes of headers where {limits.HEADERS_BYTES} are allowed")
    return headers


def _checked_pair(pair: Value) -> tuple[bytes, bytes]:
    if type(pair) is not list or len(pair) != 2:
        raise Flaw(Reason.WRONG_TYPE, "a header is a list of name and value")
    name, value = pair
    if type(name) is not bytes or type(value) is not bytes:
        raise Flaw(Reason.WRONG_TYPE, "a header's name and value are byte strings")
    if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
        raise Flaw(Reason.MALFORMED, "not a header as HTTP has it, its name in lower case")
    if name in CREDENTIALS:
        raise Flaw(Reason.MALFORMED, f"{name!r} is a credential and never travels")
    return name, value
