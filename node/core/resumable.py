"""Which requests an answer can be continued for on another engine, and what of them the continuation has to repeat.

Knows no stream and no engine. The continuation of an answer is a completion of the tokens of prompt and answer so far
(docs/decisions/resuming.md). It is the same answer where nothing but those tokens decides what comes next: one text,
chosen greedily or by luck that nobody asked to be repeatable, with no count of what was said before (penalties), no
grammar, no tools, no probabilities to be told. A field that is not named here may be any of these, so it rules a
request out: what vLLM learns tomorrow is not continued until somebody decides so here.
"""

import re
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec

CHAT: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
COMPLETION_DEFAULT: Final = 16  # max_tokens of a completion that names none, in OpenAI's API and in vLLM
# vLLM draws no lots below this temperature (`_SAMPLING_EPS` of its sampling parameters).
GREEDY_BELOW: Final = 1e-5
BODY_BYTES: Final = 1024 * 1024  # of a request whose ids are asked for: 350,000 tokens, each seven bytes of answer
STOP_CHARS: Final = 256  # of the longest stop string: as much of the answer is generated twice at most
_ASKS: Final = b'"return_token_ids":true,'
_IDS: Final = re.compile(rb"\s*\[\s*\d")
_LOOKED_AT: Final = 64  # bytes of a prompt, to tell a text from a list

# What is asked: tokens take its place.
_ASKED: Final = frozenset({
    "messages", "prompt", "add_generation_prompt", "continue_final_message", "add_special_tokens", "chat_template",
    "chat_template_kwargs", "documents", "truncate_prompt_tokens", "truncation_side", "reasoning_effort",
})  # fmt: skip
# What says how to go on: the continuation has it as well.
_REPEATED: Final = frozenset({
    "model", "temperature", "top_p", "top_k", "min_p", "logit_bias", "allowed_token_ids", "stop", "stop_token_ids",
    "include_stop_str_in_output", "ignore_eos", "skip_special_tokens", "priority", "cache_salt", "user", "session_id",
    "stream_interval", "stream_options",
})  # fmt: skip
# What is counted on from the cut, or looked at below.
_COUNTED: Final = frozenset({
    "max_tokens", "max_completion_tokens", "min_tokens", "stream", "return_token_ids", "seed", "logprobs",
})  # fmt: skip
# Of no meaning to an engine, or of this one request.
_IDLE: Final = frozenset({"request_id", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})
# What changes nothing at null and at these values. (1 == True and 0 == False, which is as vLLM reads.)
_NEUTRAL: Final[dict[str, tuple[object, ...]]] = {
    "n": (1,), "best_of": (1,), "top_logprobs": (0,), "prompt_logprobs": (), "echo": (False,), "suffix": (),
    "frequency_penalty": (0,), "presence_penalty": (0,), "repetition_penalty": (1,), "length_penalty": (1,),
    "use_beam_search": (False,), "bad_words": ([],), "tools": ([],), "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False), "response_format": ({"type": "text"},), "structured_outputs": (),
    "thinking_token_budget": (), "include_reasoning": (True,), "spaces_between_special_tokens": (True,),
    "return_tokens_as_token_ids": (False,),
}  # fmt: skip
_KNOWN: Final = _ASKED | _REPEATED | _COUNTED | _IDLE | _NEUTRAL.keys()
_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a request that can be continued asks for.

    Attributes:
        chat: whether its answer is told in chunks of a chat; else of a completion.
        greedy: whether the same tokens are always followed by the same.
        limit: tokens of the answer; None: as many as fit.
        least: tokens before the answer may end.
        overlap: characters that a stop string may reach back over a cut: the longest has one more.
        stop_shown: whether stop strings are told too. Else an engine keeps `overlap` characters back as it goes.
        usage: whether the stream is to end with its usage.
        ids_wanted: whether the client itself asks for token ids.
        repeated: fields of the request that the continuation has as well.
    """

    chat: bool
    greedy: bool
    limit: int | None
    least: int
    overlap: int
    stop_shown: bool
    usage: bool
    ids_wanted: bool
    repeated: dict[str, Any]

    @property
    def held(self) -> int:
        """Characters that an engine knows and has not told, while it goes on."""
        return 0 if self.stop_shown else self.overlap


def terms_of(path: str, body: bytes) -> Terms | None:
    """Return on what terms an answer can be continued; None where it cannot, or the body is not understood."""
    chat = path == CHAT
    if (not chat and path != COMPLETIONS) or len(body) > BODY_BYTES:
        return None
    try:
        fields = _decoder.decode(body)
        if not fields.keys() <= _KNOWN or not _asks_one(fields, chat=chat):
            return None
        said = {name: msgspec.json.decode(raw) for name, raw in fields.items() if name not in _ASKED}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    for name, value in said.items():
        if name in _NEUTRAL and value is not None and value not in _NEUTRAL[name]:
            return None
    # What a completion is to tell of probabilities (0 asks for some), its continuation would count anew.
    if said.get("stream") is not True or (said.get("logprobs") if chat else said.get("logprobs") is not None):
        return None
    wanted = said.get("return_token_ids")
    if wanted is not None and wanted is not True:
        return None  # it will tell none
    return _terms({name: value for name, value in said.items() if value is not None}, chat=chat)


def _asks_one(fields: dict[str, msgspec.Raw], *, chat: bool) -> bool:
    """Whether there is a chat, or one text or one list of tokens to complete."""
    if chat:
        return "messages" in fields and "prompt" not in fields
    prompt = bytes(memoryview(fields.get("prompt", b""))[:_LOOKED_AT])
    return prompt.startswith(b'"') or _IDS.match(prompt) is not None


def _terms(said: dict[str, Any], *, chat: bool) -> Terms | None:
    """Return the terms, of fields that are not null; None where a value is none that is understood."""
    temperature = said.get("temperature", 1)
    greedy = _is_number(temperature) and temperature < GREEDY_BELOW
    stops = _stops(said.get("stop", []))
    limit = said.get("max_tokens", None if chat else COMPLETION_DEFAULT)
    if chat:
        limit = said.get("max_completion_tokens", limit)
    least = said.get("min_tokens", 0)
    shown = said.get("include_stop_str_in_output", False)
    options = said.get("stream_options", {})
    understood = (
        _is_number(temperature)
        and (limit is None or (_is_count(limit) and limit > 0))
        and _is_count(least)
        and isinstance(shown, bool)
        and isinstance(options, dict)
    )
    if not understood or stops is None:
        return None
    overlap = max((len(each) for each in stops), default=1) - 1
    # What luck chose cannot be said a second time: not where stop strings keep text back, nor from a seed.
    if not greedy and (overlap or "seed" in said):
        return None
    return Terms(
        chat=chat,
        greedy=greedy,
        limit=limit,
        least=least,
        overlap=overlap,
        stop_shown=shown,
        usage=bool(cast("dict[str, Any]", options).get("include_usage")),
        ids_wanted=said.get("return_token_ids") is True,
        repeated={name: value for name, value in said.items() if name in _REPEATED},
    )


def asking_for_ids(body: bytes, terms: Terms) -> bytes:
    """Return the body of a request with which its engine tells its token ids, nothing else of it touched."""
    if terms.ids_wanted:
        return body
    at = body.find(b"{") + 1  # the object that the body is: only space may stand before it
    return body[:at] + _ASKS + body[at:]


class _Asked(msgspec.Struct):
    messages: object = None


_asked = msgspec.json.Decoder(_Asked)
_MESSAGE: Final = frozenset({
    "role", "content", "name", "tool_calls", "tool_call_id", "reasoning", "reasoning_content", "refusal",
})  # fmt: skip


def text_only(body: bytes) -> bool:
    """Whether a chat is of nothing but text: tokens alone do not bring back a picture.

    Takes as long as reading the body does, and is asked for when an answer breaks off, not before.
    """
    try:
        messages = _asked.decode(body).messages
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return isinstance(messages, list) and all(_is_text(each) for each in cast("list[object]", messages))


def _is_text(message: object) -> bool:
    if not isinstance(message, dict):
        return False
    fields = cast("dict[str, Any]", message)
    content = fields.get("content")
    if not fields.keys() <= _MESSAGE:
        return False
    if content is None or isinstance(content, str):
        return True
    return isinstance(content, list) and all(_is_text_part(each) for each in cast("list[object]", content))


def _is_text_part(part: object) -> bool:
    if isinstance(part, str):
        return True
    if not isinstance(part, dict):
        return False
    fields = cast("dict[str, Any]", part)
    return fields.keys() == {"type", "text"} and fields["type"] == "text"


def _stops(stop: object) -> list[str] | None:
    """Return stop strings; None where they are none, or too long to be watched for."""
    if isinstance(stop, str):
        stop = [stop]
    if not isinstance(stop, list):
        return None
    stops = cast("list[object]", stop)
    texts = [each for each in stops if isinstance(each, str) and 0 < len(each) <= STOP_CHARS]
    return texts if len(texts) == len(stops) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
