"""Scenarios of `/v1/chat/completions`, answered whole."""

from dataclasses import dataclass

from tests.e2e.entry import Session
from tests.e2e.scenarios.scenario import GREEDY, HELLO, LONG_ENOUGH, SEEDED, TOOLS, UNICODE, refused, scenarios


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a program sees of an answer, choice by choice."""

    contents: list[str]
    finish: list[str]
    calls: list[int]  # tool calls in each choice
    tokens: int
    fingerprint: str | None


def ask(session: Session, *, extra: dict[str, object] | None = None, **fields: object) -> Answer:
    """Ask the chat endpoint through the client."""
    fields = {"model": session.model, "messages": HELLO, **SEEDED, **fields}
    answer = session.openai.chat.completions.create(**fields, extra_body=extra)  # pyright: ignore[reportCallIssue, reportArgumentType] -- fields are data here
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
    return Answer(
        contents=[choice.message.content or "" for choice in answer.choices],
        finish=[choice.finish_reason for choice in answer.choices],
        calls=[len(choice.message.tool_calls or ()) for choice in answer.choices],
        tokens=answer.usage.completion_tokens,
        fingerprint=answer.system_fingerprint,
    )


def greedy(session: Session) -> object:
    """The most probable answer (temperature 0)."""
    answer = ask(session, **GREEDY)
    assert answer.tokens == GREEDY["max_tokens"]
    return answer


def sampled_with_a_seed(session: Session) -> object:
    """Sampling that a seed makes repeatable."""
    return ask(session)


def a_conversation(session: Session) -> object:
    """System, user and assistant turns; content in parts."""
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi."}, {"type": "text", "text": "Again: hi."}]},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "And now?"},
    ]
    return ask(session, messages=turns)


def unicode(session: Session) -> object:
    """Text beyond ASCII, joined emoji, combining marks and a NUL."""
    return ask(session, messages=[{"role": "user", "content": UNICODE}])


def with_stop_strings(session: Session) -> object:
    """Stop strings, cut off or included."""
    said = ask(session).contents[0]
    stop = [said[5:8], "never said"]
    cut = ask(session, stop=stop)
    assert cut.finish == ["stop"]
    return [cut, ask(session, stop=stop, extra={"include_stop_str_in_output": True})]


def with_stop_tokens(session: Session) -> object:
    """Stop token ids."""
    return ask(session, extra={"stop_token_ids": list(range(2000))})


def max_completion_tokens(session: Session) -> object:
    """The newer name of `max_tokens`."""
    return ask(session, max_tokens=None, max_completion_tokens=3)


def several_choices(session: Session) -> object:
    """`n` answers to one prompt."""
    answer = ask(session, n=3)
    assert len(answer.contents) == 3
    return answer


def logprobs(session: Session) -> object:
    """Log-probabilities of the answer's tokens and of their rivals."""
    return ask(session, logprobs=True, top_logprobs=4)


def prompt_logprobs(session: Session) -> object:
    """Log-probabilities of the prompt."""
    return ask(session, extra={"prompt_logprobs": 2})


def token_ids(session: Session) -> object:
    """Token ids of prompt and answer."""
    return ask(session, extra={"return_token_ids": True})


def sampling_fields_of_vllm(session: Session) -> object:
    """Fields that only vLLM knows: top_k, min_p, repetition_penalty, ignore_eos, min_tokens, ..."""
    fields = {"top_k": 20, "min_p": 0.001, "repetition_penalty": 1.2, "ignore_eos": True, "min_tokens": 4}
    return ask(session, extra={**fields, "skip_special_tokens": False, "spaces_between_special_tokens": False})


def narrowed_vocabulary(session: Session) -> object:
    """Allowed token ids, banned words, a bias on tokens."""
    narrow = ask(session, extra={"allowed_token_ids": [400, 401, 402]})
    return [narrow, ask(session, extra={"bad_words": ["the"]}), ask(session, logit_bias={"500": 100})]


def penalties(session: Session) -> object:
    """Presence and frequency penalties, top_p."""
    return ask(session, presence_penalty=0.5, frequency_penalty=0.5, top_p=0.9)


def unknown_fields(session: Session) -> object:
    """Fields that no server knows, and those for book-keeping: they change nothing."""
    return ask(session, user="somebody", metadata={"a": "b"}, extra={"x_of_tomorrow": {"deep": [1, 2.5, None]}})


def unfinished_turn(session: Session) -> object:
    """Going on with the assistant's own words."""
    turns = [*HELLO, {"role": "assistant", "content": "I am"}]
    return ask(session, messages=turns, extra={"continue_final_message": True, "add_generation_prompt": False})


def a_required_tool(session: Session) -> object:
    """A tool call that must be made."""
    answer = ask(session, tools=TOOLS, tool_choice="required", max_tokens=LONG_ENOUGH)
    assert answer.calls != [0]
    return answer


def a_named_tool(session: Session) -> object:
    """A tool call by name."""
    choice = {"type": "function", "function": {"name": "paint"}}
    answer = ask(session, tools=TOOLS, tool_choice=choice, max_tokens=LONG_ENOUGH)
    assert answer.calls == [1]
    return answer


def tools_at_will(session: Session) -> object:
    """Tools that the model may leave alone."""
    return ask(session, tools=TOOLS)


def several_greedy_choices(session: Session) -> object:
    """`n` answers without sampling: the engine refuses."""
    return refused(lambda: ask(session, temperature=0, n=2), status=400)


SCENARIOS = scenarios(
    "chat",
    greedy,
    sampled_with_a_seed,
    a_conversation,
    unicode,
    with_stop_strings,
    with_stop_tokens,
    max_completion_tokens,
    several_choices,
    logprobs,
    prompt_logprobs,
    token_ids,
    sampling_fields_of_vllm,
    narrowed_vocabulary,
    penalties,
    unknown_fields,
    unfinished_turn,
    a_required_tool,
    a_named_tool,
    tools_at_will,
    several_greedy_choices,
)
