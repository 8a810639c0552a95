"""Scenarios of `/v1/messages`, with Anthropic's client."""

import anthropic
import pytest

from tests.e2e.entry import Session
from tests.e2e.scenarios.scenario import scenarios

GREEDY = {"temperature": 0}  # a field that this client has no parameter for
HELLO: list[anthropic.types.MessageParam] = [{"role": "user", "content": "Hello"}]


def create(session: Session) -> object:
    """An answer whole."""
    answer = session.anthropic.messages.create(
        model=session.model, messages=HELLO, system="Be brief.", max_tokens=8, extra_body=GREEDY
    )
    assert answer.usage.output_tokens == 8
    return [block.model_dump() for block in answer.content]


def stream(session: Session) -> object:
    """An answer in events."""
    with session.anthropic.messages.stream(
        model=session.model, messages=HELLO, max_tokens=8, extra_body=GREEDY
    ) as events:
        text = "".join(events.text_stream)
    assert text
    return text


def stop_sequence(session: Session) -> object:
    """A stop sequence."""
    answer = session.anthropic.messages.create(
        model=session.model, messages=HELLO, max_tokens=40, extra_body=GREEDY, stop_sequences=["a", "e", "i", "o"]
    )
    return [answer.stop_reason, answer.stop_sequence]


def count_tokens(session: Session) -> object:
    """The number of a prompt's tokens."""
    count = session.anthropic.messages.count_tokens(model=session.model, messages=HELLO).input_tokens
    assert count > 0
    return count


def of_an_unknown_model(session: Session) -> object:
    """A model that is not served, refused in Anthropic's words."""
    with pytest.raises(anthropic.NotFoundError) as caught:
        session.anthropic.messages.create(model="nobody", messages=HELLO, max_tokens=8)
    return str(caught.value)


def malformed(session: Session) -> object:
    """A body without messages."""
    return session.http.post("/v1/messages", json={"model": session.model, "max_tokens": 8}).status_code


SCENARIOS = scenarios("messages", create, stream, stop_sequence, count_tokens, of_an_unknown_model, malformed)
