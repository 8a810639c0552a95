"""The few fields of a prompt that the node itself needs, without building the rest of it.

Knows nothing of what the engine makes of the prompt: whether a field is allowed, missing or wrong is the engine's to
say, in its own words.
"""

import re
from dataclasses import dataclass
from typing import Final

import msgspec

MODEL_LENGTH = 512  # characters; no model has a longer name, and it is written into logs


class _Fields(msgspec.Struct):
    model: object = None
    stream: object = None
    max_tokens: object = None
    max_completion_tokens: object = None  # its newer name in chats
    max_output_tokens: object = None  # and in the Responses API
    n: object = None
    prompt: msgspec.Raw = msgspec.Raw()


@dataclass(frozen=True, slots=True, kw_only=True)
class Peek:
    """`model` and `max_tokens` are None, and `stream` False, where the body does not say so in so many words.

    `max_tokens`: of the answer, under whichever of its names is the least. `single`: no more than one answer to one
    prompt is asked for.
    """

    model: str | None
    stream: bool
    max_tokens: int | None = None
    single: bool = True


_SEVERAL: Final = re.compile(rb'\s*\[\s*["\[]')  # prompts: texts, or lists of tokens
_decoder = msgspec.json.Decoder(_Fields)
NOTHING = Peek(model=None, stream=False)


def peek(body: bytes) -> Peek:
    """Read the fields; of a repeated key the last counts, as it does for vLLM."""
    try:
        fields = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return NOTHING
    model = fields.model if isinstance(fields.model, str) else None
    return Peek(
        model=model[:MODEL_LENGTH] if model is not None else None,
        stream=fields.stream is True,
        max_tokens=_least(fields.max_tokens, fields.max_completion_tokens, fields.max_output_tokens),
        single=fields.n in (None, 1) and _SEVERAL.match(fields.prompt) is None,
    )


def _least(*values: object) -> int | None:
    """Return the least of those that are positive whole numbers."""
    least: int | None = None
    for value in values:
        if type(value) is int and value > 0 and (least is None or value < least):
            least = value
    return least
