"""What a scenario is: a client's use of an entry, which must come out the same at an engine and at a node.

A scenario asserts what keeps it from passing emptily (tokens came, the error was raised), never a server's exact
words: those are compared.
"""

from collections.abc import Callable
from dataclasses import dataclass

import openai
import pytest

from tests.e2e.entry import Session

Act = Callable[[Session], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One comparison.

    Attributes:
        name: topic and function, `chat/with_stop_strings`; also the test's id.
        what: one line for the page of compatibility.
        act: uses the session's clients; returns what the client saw, as data.
    """

    name: str
    what: str
    act: Act


def scenarios(topic: str, *acts: Act) -> tuple[Scenario, ...]:
    """Name the functions of a topic; their docstrings say what they show."""
    return tuple(
        Scenario(name=f"{topic}/{act.__name__}", what=(act.__doc__ or "").strip().rstrip("."), act=act) for act in acts
    )


def refused(call: Callable[[], object], *, status: int) -> object:
    """Make a call of the OpenAI client that must be refused; return what the program that made it catches."""
    with pytest.raises(openai.APIStatusError) as caught:
        call()
    assert caught.value.status_code == status, str(caught.value)
    return {"class": type(caught.value).__name__, "code": caught.value.code, "message": str(caught.value)}


GREEDY = {"temperature": 0.0, "max_tokens": 8}
# Sampled answers of a random model vary from token to token; greedy ones may repeat a single token.
SEEDED = {"temperature": 1.0, "seed": 7, "max_tokens": 12}
# The form of a tool call leaves white space free, and a random model is fond of it: ten times what a trained one needs.
LONG_ENOUGH = 900
HELLO = [{"role": "user", "content": "Hello, who are you?"}]
UNICODE = "Grüße, 你好, שלום, \U0001f469\u200d\U0001f52c e\u0301 \u0000\u2028 end"
ANSWER_SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "count": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "paint",
            "description": "Paint something.",
            "parameters": ANSWER_SCHEMA,
            "strict": True,  # without it the arguments may be any JSON, and a random model never ends
        },
    }
]
