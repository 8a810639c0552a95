"""Levers without a restart: what of a wanted strategy the node can have of the engine that runs, prompt by prompt.

Knows no engine: two strategies go in, what is to be done to prompts on their way comes out, and a prompt with it
done. Three differences can be had so:

- Fewer sequences together: fewer prompts are let through at once.
- No prefix caching: each prompt gets a `cache_salt` of its own, so it finds nobody's blocks and nobody finds its.
  (vLLM's `/v1/messages` knows no salt; those prompts go on sharing.)
- No order of priority, on an engine that was started with one: prompts are let through without one. On such an
  engine, under a strategy that wants the order, each prompt says whose it is.

Bodies are spliced, never written anew: what a client said reaches the engine byte for byte, and the field stands at
the end, where it outweighs one of its name before it (of a repeated key the last counts, as it does for vLLM).
"""

from dataclasses import dataclass, replace

import msgspec

from node.core.admission import AdmissionLimits
from node.core.endpoints import generates
from node.core.prompt import Prompt, RequesterKind
from node.core.strategy import Strategy

POLICY, BY_PRIORITY = "scheduling-policy", "priority"
# The least `max_num_seqs` that any vLLM takes where none is given (0.32: 128 for its API server on CPU, 256 and more
# on GPUs): a number up to it is no more than what runs.
LEAST_DEFAULT_SEQS = 128
# Lower goes first. The owner's prompts first, then those of whom the owner gave a key, then peers'.
PRIORITIES = {RequesterKind.OWNER: 0, RequesterKind.KEY: 1, RequesterKind.PEER: 2}
_SPACE = b" \t\n\r"  # what JSON takes for space


@dataclass(frozen=True, slots=True, kw_only=True)
class Levers:
    """What is done to prompts so that the engine works as under `strategy`.

    Attributes:
        strategy: the wanted one: what runs, levers included.
        running: prompts at the engine together at most; None: as many as the node takes.
        salted: whether each prompt gets a salt.
        ranked: whether each prompt says its priority.
    """

    strategy: Strategy
    running: int | None = None
    salted: bool = False
    ranked: bool = False


def levers(running: Strategy, wanted: Strategy) -> Levers | None:
    """Return how an engine that was started under `running` serves as under `wanted`; None: only a restart does it."""
    if running.external or wanted.external:
        return Levers(strategy=wanted) if running == wanted else None
    unlike = replace(
        wanted,
        max_num_seqs=running.max_num_seqs,
        prefix_caching=running.prefix_caching,
        engine_extra=running.engine_extra,
    )
    if unlike != running or _other_extra(running) != _other_extra(wanted):
        return None
    ordered, in_order = _policy(running) == BY_PRIORITY, _policy(wanted) == BY_PRIORITY
    fewer = wanted.max_num_seqs != running.max_num_seqs
    salted = wanted.prefix_caching != running.prefix_caching
    if (
        (in_order and not ordered)
        or (fewer and not _lower(wanted.max_num_seqs, running.max_num_seqs))
        or (salted and wanted.prefix_caching is not False)
    ):
        return None
    return Levers(
        strategy=wanted, running=wanted.max_num_seqs if fewer else None, salted=salted, ranked=ordered and in_order
    )


def limited(limits: AdmissionLimits, pulled: Levers | None) -> AdmissionLimits:
    """Return the node's limits under these levers.

    Peers keep at least one place where they had one: the owner's reserve gives way to the cap first.
    """
    return limits if pulled is None else capped(limits, pulled.running)


def capped(limits: AdmissionLimits, most: int | None) -> AdmissionLimits:
    """Return the limits with so many prompts at once at most. The owner's reserve gives way first."""
    if most is None or most >= limits.running:
        return limits
    return replace(limits, running=most, reserved=min(limits.reserved, most - (limits.for_peers > 0)))


def apply(prompt: Prompt, pulled: Levers, salt: str) -> Prompt:
    """Return the prompt as it goes to the engine.

    `salt` is random, of this prompt alone, of letters and digits. Unchanged are prompts for endpoints that generate
    nothing, bodies that are no JSON object in UTF-8, and what the client says itself: its own salt, and its own
    priority unless it claims more than is its due, for the owner's prompts come first.
    """
    if not (pulled.salted or pulled.ranked) or not prompt.body or not generates(prompt.path):
        return prompt
    try:
        said = _decoder.decode(prompt.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return prompt  # the engine says what is wrong with it, in its own words
    fields: list[bytes] = []
    if pulled.salted and said.cache_salt is msgspec.UNSET:
        fields.append(b'"cache_salt":"%s"' % salt.encode("ascii"))
    due = PRIORITIES[prompt.requester.kind]
    if pulled.ranked and (said.priority is msgspec.UNSET or _presumes(said.priority, due)):
        fields.append(b'"priority":%d' % due)
    return replace(prompt, body=_spliced(prompt.body, b",".join(fields))) if fields else prompt


class _Said(msgspec.Struct):
    cache_salt: object = msgspec.UNSET
    priority: object = msgspec.UNSET


_decoder = msgspec.json.Decoder(_Said)


def _presumes(priority: object, due: int) -> bool:
    """Whether somebody else than the owner asks for an earlier turn than is its due, or in words that may mean one.

    vLLM reads "-5" as a number, too.
    """
    return due > 0 and (isinstance(priority, bool) or not isinstance(priority, int) or priority < due)


def _spliced(body: bytes, fields: bytes) -> bytes:
    """Return a JSON object's bytes with fields before its last brace."""
    end = len(body.rstrip(_SPACE)) - 1
    empty = body[:end].rstrip(_SPACE).endswith(b"{")  # within a string a quote would follow
    return body[:end] + (b"" if empty else b",") + fields + body[end:]


def _policy(strategy: Strategy) -> str | None:
    return dict(strategy.engine_extra).get(POLICY)


def _other_extra(strategy: Strategy) -> dict[str, str]:
    return {key: value for key, value in strategy.engine_extra if key != POLICY}


def _lower(wanted: int | None, running: int | None) -> bool:
    return wanted is not None and wanted <= (LEAST_DEFAULT_SEQS if running is None else running)
