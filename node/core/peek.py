"""The few fields of a prompt that the node itself needs, without building the rest of it.

Knows nothing of what the engine makes of the prompt: whether a field is allowed, missing or wrong is the engine's to
say, in its own words.
"""

from dataclasses import dataclass

import msgspec

MODEL_LENGTH = 512  # characters; no model has a longer name, and it is written into logs


class _Fields(msgspec.Struct):
    model: object = None
    stream: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Peek:
    """`model` is None, and `stream` False, where the body does not say so in so many words."""

    model: str | None
    stream: bool


_decoder = msgspec.json.Decoder(_Fields)
NOTHING = Peek(model=None, stream=False)


def peek(body: bytes) -> Peek:
    """Read `model` and `stream`; of a repeated key the last counts, as it does for vLLM."""
    try:
        fields = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return NOTHING
    model = fields.model if isinstance(fields.model, str) else None
    return Peek(model=model[:MODEL_LENGTH] if model is not None else None, stream=fields.stream is True)
