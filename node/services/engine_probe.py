"""Asking an OpenAI server whether it is well: health, the models it serves, one generated token.

Knows the few endpoints and how servers other than vLLM differ on them; knows no process and keeps no state.
Every question has a deadline and a bound on its answer, because the server may be somebody else's.
"""

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any

import trio

from node.core.answer_check import (
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    PROMPT,
    TOKENS,
    TOP,
    FirstTokens,
    first_tokens,
    wrong_shape,
)
from node.core.engine_state import ServedModel
from node.errors import Broken
from node.ports import Endpoint, Upstream

ANSWER_LIMIT = 1 << 20  # bytes read of any answer; a list of a thousand models has some 200 KiB
MODELS = 1000  # models of one server that are looked at
JSON_HEADERS = ((b"content-type", b"application/json"), (b"accept", b"application/json"))
MISSING = (404, 405, 501)  # what servers say of an endpoint that they do not have
REFUSING = (401, 403)

# One token by the first of these that the server has: vLLM has all, chat-only servers the second, and one that
# serves an embedding model the third.
QUESTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    (COMPLETIONS, {"prompt": "1 2 3", "max_tokens": 1, "temperature": 0}),
    (CHAT, {"messages": [{"role": "user", "content": "1 2 3"}], "max_tokens": 1}),
    (EMBEDDINGS, {"input": "1 2 3"}),
)
COMPARISON = {"prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0, "logprobs": TOP}


class Verdict(Enum):
    """What an answer means."""

    GOOD = "good"
    SILENT = "silent"  # no answer in time: it may be busy
    DOWN = "down"  # nobody listens, or it says itself that it is broken
    REFUSED = "refused"  # it does not take our key
    MISSING = "missing"  # it has no such endpoint or model
    WRONG = "wrong"  # it says that all is well, and what it says is no answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """An answer's meaning, and what was said, for a person."""

    verdict: Verdict
    words: str
    body: bytes = b""

    @property
    def good(self) -> bool:
        """Whether all is well."""
        return self.verdict is Verdict.GOOD


class EngineProbe:
    """Questions to one server."""

    def __init__(self, upstream: Upstream, endpoint: Endpoint, *, patience: float) -> None:
        self._upstream = upstream
        self._endpoint = endpoint
        self._patience = patience

    async def health(self) -> Finding:
        """Ask /health; a server without one is well if it can list its models."""
        finding = await self._ask("GET", "/health", patience=self._patience)
        if finding.verdict in (Verdict.MISSING, Verdict.REFUSED):
            finding = await self._ask("GET", "/v1/models", patience=self._patience)
        return finding

    async def models(self) -> tuple[Finding, tuple[ServedModel, ...]]:
        """Return the models that the server lists."""
        finding = await self._ask("GET", "/v1/models", patience=self._patience)
        return finding, _models_in(finding.body) if finding.good else ()

    async def token(self, model: str, *, patience: float, strict: bool) -> Finding:
        """Have one token generated, or one text embedded: the proof that the engine behind the server works.

        `strict`: the answer must have vLLM's shape too, `usage` included, which not every server of others tells.
        """
        finding = Finding(verdict=Verdict.MISSING, words="it generates nothing")
        for target, question in QUESTIONS:
            body = json.dumps({"model": model, **question}).encode()
            finding = await self._ask("POST", target, body=body, patience=patience)
            if strict and finding.good and (wrong := wrong_shape(target, finding.body)):
                finding = Finding(verdict=Verdict.WRONG, words=wrong)
            if finding.verdict is not Verdict.MISSING:
                break
        return finding

    async def first_tokens(self, model: str, *, patience: float) -> FirstTokens | Finding:
        """Have the same few tokens generated as every engine of the model is asked for; else say why there are none."""
        body = json.dumps({"model": model, **COMPARISON}).encode()
        finding = await self._ask("POST", COMPLETIONS, body=body, patience=patience)
        if not finding.good:
            return finding
        if (tokens := first_tokens(finding.body)) is None:
            return Finding(verdict=Verdict.MISSING, words=f"{COMPLETIONS} tells no alternatives to its tokens")
        return tokens

    async def _ask(self, method: str, target: str, *, body: bytes = b"", patience: float) -> Finding:
        with trio.move_on_after(patience):
            try:
                async with self._upstream.send(
                    self._endpoint, method=method, target=target, headers=JSON_HEADERS, body=body
                ) as answer:
                    received = b""
                    while (part := await answer.receive()) and len(received) < ANSWER_LIMIT:
                        received += part
                    return _judge(target, answer.status, received)
            except Broken as error:
                return Finding(verdict=Verdict.DOWN, words=f"{target}: {error.message}")
        return Finding(verdict=Verdict.SILENT, words=f"{target} did not answer within {patience:g} s")


def _judge(target: str, status: int, body: bytes) -> Finding:
    words = f"{target} answers {status}"
    if status < 300:
        return Finding(verdict=Verdict.GOOD, words=words, body=body)
    if status in REFUSING:
        return Finding(verdict=Verdict.REFUSED, words=f"{words}: it does not accept the key")
    # 400 too: "this model does not support the Completions API" is how vLLM says it of an embedding model.
    if status in MISSING or status == 400:
        return Finding(verdict=Verdict.MISSING, words=words)
    return Finding(verdict=Verdict.DOWN, words=words)


def _models_in(body: bytes) -> tuple[ServedModel, ...]:
    try:
        listed: Any = json.loads(body)["data"]
        return tuple(ServedModel(str(model["id"]), _length(model.get("max_model_len"))) for model in listed[:MODELS])
    except (ValueError, KeyError, TypeError, AttributeError):
        return ()


def _length(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None
