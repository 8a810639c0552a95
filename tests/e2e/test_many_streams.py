"""Many streams at once from a real engine through the node: each complete, each in its order."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import openai
import pytest

from tests.e2e.children import eventually
from tests.e2e.engine import Engine
from tests.e2e.entry import REQUEST_TIMEOUT_S, Entry

pytestmark = [pytest.mark.slow, pytest.mark.engine]

STREAMS = 64
TOKENS = 48
QUIET_WITHIN_S = 10.0  # after the last stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a stream told, chunk by chunk."""

    counts: list[int]  # tokens so far, by the usage that rides on every chunk
    finish: list[str]
    ids: list[int]


def stream(entry: Entry, number: int) -> Told:
    with openai.OpenAI(
        base_url=f"{entry.url}/v1", api_key=entry.api_key, max_retries=0, timeout=REQUEST_TIMEOUT_S
    ) as client:
        chunks = list(
            client.completions.create(
                model=entry.model,
                prompt=f"Story number {number}:",
                max_tokens=TOKENS,
                temperature=1.0,
                seed=number,
                stream=True,
                extra_body={
                    "ignore_eos": True,
                    "return_token_ids": True,
                    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
                },
            )
        )
    choices = [choice for chunk in chunks for choice in chunk.choices]
    return Told(
        counts=[chunk.usage.completion_tokens for chunk in chunks if chunk.choices and chunk.usage],
        finish=[choice.finish_reason for choice in choices if choice.finish_reason],
        ids=[token for choice in choices for token in (choice.model_extra or {})["token_ids"]],
    )


def test_64_concurrent_streams_of_a_real_engine_complete_in_order(engine: Engine, entry: Entry) -> None:
    with ThreadPoolExecutor(max_workers=STREAMS) as pool:
        told = list(pool.map(lambda number: stream(entry, number), range(STREAMS)))
    for one in told:
        assert one.finish == ["length"]
        assert len(one.ids) == TOKENS
        assert one.counts == sorted(set(one.counts)), "chunks came doubled or out of order"
        assert one.counts[-1] == TOKENS
    assert len({tuple(one.ids) for one in told}) == STREAMS, "streams were given each other's tokens"
    eventually(lambda: engine.running_requests() == 0, within=QUIET_WITHIN_S, what="a quiet engine")
