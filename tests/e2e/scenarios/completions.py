"""Scenarios of `/v1/completions`, answered whole."""

from tests.e2e.entry import Session
from tests.e2e.scenarios.scenario import refused, scenarios


def complete(session: Session, *, extra: dict[str, object] | None = None, **fields: object) -> list[str]:
    """Ask the completions endpoint through the client; return the texts."""
    sampling = {"temperature": 1.0, "seed": 7, "max_tokens": 10}
    fields = {"model": session.model, "prompt": "Once upon a time", **sampling, **fields}
    answer = session.openai.completions.create(**fields, extra_body=extra)  # pyright: ignore[reportCallIssue, reportArgumentType] -- fields are data here
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
    return [choice.text for choice in answer.choices]


def text(session: Session) -> object:
    """A prompt as text."""
    return complete(session)


def greedy(session: Session) -> object:
    """A prompt as text, temperature 0."""
    return complete(session, temperature=0)


def several_prompts(session: Session) -> object:
    """A list of prompts."""
    texts = complete(session, prompt=["One", "Two", "Three"])
    assert len(texts) == 3
    return texts


def prompt_ids(session: Session) -> object:
    """A prompt as token ids, ids back."""
    return complete(session, prompt=[300, 301, 302, 303], extra={"return_token_ids": True})


def lists_of_prompt_ids(session: Session) -> object:
    """Several prompts as token ids."""
    return complete(session, prompt=[[300, 301], [302]], extra={"return_token_ids": True})


def echo(session: Session) -> object:
    """The prompt said again before the answer."""
    texts = complete(session, echo=True)
    assert texts[0].startswith("Once upon a time")
    return texts


def echo_with_logprobs(session: Session) -> object:
    """Log-probabilities of prompt and answer."""
    return complete(session, echo=True, logprobs=3)


def logprobs(session: Session) -> object:
    """Log-probabilities of the answer."""
    return complete(session, logprobs=3)


def prompt_logprobs(session: Session) -> object:
    """Log-probabilities of the prompt alone."""
    return complete(session, max_tokens=1, extra={"prompt_logprobs": 3})


def several_choices(session: Session) -> object:
    """`n` answers."""
    texts = complete(session, n=3)
    assert len(texts) == 3
    return texts


def with_a_stop_string(session: Session) -> object:
    """A stop string."""
    said = complete(session)[0]
    return complete(session, stop=said[4:7])


def fields_of_vllm(session: Session) -> object:
    """Fields that only vLLM knows."""
    return complete(session, extra={"top_k": 5, "min_p": 0.01, "ignore_eos": True, "truncate_prompt_tokens": 2})


def suffix(session: Session) -> object:
    """A suffix, which this model cannot fill up to."""
    return refused(lambda: complete(session, suffix="the end"), status=400)


SCENARIOS = scenarios(
    "completions",
    text,
    greedy,
    several_prompts,
    prompt_ids,
    lists_of_prompt_ids,
    echo,
    echo_with_logprobs,
    logprobs,
    prompt_logprobs,
    several_choices,
    with_a_stop_string,
    fields_of_vllm,
    suffix,
)
