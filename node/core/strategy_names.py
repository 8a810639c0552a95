"""Strategies by their names: `Strategy.name` read back, for people who type one.

Knows how names are written (`node.core.strategy`) and nothing of what runs. A name says everything that a strategy
changes, so that reading it back gives the same value.
"""

import difflib
from collections.abc import Mapping

from node.core.strategy import DEFAULT, EXTERNAL, InvalidStrategy, Strategy, from_plain

NAME_CHARS = 1024  # longer than a name of every field with the longest values that a person would write

_SWITCHES: Mapping[str, str] = {"prefix": "prefix_caching", "chunked": "chunked_prefill", "compile": "compile"}
_COUNTS: Mapping[str, str] = {
    "seqs": "max_num_seqs",
    "budget": "max_num_batched_tokens",
    "longprefill": "long_prefill_token_threshold",
    "tp": "tensor_parallel",
    "pp": "pipeline_parallel",
}
_WORDS: Mapping[str, str] = {"kv": "kv_cache_dtype", "weights": "weight_quantization"}
FIELD_WORDS = frozenset(_SWITCHES) | frozenset(_COUNTS) | frozenset(_WORDS)  # no method of speculation is called so
_EXAMPLE = "prefix:on+seqs:16+ngram:4"


def parse_name(text: str) -> Strategy:
    """Return the strategy of that name: `default`, or parts such as `prefix:on` and `ngram:4` joined by +.

    The inverse of `Strategy.name`; the order of the parts is free.

    Raises:
        InvalidStrategy: it is no name; the message says which part, and what would be one.
    """
    if len(text) > NAME_CHARS:
        raise InvalidStrategy(f"a strategy's name has at most {NAME_CHARS} characters")
    if text in ("default", "external"):
        return DEFAULT if text == "default" else EXTERNAL
    plain: dict[str, object] = {}
    extra: dict[str, object] = {}
    for part in text.split("+"):
        field, value = _read(part)
        into = extra if field is None else plain
        key = part.partition("=")[0] if field is None else field
        if key in into:
            raise InvalidStrategy(f"{part!r} says again what the name said before")
        into[key] = value
    return from_plain(plain | ({"engine_extra": extra} if extra else {}))


def _read(part: str) -> tuple[str | None, object]:
    """Return a part's field and value; None as the field of an entry of `engine_extra`."""
    key, equals, value = part.partition("=")
    if equals:
        return None, value
    word, colon, value = part.partition(":")
    if not colon or not word or not value:
        raise InvalidStrategy(f"{part!r} is no part of a strategy's name; write it as {_EXAMPLE}{_near(key)}")
    if word in _WORDS:
        return _WORDS[word], value
    if word in _COUNTS:
        return _COUNTS[word], _count(part, value)
    # A method may have a colon itself, and may be called as a switch is: what follows tells.
    if word in _SWITCHES and value in ("on", "off"):
        return _SWITCHES[word], value == "on"
    method, _, tokens = part.rpartition(":")
    if method in _SWITCHES:
        raise InvalidStrategy(f"{part!r}: {word} is on or off")
    if not tokens.isdecimal():
        raise InvalidStrategy(
            f"{part!r}: {word!r} is no field of a strategy's name, and a method of speculation wants a number of"
            f" tokens; write it as {_EXAMPLE}{_near(word)}"
        )
    return "speculation", {"method": method, "tokens": _count(part, tokens)}


def _count(part: str, value: str) -> int:
    # Fifteen digits are far beyond every bound; `int` on thousands of digits raises something else.
    if not value.isascii() or not value.isdecimal() or len(value) > 15:
        raise InvalidStrategy(f"{part!r}: {value[:32]!r} is no whole number")
    return int(value)


def _near(word: str) -> str:
    near = difflib.get_close_matches(word, sorted(FIELD_WORDS | {"default"}), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
