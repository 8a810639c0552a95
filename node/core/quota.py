"""How much one requester may ask for: requests and tokens per minute, prompts at once.

Knows neither keys nor prompts. A minute's worth may be spent at once and then refills evenly (a token bucket), as
clients of the large APIs expect. Tokens are known only after the fact, so their bucket may go below zero, and the
next prompt waits until it is above again.
"""

import math
from dataclasses import dataclass
from enum import Enum

from node.core.prompt import Requester

MINUTE = 60.0
FORGET_ABOVE = 4096  # accounts kept; beyond it the idle ones with full buckets, which say nothing, are dropped
CONCURRENCY_RETRY = 1  # seconds: a slot comes free whenever one of the requester's own answers ends


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaLimits:
    """None means without limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None


UNLIMITED = QuotaLimits()


class Exceeding(Enum):
    """What there was too much of."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    CONCURRENT = "concurrent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exceeded:
    """A quota is spent, and in how many whole seconds it is worth asking again."""

    what: Exceeding
    limit: int
    retry_after: int


@dataclass(slots=True, kw_only=True)
class _Account:
    requests: float = 0.0  # spent, refilling towards zero; counting down from the limit would break when it changes
    tokens: float = 0.0
    refilled: float = 0.0
    concurrent: int = 0
    tokens_per_minute: int | None = None  # as they were last time: how fast a debt of tokens is paid


class Quotas:
    """What each requester has spent."""

    def __init__(self) -> None:
        self._accounts: dict[Requester, _Account] = {}

    def __len__(self) -> int:
        return len(self._accounts)

    def take(self, requester: Requester, limits: QuotaLimits, now: float) -> Exceeded | None:
        """Count one more prompt, or say which quota forbids it (then nothing is counted).

        Every prompt that was counted is ended with `give_back`.
        """
        account = self._account(requester, limits, now)
        exceeded = _exceeded(account, limits)
        if exceeded is None:
            account.requests += 1
            account.concurrent += 1
        return exceeded

    def give_back(self, requester: Requester, *, tokens: int = 0) -> None:
        """End a counted prompt that has used `tokens` (prompt and output together)."""
        account = self._accounts.get(requester)
        if account is not None:
            account.concurrent -= 1
            account.tokens += tokens

    def _account(self, requester: Requester, limits: QuotaLimits, now: float) -> _Account:
        account = self._accounts.get(requester)
        if account is None:
            if len(self._accounts) >= FORGET_ABOVE:
                self._forget(now)
            account = self._accounts[requester] = _Account(refilled=now)
        account.tokens_per_minute = limits.tokens_per_minute
        elapsed = max(now - account.refilled, 0.0)
        account.refilled = now
        account.requests = max(account.requests - elapsed * (limits.requests_per_minute or 0) / MINUTE, 0.0)
        account.tokens = max(account.tokens - elapsed * (limits.tokens_per_minute or 0) / MINUTE, 0.0)
        if limits.requests_per_minute is None:
            account.requests = 0.0
        if limits.tokens_per_minute is None:
            account.tokens = 0.0
        return account

    def _forget(self, now: float) -> None:
        """Whoever has been idle for a minute has a full bucket of requests; a debt of tokens is kept till paid."""
        for requester, account in list(self._accounts.items()):
            idle, per_minute = now - account.refilled, account.tokens_per_minute
            paid = per_minute is None or account.tokens <= idle * per_minute / MINUTE
            if not account.concurrent and idle >= MINUTE and paid:
                del self._accounts[requester]


def _exceeded(account: _Account, limits: QuotaLimits) -> Exceeded | None:
    if limits.concurrent is not None and account.concurrent >= limits.concurrent:
        return Exceeded(what=Exceeding.CONCURRENT, limit=limits.concurrent, retry_after=CONCURRENCY_RETRY)
    per_minute = limits.requests_per_minute
    if per_minute is not None and account.requests + 1 > per_minute:
        return Exceeded(
            what=Exceeding.REQUESTS,
            limit=per_minute,
            retry_after=_seconds_until(account.requests + 1 - per_minute, per_minute),
        )
    tokens = limits.tokens_per_minute
    if tokens is not None and account.tokens >= tokens:
        return Exceeded(
            what=Exceeding.TOKENS, limit=tokens, retry_after=_seconds_until(account.tokens - tokens + 1, tokens)
        )
    return None


def _seconds_until(excess: float, per_minute: int) -> int:
    """Whole seconds until `excess` has been refilled; a limit of zero refills never: say a minute."""
    return max(math.ceil(excess * MINUTE / per_minute), 1) if per_minute > 0 else int(MINUTE)
