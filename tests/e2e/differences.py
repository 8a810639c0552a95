"""Where a node may answer unlike the engine behind it: the whole list, each with its reason.

A difference that is not here fails the suite; so does one that is here and no longer shows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import cast


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """One value that is unlike. `None` stands for null and for absent alike, `ABSENT` in words for the latter."""

    scenario: str
    where: str  # path into the outcome: `exchanges/0/headers/server`
    engine: object
    node: object

    def __str__(self) -> str:
        return f"{self.scenario}: {self.where}: the engine says {self.engine!r}, the node {self.node!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A named difference.

    Attributes:
        scenarios, where: shell patterns, each of which must show somewhere; `*` in `where` spans slashes.
        engine, node: in words, for the page.
    """

    scenarios: tuple[str, ...]
    where: tuple[str, ...]
    engine: str
    node: str
    reason: str

    def explains(self, mismatch: Mismatch) -> bool:
        """Whether this is that difference."""
        in_scenario = any(fnmatchcase(mismatch.scenario, pattern) for pattern in self.scenarios)
        return in_scenario and any(fnmatchcase(mismatch.where, pattern) for pattern in self.where)

    def idle(self, found: Sequence[Mismatch]) -> tuple[str, ...]:
        """Its patterns that no mismatch bears out."""
        mine = [mismatch for mismatch in found if self.explains(mismatch)]
        idle_scenarios = [p for p in self.scenarios if not any(fnmatchcase(m.scenario, p) for m in mine)]
        idle_places = [p for p in self.where if not any(fnmatchcase(m.where, p) for m in mine)]
        return (*idle_scenarios, *idle_places)


ABSENT = "(absent)"


def mismatches(scenario: str, engine: object, node: object, where: str = "") -> Iterator[Mismatch]:
    """Yield every leaf at which two outcomes differ; a branch that one side lacks is one mismatch."""
    if isinstance(engine, Mapping) and isinstance(node, Mapping):
        left, right = cast("Mapping[str, object]", engine), cast("Mapping[str, object]", node)
        for key in sorted(left.keys() | right.keys()):
            inner = f"{where}/{key}" if where else key
            yield from mismatches(scenario, left.get(key, ABSENT), right.get(key, ABSENT), inner)
    elif isinstance(engine, list) and isinstance(node, list):
        yield from mismatches(scenario, _numbered(engine), _numbered(node), where)
    elif engine != node or type(engine) is not type(node):
        yield Mismatch(scenario=scenario, where=where, engine=engine, node=node)


def _numbered(items: Sequence[object]) -> dict[str, object]:
    return {f"{index:04}" if len(items) > 10 else str(index): item for index, item in enumerate(items)}


OWN_REFUSALS = (  # requests that the node refuses itself, before any engine hears of them
    "refusals/wrong_method",
    "refusals/unknown_path",
    "refusals/trailing_slash",
    "refusals/raw_target",
    "refusals/administration",
)

DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        scenarios=("*",),
        where=("exchanges/*/headers/server",),
        engine="`server: uvicorn`",
        node="`server: metainf`",
        reason="It names the program that answers the connection.",
    ),
    Difference(
        scenarios=("*",),
        where=("exchanges/*/headers/x-metainf-*",),
        engine="no such header",
        node="`x-metainf-node`, `-model`, `-strategy`, `-attempts`, `-overhead-ms`, `-route-reason`; where it was "
        "foretold, `-predicted-ttft-ms`, `-predicted-total-ms`",
        reason="Who answered, and how: what a client needs to make sense of a swarm.",
    ),
    Difference(
        scenarios=("*",),
        where=("exchanges/*/headers/x-request-id",),
        engine="no such header",
        node="the client's own, or one made here",
        reason="The name under which the node's log knows the request. vLLM makes its answer's `id` from it.",
    ),
    Difference(
        scenarios=(*OWN_REFUSALS, "refusals/malformed_bodies", "refusals/remote_media", "models/head"),
        where=("exchanges/*/headers/vary",),
        engine="`vary: Origin`: pages of any origin may read the answer",
        node="absent from its own refusals",
        reason="The node lets no page of another origin in unless `api.cors_origins` names it.",
    ),
    Difference(
        scenarios=("refusals/wrong_key", "refusals/no_key"),
        where=("exchanges/*/body/error", "exchanges/*/headers/www-authenticate", "client/code", "client/message"),
        engine='401 `{"error": "Unauthorized"}`',
        node="401, the error as an object with message, type and code; `www-authenticate: Bearer`",
        reason="The envelope of the OpenAI API, which its clients show to people; vLLM sends a bare string.",
    ),
    Difference(
        scenarios=("refusals/wrong_method", "refusals/unknown_path"),
        where=("exchanges/*/body/detail", "exchanges/*/body/error"),
        engine='404 or 405 with `{"detail": ...}`',
        node="the same status with an OpenAI error object that says what is possible",
        reason="Again the envelope; FastAPI's default is not one. The statuses and `allow` are the same.",
    ),
    Difference(
        scenarios=("models/head",),
        where=("exchanges/*/headers/content-length",),
        engine="405, length of its own words",
        node="405, length of its own words",
        reason="HEAD shows the length of a refusal that is worded unlike.",
    ),
    Difference(
        scenarios=("refusals/trailing_slash",),
        where=(
            "client",
            "exchanges/*/status",
            "exchanges/*/body",
            "exchanges/*/headers/content-length",
            "exchanges/*/headers/content-type",
            "exchanges/*/headers/location",
        ),
        engine="307 to the path without the slash",
        node="404",
        reason="The engine's redirect names the engine's own address, which is nobody's business.",
    ),
    Difference(
        scenarios=("refusals/raw_target",),
        where=("client", "exchanges/*/status", "exchanges/*/body/*"),
        engine="a path with needless percent-encoding is served",
        node="404",
        reason="Paths are admitted by an exact list: two spellings of one path are how such lists are got around.",
    ),
    Difference(
        scenarios=("refusals/administration",),
        where=("client/*", "exchanges/*/status", "exchanges/*/body/*"),
        engine="LoRA loading, load, scaling, raw generation: answered or refused by the engine",
        node="404",
        reason="The administration of an engine is not for clients.",
    ),
    Difference(
        scenarios=("refusals/malformed_bodies",),
        where=("exchanges/*/body/error/*",),
        engine="400 in the words of its JSON parser, for a body that is not UTF-8",
        node="400 in its own words",
        reason="A body that the node cannot read could hide the URL of remote media from it.",
    ),
    Difference(
        scenarios=("refusals/remote_media",),
        where=("exchanges/*/body/error/*",),
        engine="400 because this model sees nothing; otherwise it would fetch the URL",
        node="400 `remote_media_refused`, whatever the model, unless `api.allow_remote_media`",
        reason="An engine that fetches addresses for strangers reaches what they cannot (SSRF).",
    ),
)

# What shows beyond that at a node without an engine, whose peers answer.
THROUGH_PEERS: tuple[Difference, ...] = (
    Difference(
        scenarios=("*",),
        where=("exchanges/*/headers/vary",),
        engine="`vary: Origin`: pages of any origin may read the answer",
        node="absent",
        reason="What a browser may read is the business of the node that it speaks to, not of the peer's engine.",
    ),
    Difference(
        scenarios=("models/listed", "models/listed_with_a_query"),
        where=(
            "exchanges/*/body/data/*/owned_by",
            "exchanges/*/body/data/*/permission/*/id",
            "exchanges/*/body/data/*/root",
        ),
        engine="`owned_by: vllm`, an id of a permission, and the folder that the model was loaded from",
        node="`owned_by: metainf`, an id that stays, and the model's name",
        reason="The list is the swarm's, of many engines; a stranger's folders are nobody's business.",
    ),
    Difference(
        scenarios=("models/known_by_id", "models/unknown_by_id"),
        where=("client*", "exchanges/*/body/*", "exchanges/*/status"),
        engine="404 `Not Found` for any model by its id: vLLM 0.32 has no such path",
        node="the model as OpenAI's API gives it; 404 in an OpenAI error object where nobody serves it",
        reason="The swarm's list is the node's own, and this is how clients look one up.",
    ),
    Difference(
        scenarios=("messages/of_an_unknown_model",),
        where=("client", "exchanges/*/body/error/type"),
        engine="404 with `type: NotFoundError`",
        node="404 with `type: not_found_error`",
        reason="Nobody was there to ask; the node says it in the words of Anthropic's API.",
    ),
    Difference(
        scenarios=("refusals/not_json_by_its_type",),
        where=("client/*", "exchanges/*/status", "exchanges/*/body/error/*"),
        engine="400: it looks at the content type before it looks for the model",
        node="404: nobody serves the model that is asked for",
        reason="Without anybody to ask, the model is all that the node looks at.",
    ),
)
