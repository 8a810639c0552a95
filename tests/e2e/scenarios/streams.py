"""Scenarios of streamed answers of `/v1/chat/completions` and `/v1/completions`."""

from collections.abc import Iterable

from tests.e2e.entry import Session
from tests.e2e.scenarios.scenario import ANSWER_SCHEMA, HELLO, LONG_ENOUGH, SEEDED, TOOLS, UNICODE, refused, scenarios


def stream(session: Session, *, extra: dict[str, object] | None = None, **fields: object) -> list[str]:
    """Stream a chat answer through the client; return the text of each choice."""
    fields = {"model": session.model, "messages": HELLO, **SEEDED, "stream": True, **fields}
    chunks = list(session.openai.chat.completions.create(**fields, extra_body=extra))  # pyright: ignore[reportCallIssue, reportArgumentType] -- fields are data here
    assert len(chunks) > 2, "it came in one piece"
    return list(_texts((choice.index, choice.delta.content) for chunk in chunks for choice in chunk.choices))


def _texts(pieces: Iterable[tuple[int, str | None]]) -> Iterable[str]:
    """Add up what each choice said. Choices take turns as the engine's scheduling falls."""
    texts: dict[int, str] = {}
    for index, piece in pieces:
        texts[index] = texts.get(index, "") + (piece or "")
    return (texts[index] for index in sorted(texts))


def chat(session: Session) -> object:
    """A streamed chat answer."""
    return stream(session)


def chat_without_sampling(session: Session) -> object:
    """A streamed chat answer at temperature 0."""
    return stream(session, temperature=0)


def chat_of_unicode(session: Session) -> object:
    """A streamed answer to text beyond ASCII, long enough to tear characters."""
    return stream(session, messages=[{"role": "user", "content": UNICODE}], max_tokens=60)


def chat_with_usage(session: Session) -> object:
    """Usage in a last chunk, and in every chunk."""
    at_the_end = stream(session, stream_options={"include_usage": True})
    options = {"include_usage": True, "continuous_usage_stats": True}
    return [at_the_end, stream(session, extra={"stream_options": options})]


def chat_with_logprobs(session: Session) -> object:
    """Streamed log-probabilities."""
    return stream(session, logprobs=True, top_logprobs=2)


def chat_with_token_ids(session: Session) -> object:
    """Streamed token ids, those of the prompt first."""
    return stream(session, extra={"return_token_ids": True})


def chat_with_several_choices(session: Session) -> object:
    """Several choices in one stream."""
    return stream(session, n=2)


def chat_with_a_stop_string(session: Session) -> object:
    """A stop string across the pieces of a stream."""
    said = stream(session, max_tokens=30)[0]
    middle = len(said) // 2
    return stream(session, max_tokens=30, stop=[said[middle : middle + 6]])


def chat_with_a_required_tool(session: Session) -> object:
    """A tool call in pieces."""
    return stream(session, tools=TOOLS, tool_choice="required", max_tokens=LONG_ENOUGH)


def chat_within_a_schema(session: Session) -> object:
    """Streamed JSON within a schema."""
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": ANSWER_SCHEMA, "strict": True}}
    return stream(session, response_format=form, max_tokens=LONG_ENOUGH)


def refused_before_the_stream(session: Session) -> object:
    """A stream that is refused with a plain status and body."""
    return refused(lambda: stream(session, temperature=-1), status=400)


def completion(session: Session) -> object:
    """A streamed completion with usage, echo and log-probabilities."""
    chunks = session.openai.completions.create(
        model=session.model,
        prompt="Once upon a time",
        stream=True,
        stream_options={"include_usage": True},
        echo=True,
        logprobs=2,
        max_tokens=12,
        temperature=1.0,
        seed=7,
    )
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert text.startswith("Once upon a time")
    return text


def completion_of_several_prompts(session: Session) -> object:
    """Two prompts as token ids, streamed side by side."""
    chunks = session.openai.completions.create(
        model=session.model,
        prompt=[[300, 301, 302], [400, 401]],
        stream=True,
        max_tokens=6,
        temperature=1.0,
        seed=7,
        extra_body={"return_token_ids": True},
    )
    texts = list(_texts((choice.index, choice.text) for chunk in chunks for choice in chunk.choices))
    assert len(texts) == 2
    return texts


SCENARIOS = scenarios(
    "stream",
    chat,
    chat_without_sampling,
    chat_of_unicode,
    chat_with_usage,
    chat_with_logprobs,
    chat_with_token_ids,
    chat_with_several_choices,
    chat_with_a_stop_string,
    chat_with_a_required_tool,
    chat_within_a_schema,
    refused_before_the_stream,
    completion,
    completion_of_several_prompts,
)
