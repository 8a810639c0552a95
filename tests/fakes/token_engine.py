"""vLLM's streams for tests that go on with an answer: its events byte for byte, its ids, and how it tells text.

A model that says what a test scripts, token by token: from `prompt ids + n tokens` it goes on with token n + 1,
whoever generated the first n. What matters of the engine is imitated from its source (v1/engine/detokenizer.py and
entrypoints/openai/*/serving.py of 0.32): text that ends in half a character is kept back; a prompt that ends in one is
told as text; with stop strings the text lags behind the ids; `null` stands where ids are not asked for.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

EOS = 2
PROMPT = (b"<|im_start|>user\n", b"Say ", b"it", b" well", b", please.", b"<|im_end|>\n", b"<|im_start|>assistant\n")
FIRST = 100  # id of the first token of the prompt; the answer's follow


def tokens_of(text: str, *, width: int = 3) -> list[bytes]:
    """Cut a text into tokens of so many bytes, through the middle of characters too."""
    raw = text.encode()
    return [raw[at : at + width] for at in range(0, len(raw), width)]


@dataclass
class TokenEngine:
    """One engine.

    Attributes:
        script: the answer's tokens; then the end token comes.
        together: how many tokens are told in one event, in turn.
        words: that there are, where other engines say others: each of the script among them.
        tells_ids: whether it knows what ids are.
        context: tokens of prompt and answer together.
    """

    script: Sequence[bytes]
    together: Sequence[int] = (1,)
    words: Sequence[bytes] = ()
    tells_ids: bool = True
    context: int = 1000
    cached: int | None = None
    name: str = "engine"
    asked: list[dict[str, Any]] = field(default_factory=list)

    @property
    def prompt_ids(self) -> list[int]:
        return list(range(FIRST, FIRST + len(PROMPT)))

    def id_of(self, number: int) -> int:
        """Return the id of the answer's token of that number; equal tokens have one id."""
        return FIRST + len(PROMPT) + (self.words or self.script).index(self.script[number])

    def text(self, ids: Sequence[int]) -> str:
        words = (*PROMPT, *(self.words or self.script))
        return b"".join(words[each - FIRST] for each in ids if each != EOS).decode(errors="replace")

    def events(self, target: str, body: bytes) -> list[bytes]:
        """Return the stream that answers a request."""
        asked = json.loads(body)
        self.asked.append(asked)
        return list(self._events(asked, chat=target == "/v1/chat/completions"))

    def _events(self, asked: dict[str, Any], *, chat: bool) -> Iterator[bytes]:
        ids = bool(asked.get("return_token_ids")) and self.tells_ids
        given = asked["prompt"] if isinstance(asked.get("prompt"), list) else self.prompt_ids
        if given[: len(PROMPT)] != self.prompt_ids or len(given) >= self.context:
            yield event({"error": {"message": "no such prompt", "type": "BadRequestError", "code": 400}})
            return
        frame = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{self.name}",
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": 1000 + len(self.asked),
            "model": self.name,
        }
        yield from self._chunks(asked, given, frame, chat=chat, ids=ids)
        yield b"data: [DONE]\n\n"

    def _chunks(
        self, asked: dict[str, Any], given: list[int], frame: dict[str, Any], *, chat: bool, ids: bool
    ) -> Iterator[bytes]:
        options = asked.get("stream_options") or {}
        always = bool(options.get("continuous_usage_stats"))
        count = 0
        if chat:
            said = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
            first = {**frame, "choices": [said], "prompt_token_ids": given if ids else None, "prompt_text": None}
            yield event(first | ({"usage": usage(len(given), 0)} if always else {}))
        for number, (text, new, finish, stop) in enumerate(self._told(asked, given, chat=chat)):
            count += len(new)
            told = new if ids else None
            prompt = given if ids and not number else None
            one = _chat(text, finish, stop, told) if chat else _completion(text, finish, stop, told, prompt)
            yield event({**frame, "choices": [one]} | ({"usage": usage(len(given), count)} if always else {}))
        if options.get("include_usage"):
            whole = usage(len(given), count)
            if self.cached is not None:
                whole["prompt_tokens_details"] = {"cached_tokens": min(self.cached, len(given))}
            yield event({**frame, "choices": [], "usage": whole})

    def _told(
        self, asked: dict[str, Any], given: list[int], *, chat: bool
    ) -> Iterator[tuple[str, list[int], str | None, str | None]]:
        """Yield text, ids, finish reason and stop reason of each event."""
        text, new = "", []
        events = 0
        for more, one, finish, stop in self._steps(asked, given, chat=chat):
            text += more
            new += one
            if finish or len(new) >= self.together[events % len(self.together)]:
                yield text, new, finish, stop
                text, new = "", []
                events += 1

    def _steps(
        self, asked: dict[str, Any], given: list[int], *, chat: bool
    ) -> Iterator[tuple[str, list[int], str | None, str | None]]:
        limit = asked.get("max_completion_tokens") or asked.get("max_tokens") or (None if chat else 16)
        longest = self.context - len(given)
        limit = longest if limit is None else min(limit, longest)
        stops = asked.get("stop") or []
        stops = [stops] if isinstance(stops, str) else stops
        shown = bool(asked.get("include_stop_str_in_output"))
        held = max((len(each) for each in stops), default=1) - 1 if not shown else 0
        known = self.text(given)
        ids, text, told = list(given), "", 0
        known = "" if known.endswith("\ufffd") else known  # all of it will be told with the first text
        for number in range(1, limit + 1):
            at = len(ids) - len(PROMPT)
            if at >= len(self.script):
                yield text[told:], [EOS], "stop", None
                return
            ids.append(self.id_of(at))
            whole = self.text(ids)
            before = len(text)
            if len(whole) > len(known) and not whole.endswith("\ufffd"):
                text += whole[len(known) :]
                known = whole
            stop = None
            if number > asked.get("min_tokens", 0):
                stop, text = stopped(text, len(text) - before, stops, shown=shown)
            ends = "stop" if stop is not None else "length" if number == limit else None
            upto = len(text) if ends else max(len(text) - held, told)
            yield text[told:upto], ids[-1:], ends, stop
            told = upto
            if ends:
                return


def _chat(text: str, finish: str | None, stop: str | None, ids: list[int] | None) -> dict[str, Any]:
    ended = {"stop_reason": stop} if finish else {}
    one = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": finish, **ended}
    return {**one, "token_ids": ids}


def _completion(
    text: str, finish: str | None, stop: str | None, ids: list[int] | None, prompt: list[int] | None
) -> dict[str, Any]:
    one = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish, "stop_reason": stop}
    return {**one, "prompt_token_ids": prompt, "token_ids": ids}


def stopped(text: str, new: int, stops: Sequence[str], *, shown: bool) -> tuple[str | None, str]:
    """Return the stop string that ends earliest in a text with so many new characters, and the text without it."""
    found: list[tuple[int, str, int]] = []
    for each in stops:
        at = text.find(each, max(len(text) - new - len(each) + 1, 0))
        if new and at >= 0:
            found.append((at + len(each), each, at))
    if not found:
        return None, text
    end, which, at = min(found, key=lambda one: one[0])
    return which, text[: end if shown else at]


def usage(prompt: int, answer: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + answer, "completion_tokens": answer}


def event(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


@dataclass(frozen=True)
class Heard:
    """What a client makes of a stream.

    Attributes:
        heads: who it says that it is, each once: id, kind, time and model.
        ids: of tokens, as far as it tells any.
        announced: what events told of being continuations.
    """

    text: str
    heads: frozenset[tuple[object, ...]]
    roles: int
    finishes: tuple[str, ...]
    usages: tuple[str, ...]
    ids: tuple[int, ...]
    ends: int
    announced: tuple[int, ...]
    errors: int


def heard(stream: bytes) -> Heard:
    """Read a stream as a client does; fails where a part of it is no event, or an event no JSON."""
    assert not stream or stream.endswith(b"\n\n"), stream[-80:]
    text, roles, ends, errors = "", 0, 0, 0
    heads: set[tuple[object, ...]] = set()
    finishes: list[str] = []
    usages: list[str] = []
    ids: list[int] = []
    announced: list[int] = []
    for one in stream.split(b"\n\n")[:-1]:
        if one.startswith(b":"):
            continue
        assert one.startswith(b"data: "), one
        assert not ends, one
        if one == b"data: [DONE]":
            ends += 1
            continue
        whole = json.loads(one[6:])
        if "error" in whole:
            errors += 1
            continue
        announced += [whole["metainf"]["resumed"]] if "metainf" in whole else []
        heads.add(tuple(whole[name] for name in ("id", "object", "created", "model")))
        if not whole["choices"]:
            usages.append(json.dumps(whole["usage"], sort_keys=True))
            continue
        choice = whole["choices"][0]
        delta = choice.get("delta")
        roles += bool(delta and delta.get("role"))
        said = choice.get("text") if delta is None else delta.get("content")
        text += said or ""
        finishes += [choice["finish_reason"]] if choice["finish_reason"] else []
        ids += choice.get("token_ids") or []
    return Heard(
        text=text,
        heads=frozenset(heads),
        roles=roles,
        finishes=tuple(finishes),
        usages=tuple(usages),
        ids=tuple(ids),
        ends=ends,
        announced=tuple(announced),
        errors=errors,
    )
