"""Whether a prompt fits a model's context: how many tokens it has at least, and what is said of one that is too long.

Knows no tokenizer: whatever the vocabulary, a token stands for so many characters and words at most. What that proves
to be too long needs nobody's asking; whatever it does not prove is the engine's to say, in its own words, which are
read here as well (`refused_for_length`).
"""

from collections.abc import Iterator
from math import inf
from typing import Any, Final, cast

import msgspec

from node.core.candidates import Candidates
from node.core.prompt import Prompt
from node.core.wanted import Wish
from node.errors import Refusal, Refused

# The longest tokens of published vocabularies are runs of 128 spaces; twice that, because the next one may have more.
# vLLM itself refuses prompts by the longest of its own tokenizer (`max_chars_per_token`), before it tokenizes them.
CHARS_PER_TOKEN: Final = 256
# Nearly all tokenizers end a token where a word ends. Those that do not: four words (SuperBPE), or sixteen characters
# (SentencePiece without splitting at spaces), which hold eight words of one letter.
WORDS_PER_TOKEN: Final = 8
USER: Final = "user"
TEXT: Final = "text"
CHATS: Final = frozenset({"/v1/chat/completions", "/v1/messages"})
COMPLETIONS: Final = "/v1/completions"
LEAST_ID_BYTES: Final = 2  # of a token's id in a prompt of ids: a digit and a comma
MOST_TOKENS: Final = 1e9  # that a client's wish for a long answer is taken for: no context is longer
ERROR_BYTES: Final = 16 * 1024  # of an engine's refusal that are read; one has some hundred
# As vLLM, OpenAI and those who copy them put it.
_WORDS: Final = ("maximum context length", "maximum model length", "context_length_exceeded", "max_total_tokens")


class _Part(msgspec.Struct):
    type: str = TEXT
    text: str = ""


class _Message(msgspec.Struct):
    role: str = ""
    content: str | list[_Part] | None = None


class _Body(msgspec.Struct):
    messages: list[_Message] = msgspec.field(default_factory=list[_Message])
    prompt: Any = None
    truncate_prompt_tokens: Any = None
    truncation: Any = None
    chat_template: Any = None


class _Said(msgspec.Struct):
    message: str = ""
    type: str = "BadRequestError"
    param: str | None = None
    code: int | str | None = None


class _Error(msgspec.Struct):
    error: _Said


_bodies = msgspec.json.Decoder(_Body)
_errors = msgspec.json.Decoder(_Error)


def least_tokens(path: str, body: bytes) -> int:
    """Return how many tokens a prompt has at least, whatever the tokenizer; 0 where nothing is sure.

    Takes a few milliseconds for a megabyte: ask where an estimate says that it may be too long. Counted is a
    completion's prompt, and of a chat the longest that a user says at once: a template may leave out what was thought,
    or said before. Nothing is sure of other endpoints, nor where the engine is asked to cut the prompt down or to use
    another template.
    """
    if path not in CHATS and path != COMPLETIONS:
        return 0
    try:
        read = _bodies.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return 0  # what is wrong with it is the engine's to say
    if any(each is not None for each in (read.truncate_prompt_tokens, read.truncation, read.chat_template)):
        return 0
    if path == COMPLETIONS:
        return _of_prompt(read.prompt)
    return max((_of_text(text) for text in _user_texts(read.messages)), default=0)


def with_room(candidates: Candidates, wish: Wish, prompt: Prompt, beyond: float = 0.0) -> tuple[Candidates, Candidates]:
    """Return those whose context may hold a prompt, and of them those that most likely hold its answer as well.

    The latter are all of the former where nobody likely does. Who tells no context may hold anything.

    Args:
        beyond: a context, in tokens, that was tried in vain: only longer ones are of use.

    Raises:
        Refused: it is sure that nobody's context holds it; 400.
    """
    shortest = candidates.shortest
    if shortest == inf:
        return candidates, candidates
    wanted = wish.wanted
    likely = max(wanted.prompt_tokens + wanted.output_tokens, min(float(wanted.most_tokens), MOST_TOKENS))
    # Ids may be as short as two bytes, of which an estimate by text knows nothing.
    many_ids = prompt.path == COMPLETIONS and wanted.body_bytes > LEAST_ID_BYTES * shortest
    if shortest > beyond and shortest >= likely and not many_ids:
        return candidates, candidates
    # Read only where the estimate is beyond somebody's: most long answers are asked for by short prompts.
    least = least_tokens(prompt.path, prompt.body) if many_ids or wanted.prompt_tokens > shortest else 0
    able = candidates.with_room(max(float(least), beyond + 1.0))
    if not len(able):
        longest = int(candidates.longest)
        raise Refused(too_long(prompt.path, longest=longest, least=max(least, longest + 1)))
    roomy = able.with_room(likely)
    return able, roomy if len(roomy) else able


def too_long(path: str, *, longest: int, least: int) -> Refusal:
    """Refuse a prompt that nobody's context holds, in OpenAI's words.

    Args:
        longest: of the contexts, tokens.
        least: tokens that the prompt has.
    """
    param = "prompt" if path == COMPLETIONS else "messages"
    return Refusal(
        status=400,
        type="invalid_request_error",
        code="context_length_exceeded",
        param=param,
        message=(
            f"The longest context that anybody serves this model with is {longest} tokens. "
            f"However, your {param} resulted in at least {least} tokens. Please reduce the length of the {param}."
        ),
    )


def refused_for_length(status: int, body: bytes) -> Refusal | None:
    """Return an engine's refusal of a prompt that its context does not hold; None where the answer is no such thing.

    `body`: of the answer, whole. The refusal says what the engine said.
    """
    if status != 400 or len(body) > ERROR_BYTES:
        return None
    try:
        said = _errors.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not any(words in text for words in _WORDS for text in (said.message, str(said.code))):
        return None
    own_code = said.code == status
    return Refusal(
        status=status,
        type=said.type,
        code=None if own_code or said.code is None else str(said.code),
        param=said.param,
        message=said.message,
        as_engine=own_code,
    )


def _of_prompt(prompt: object) -> int:
    """Return the least of a completion's prompt: a text, token ids, or several of either, of which one counts."""
    several = cast("list[object]", prompt) if isinstance(prompt, list) else [prompt]
    if several and type(several[0]) is int:
        return len(several)
    return max((_of_one(each) for each in several), default=0)


def _of_one(prompt: object) -> int:
    if isinstance(prompt, str):
        return _of_text(prompt)
    return len(cast("list[object]", prompt)) if isinstance(prompt, list) else 0


def _user_texts(messages: list[_Message]) -> Iterator[str]:
    for message in messages:
        if message.role != USER or message.content is None:
            continue
        if isinstance(message.content, str):
            yield message.content
        else:
            yield from (part.text for part in message.content if part.type == TEXT)


def _of_text(text: str) -> int:
    """Return the least tokens of a text, from its length and from its words."""
    # Pairs are taken off so that a run of spaces counts once at most: two searches instead of a list of words.
    words = text.count(" ") - 2 * text.count("  ")
    return max(len(text) // CHARS_PER_TOKEN, words // WORDS_PER_TOKEN)
