"""Which HTTP endpoints are an engine's business, and what each is: the one table that lets a request through.

Knows nothing of requests beyond their method and path. What is not in the table never reaches an engine: its
administration (LoRA loading, sleep, cache reset, profiling, development mode, `/load`, `/metrics`) is left out by
not being named, so what an engine learns tomorrow stays closed until somebody decides otherwise here.
"""

import re
from dataclasses import dataclass
from enum import Enum


class Dialect(Enum):
    """How an endpoint's clients are told of errors."""

    OPENAI = "openai"  # `{"error": {...}}`, in a stream as `data: {"error": ...}`
    RESPONSES = "responses"  # the same envelope; in a stream an `error` event with a sequence number
    MESSAGES = "messages"  # Anthropic's `{"type": "error", "error": {...}}`


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One endpoint of an engine.

    Attributes:
        name: its path as written in metrics; `{id}` stands for what a client chooses.
        generates: whether it takes a place in the engine's batch, and therefore a turn in admission.
    """

    name: str
    methods: frozenset[str]
    dialect: Dialect = Dialect.OPENAI
    generates: bool = True


_POST = frozenset({"POST"})
_GET = frozenset({"GET"})

ROUTES: tuple[Route, ...] = (
    Route(name="/v1/models", methods=_GET, generates=False),
    Route(name="/v1/models/{id}", methods=_GET, generates=False),
    Route(name="/v1/chat/completions", methods=_POST),
    Route(name="/v1/completions", methods=_POST),
    Route(name="/v1/embeddings", methods=_POST),
    Route(name="/v1/responses", methods=_POST, dialect=Dialect.RESPONSES),
    Route(name="/v1/responses/{id}", methods=_GET, dialect=Dialect.RESPONSES, generates=False),
    Route(name="/v1/responses/{id}/cancel", methods=_POST, dialect=Dialect.RESPONSES, generates=False),
    Route(name="/v1/messages", methods=_POST, dialect=Dialect.MESSAGES),
    Route(name="/v1/messages/count_tokens", methods=_POST, dialect=Dialect.MESSAGES, generates=False),
    # vLLM serves scoring with and without the version, and reranking under Cohere's second version as well.
    Route(name="/v1/score", methods=_POST),
    Route(name="/score", methods=_POST),
    Route(name="/v1/rerank", methods=_POST),
    Route(name="/v2/rerank", methods=_POST),
    Route(name="/rerank", methods=_POST),
    Route(name="/tokenize", methods=_POST, generates=False),
    Route(name="/detokenize", methods=_POST, generates=False),
)

_EXACT = {route.name: route for route in ROUTES if "{id}" not in route.name}

# A model's id may hold slashes ("org/name"), a response's id may not. Neither may hold a percent sign nor a dot
# segment: an engine behind somebody's gateway may have its paths normalised, and `/v1/models/../../load` would
# become an address that this table does not let through.
_SEGMENT = r"(?!\.{1,2}(?:/|$))[A-Za-z0-9._~:@+,=-]{1,256}"
_WITH_ID = tuple(
    (re.compile(pattern), route)
    for pattern, name in (
        (rf"/v1/models/{_SEGMENT}(?:/{_SEGMENT}){{0,7}}", "/v1/models/{id}"),
        (rf"/v1/responses/{_SEGMENT}/cancel", "/v1/responses/{id}/cancel"),
        (rf"/v1/responses/{_SEGMENT}", "/v1/responses/{id}"),
    )
    for route in ROUTES
    if route.name == name
)


def find(path: str) -> Route | None:
    """Find the route of a raw path (as it stood in the request line, nothing decoded); None for any other."""
    route = _EXACT.get(path)
    if route is not None:
        return route
    for pattern, with_id in _WITH_ID:
        if pattern.fullmatch(path):
            return with_id
    return None


def generates(path: str) -> bool:
    """Whether a request for it is work for the engine's batch; so is what the table does not know."""
    route = find(path)
    return route is None or route.generates


def dialect_of(path: str) -> Dialect:
    """Tell in which dialect to answer errors, for paths that are not in the table too."""
    route = find(path)
    if route is not None:
        return route.dialect
    return Dialect.MESSAGES if path.startswith("/v1/messages") else Dialect.OPENAI
