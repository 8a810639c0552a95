"""Scenarios of `/v1/responses`."""

from tests.e2e.entry import Session
from tests.e2e.scenarios.scenario import refused, scenarios


def create(session: Session) -> object:
    """An answer whole."""
    answer = session.openai.responses.create(
        model=session.model, input="Hello", instructions="Be brief.", max_output_tokens=8, temperature=0
    )
    assert answer.output_text
    return answer.output_text


def create_from_items(session: Session) -> object:
    """Input as a list of turns."""
    turns = [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}]
    answer = session.openai.responses.create(
        model=session.model,
        input=turns,  # pyright: ignore[reportArgumentType] -- data in the form of the API
        max_output_tokens=8,
        temperature=0,
    )
    return answer.output_text


def stream(session: Session) -> object:
    """An answer in events."""
    events = session.openai.responses.create(
        model=session.model, input="Hello", max_output_tokens=8, temperature=0, stream=True
    )
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created"
    assert "response.output_text.delta" in kinds
    return sorted(set(kinds))


def stored(session: Session) -> object:
    """A stored answer, read again by its id and gone on from."""
    first = session.openai.responses.create(
        model=session.model, input="Hello", max_output_tokens=4, temperature=0, store=True
    )
    again = session.openai.responses.retrieve(first.id)
    assert again.output_text == first.output_text
    following = session.openai.responses.create(
        model=session.model, input="And?", previous_response_id=first.id, max_output_tokens=4, temperature=0
    )
    return following.status


def cancelled(session: Session) -> object:
    """A background answer, cancelled, and what its id says afterwards."""
    running = session.openai.responses.create(
        model=session.model,
        input="Hello",
        max_output_tokens=1500,
        background=True,
        store=True,
        extra_body={"ignore_eos": True},
    )
    cancel = session.openai.responses.cancel(running.id)
    return cancel.status


def unknown(session: Session) -> object:
    """An id that nobody stored."""
    return refused(lambda: session.openai.responses.retrieve("resp_0123456789abcdef"), status=404)


def unknown_cancelled(session: Session) -> object:
    """Cancelling an id that nobody stored."""
    return refused(lambda: session.openai.responses.cancel("resp_0123456789abcdef"), status=404)


def of_an_unknown_model(session: Session) -> object:
    """A model that is not served."""
    return refused(lambda: session.openai.responses.create(model="nobody", input="Hello"), status=404)


SCENARIOS = scenarios(
    "responses",
    create,
    create_from_items,
    stream,
    stored,
    cancelled,
    unknown,
    unknown_cancelled,
    of_an_unknown_model,
)
