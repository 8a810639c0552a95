"""Whether what an engine answers is an answer: its shape, and whether two engines of one model say the same.

Knows the bodies of three OpenAI endpoints; asks nobody.
"""

import json
from dataclasses import dataclass
from typing import Any, cast

TOKENS = 8  # generated for the comparison; a fault of the kernels, the cache or the drafts shows within a few
TOP = 5  # alternatives told with each token: two sound engines differ only where the best lie within 0.125 nats
# Plain prose: the model has an opinion on what comes next, and no reason to end at once.
PROMPT = "The sun rises in the east and sets in the west. Every morning the sky turns bright and the birds begin to"

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstTokens:
    """The greedy beginning of an answer.

    Attributes:
        tokens: as texts, at most TOKENS.
        alternatives: for each, the likeliest tokens in its place, itself among them.
    """

    tokens: tuple[str, ...]
    alternatives: tuple[frozenset[str], ...]


def wrong_shape(target: str, body: bytes) -> str:
    """Return what is wrong with the answer to a question for one token, or one embedding; "" where nothing is."""
    answer = _json(body)
    if answer is None:
        return f"{target} answers with what is no JSON object"
    if target == EMBEDDINGS:
        vector = _at(answer, "data", 0, "embedding")
        return "" if vector else f"{target} answers without an embedding"
    if target == COMPLETIONS:
        text, given = _at(answer, "choices", 0, "text"), "a text"
    else:
        # The content is null where a model that reasons spends its one token on that.
        message, given = _at(answer, "choices", 0, "message"), "a message"
        told = cast("dict[str, Any]", message).get("content") if isinstance(message, dict) else 0
        text = "" if told is None else told
    if not isinstance(text, str):
        return f"{target} answers without {given}"
    counted = _at(answer, "usage", "completion_tokens")
    if type(counted) is not int or counted < 1:
        return f"{target} answers without a token (usage: {str(counted)[:40]})"
    return ""


def first_tokens(body: bytes) -> FirstTokens | None:
    """Read the answer to the question for first tokens; None where the engine tells no alternatives."""
    answer = _json(body)
    told = _at(answer, "choices", 0, "logprobs") if answer is not None else None
    tokens, tops = _at(told, "tokens"), _at(told, "top_logprobs")
    if not isinstance(tokens, list) or not isinstance(tops, list):
        return None
    pairs = list(zip(cast("list[Any]", tokens), cast("list[Any]", tops), strict=False))[:TOKENS]
    if not pairs or not all(isinstance(token, str) and isinstance(top, dict) for token, top in pairs):
        return None
    return FirstTokens(
        tokens=tuple(token for token, _ in pairs),
        alternatives=tuple(frozenset({*cast("dict[str, Any]", top), token}) for token, top in pairs),
    )


def disagreement(old: FirstTokens, new: FirstTokens) -> str:
    """Return where two greedy answers to one prompt cannot be of one model; "" where they agree.

    They are compared up to the first place in which they differ: from there on they answer different prompts. In that
    place each engine must have held the other's token for likely, else it is no near tie.
    """
    for place, (before, now) in enumerate(zip(old.tokens, new.tokens, strict=False)):
        if before == now:
            continue
        if now in old.alternatives[place] and before in new.alternatives[place]:
            return ""
        return f"token {place + 1} of a fixed prompt is {now!r:.40} and was {before!r:.40}, which is no near tie"
    return ""


def _json(body: bytes) -> dict[str, Any] | None:
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


def _at(value: object, *path: str | int) -> Any:  # noqa: ANN401 -- whatever JSON holds there
    """Return what lies at the path; None where nothing does."""
    here: Any = value
    for step in path:
        try:
            here = here[step]
        except (KeyError, IndexError, TypeError):
            return None
    return here
