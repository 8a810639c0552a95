"""A place where OpenAI clients may knock: an engine, a node before it, later a swarm; and clients that are listened to.

Knows what crosses the wire in a session, not what it ought to be.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import anthropic
import httpx2
import openai

from tests.e2e.recorder import Exchange, RecordingTransport

REQUEST_TIMEOUT_S = 60.0  # longest silence of an answer; the first logprobs of a fresh engine compile for 15 s


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Clients that share one connection pool, and what they exchanged, in order."""

    entry: "Entry"
    exchanges: list[Exchange]
    openai: openai.OpenAI
    anthropic: anthropic.Anthropic
    http: httpx2.Client  # its base is the entry's root; it sends the key

    @property
    def model(self) -> str:
        """The name of the model to ask for."""
        return self.entry.model


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Where a server listens, which key opens it and which model it serves."""

    url: str  # the root, without /v1 and without a trailing slash
    model: str
    api_key: str | None = field(default=None, repr=False)

    @contextmanager
    def session(self, *, api_key: str | None = None) -> Iterator[Session]:
        """Open clients that record what they exchange; `api_key` takes the place of the right one."""
        exchanges: list[Exchange] = []
        key = api_key or self.api_key or "none"
        transport = RecordingTransport(httpx2.HTTPTransport(), exchanges.append)
        with httpx2.Client(
            transport=transport,
            base_url=self.url,
            headers={"authorization": f"Bearer {key}"},
            timeout=REQUEST_TIMEOUT_S,
        ) as http:
            yield Session(
                entry=self,
                exchanges=exchanges,
                http=http,
                openai=openai.OpenAI(
                    base_url=f"{self.url}/v1",
                    api_key=key,
                    max_retries=0,
                    http_client=httpx2.Client(transport=transport, timeout=REQUEST_TIMEOUT_S),
                ),
                # `auth_token` is sent as a bearer key, the only kind that vLLM knows.
                anthropic=anthropic.Anthropic(
                    base_url=self.url,
                    auth_token=key,
                    max_retries=0,
                    http_client=httpx2.Client(transport=transport, timeout=REQUEST_TIMEOUT_S),
                ),
            )
