"""Writes docs/compatibility.md from the tables that the suite runs by.

python -m tests.e2e.compatibility_page      after a change of a scenario or a difference
"""

from collections.abc import Iterator
from pathlib import Path

from tests.e2e.differences import DIFFERENCES, THROUGH_PEERS, Difference
from tests.e2e.scenarios.catalogue import CATALOGUE
from tests.e2e.scenarios.scenario import Scenario

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"

TITLES = {
    "models": "Models",
    "chat": "Chat (`/v1/chat/completions`)",
    "stream": "Streams",
    "completions": "Completions (`/v1/completions`)",
    "structured": "Answers in a given form",
    "responses": "Responses (`/v1/responses`)",
    "messages": "Messages (`/v1/messages`)",
    "tokens": "Tokens, and what a model of text does not serve",
    "refusals": "Refusals",
    "http": "HTTP",
}

HEAD = """\
# What the node answers beside what vLLM answers

Written by `python -m tests.e2e.compatibility_page` from the tables of the suite in `tests/e2e/`; do not edit.

Rule: **what vLLM answers, the node answers.** Each line below is a test. It asks a real vLLM 0.32 directly, then the
same vLLM through the node, with the official `openai` and `anthropic` clients (plain HTTP where they have no call),
and compares status, headers, body and what the client library made of them, value by value. Ids and times are
replaced by their kind; a stream is compared by what it adds up to, because vLLM itself puts one token or several
into an event as its scheduling falls. That every event arrives whole, once and in order has its own test, with
64 streams at once.

"""


def page() -> str:
    """Return the page."""
    return HEAD + "\n".join([*_differences(), *_scenarios(), *_beyond()]) + "\n"


def _differences() -> Iterator[str]:
    yield "## Every difference, with its reason"
    yield ""
    yield "A difference that is not here fails the suite; so does one that is here and no longer shows."
    yield ""
    yield "| where | vLLM | the node | why |"
    yield "|---|---|---|---|"
    for row in DIFFERENCES:
        yield f"| {_places(row)} | {row.engine} | {row.node} | {row.reason} |"
    yield ""
    yield "The same scenarios are asked of a node without an engine, whose two peers answer. Beyond the above:"
    yield ""
    yield "| where | vLLM | the node, through a peer | why |"
    yield "|---|---|---|---|"
    for row in THROUGH_PEERS:
        yield f"| {_places(row)} | {row.engine} | {row.node} | {row.reason} |"
    yield ""


def _places(row: Difference) -> str:
    if row.scenarios == ("*",):
        return "everywhere"
    return ", ".join(f"`{name}`" for name in row.scenarios)


def _scenarios() -> Iterator[str]:
    yield "## What is compared"
    yield ""
    differing = {name for row in DIFFERENCES if row.scenarios != ("*",) for name in row.scenarios}
    for topic, title in TITLES.items():
        yield f"**{title}**"
        yield ""
        yield from (_line(scenario, differing) for scenario in CATALOGUE if scenario.name.startswith(f"{topic}/"))
        yield ""


def _line(scenario: Scenario, differing: set[str]) -> str:
    mark = " (differs: see above)" if scenario.name in differing else ""
    return f"- `{scenario.name}`: {scenario.what}{mark}"


def _beyond() -> Iterator[str]:
    yield "## What the node answers and vLLM never would"
    yield ""
    yield "- 429 with `retry-after`, when a key has used up its limits (`requests_per_minute`, `concurrent`, ...)."
    yield "- 503 with `retry-after` and a `loading` object, while its engine loads; 503 while it drains."
    yield "- An error event in the dialect of the endpoint, when the engine dies in the middle of a stream."
    yield (
        "- In a swarm, 400 `invalid_objective`, when one of the headers `x-metainf-objective`, `x-slo-ttft-ms` "
        "and `x-slo-tpot-ms` cannot be read: what they take is in [operations.md](operations.md#why-this-peer)."
    )
    yield (
        "- In a swarm, 400 `context_length_exceeded`, when it is sure that nobody's context holds the prompt; 429 "
        "`insufficient_quota`, when a limit of spending leaves nobody to ask "
        "([operations.md](operations.md#what-answers-cost))."
    )
    yield "- 400 `invalid_via`, when `x-metainf-via` is no peer id; in a swarm 404 `unknown_peer`, if it is nobody's."


if __name__ == "__main__":
    PAGE.write_text(page())
