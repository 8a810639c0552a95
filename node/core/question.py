"""Candidates as rows of the observation table: what the learner is asked about.

Knows the record's parts and the table's names, and puts them together as records of trials and of traffic have them, so
that what was learnt from those applies; knows no learner and no engine. Of the traffic only its shape goes in.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, cast

from node.core.observation import Row, from_wire_strategy, to_row, to_wire_strategy
from node.core.observation_columns import COLUMNS, InvalidRow, Scalar
from node.core.own_records import Setting
from node.core.strategy import DEFAULT, DRAFT_MODEL, InvalidStrategy, Strategy
from node.core.workload import Description
from protocol import limits, schema
from protocol import performance as wire
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.ids import PUBLIC_SWARM, Epoch, PeerId
from protocol.performance import PERFORMANCE
from protocol.records import Stamp
from protocol.wire import Value

MILLI: Final = 1000
PPM: Final = 1_000_000
ROOMS: Final = ("model.", "hardware.", "workload.", "strategy.")
# Of own records, what the learner needs to hold them against candidates: the rest is four fifths of their size.
EVIDENCE: Final = (
    "context", "record.time_us", "record.pair", "record.origin", "record.author", "model.digest", "model.name",
    "model.weights", "hardware.name", "hardware.platform", "hardware.partition", "hardware.count",
    "hardware.cpu_cores", "hardware.power_limit_watts", "hardware.price_per_hour", "strategy.", "workload.", "outcome.",
)  # fmt: skip

_STRATEGY: Final = tuple(column for column in COLUMNS if column.section[:1] == ("strategy",))
_STRATEGY_NAMES: Final = frozenset({"strategy.name", "strategy.is_default"} | {column.name for column in _STRATEGY})

# What is asked of a node that nobody has asked anything yet: a conversation as a large service sees them, means,
# medians and 95th percentiles of 19,366 requests (Azure LLM inference trace 2023, conversation; Patel et al.,
# Splitwise, 2024). The trace's rate is that of a data centre; a volunteer's node is assumed to answer a few at a time.
_CHAT_PROMPT: Final = (1155.0, 1020, 4083)
_CHAT_OUTPUT: Final = (211.0, 129, 451)
CHAT_CONCURRENCY: Final = 4
_CHAT_REQUESTS: Final = 32
_ROOM_FOR_PROMPT: Final = 0.75  # of a short context; the rest is for the answer

# A row has no stamp; a body has one. This one is nobody's (any point of the curve will do), and none of it gets out.
_STAMP: Final = Stamp(
    version=PERFORMANCE.version,
    swarm=PUBLIC_SWARM,
    author=PeerId(bytes(range(32))),
    epoch=Epoch(0),
    seq=0,
    time=0,
    expiry=1,
)


def question(setting: Setting, description: Description | None, strategies: Sequence[Strategy]) -> list[Row]:
    """Return a row for each strategy, all of one context: the same model, machine, engine and workload.

    Args:
        description: of the traffic; None where there was too little of it: then a conversation is assumed.
    """
    workload = _chat(setting.model) if description is None else _workload(description)
    context = _context(setting, workload)
    return [{**context, **_columns(strategy)} for strategy in strategies]


def evidence(rows: Iterable[Row]) -> list[Row]:
    """Return own records' rows with what the learner needs of them, and no more."""
    return [{name: value for name, value in row.items() if name.startswith(EVIDENCE)} for row in rows]


def canonical_rows(rows: Iterable[Row], canonical: Callable[[Strategy], Strategy]) -> list[Row]:
    """Return own records' rows with strategies in the words that candidates have, without what engines do anyway.

    A trial says all that it sets; a candidate that the engine would run alike has another name, and evidence of the one
    is evidence of the other. A row whose strategy is none that this version knows stays as it is.
    """
    known: dict[tuple[Scalar | None, ...], Row | None] = {}
    found: list[Row] = []
    for row in rows:
        key = tuple(row.get(column.name) for column in _STRATEGY)
        if key not in known:
            known[key] = _canonical(row, canonical)
        said = known[key]
        bare = {name: value for name, value in row.items() if name not in _STRATEGY_NAMES}
        found.append(row if said is None else {**bare, **said})
    return found


def _canonical(row: Row, canonical: Callable[[Strategy], Strategy]) -> Row | None:
    """Return the columns of a row's strategy in canonical words; None where it is none that this version knows."""
    whole: dict[str, Value] = {}
    inner: dict[str, Value] = {}
    try:
        for column in _STRATEGY:
            if (value := row.get(column.name)) is not None:
                (whole if len(column.section) == 1 else inner)[column.field] = column.read(value)
        if inner:
            whole["speculation"] = inner
        strategy = canonical(from_wire_strategy(schema.read(wire.Strategy, whole)))
    except (InvalidRow, InvalidStrategy, RemoteProtocolError):
        return None
    return _columns(strategy)


def _columns(strategy: Strategy) -> Row:
    whole = schema.write(_told(strategy))
    inner = cast("Mapping[str, Value]", whole.get("speculation") or {})
    row: dict[str, Scalar] = {"strategy.name": strategy.name, "strategy.is_default": strategy == DEFAULT}
    for column in _STRATEGY:
        value = (whole if len(column.section) == 1 else inner).get(column.field)
        if value is not None:
            row[column.name] = column.show(value)
    return row


def _context(setting: Setting, workload: wire.Workload) -> Row:
    body = setting.composing(
        origin=wire.TRIAL,
        strategy=wire.Strategy(),
        workload=workload,
        outcome=wire.Outcome(requests=0, failures=0),
    )(_STAMP)
    return {name: value for name, value in to_row(body).items() if name.startswith(ROOMS)}


def _told(strategy: Strategy) -> wire.Strategy:
    """Return the strategy as records have it; where a draft model is a path of this machine, without it."""
    try:
        return to_wire_strategy(strategy)
    except LocalProtocolError:
        extra = tuple(pair for pair in strategy.engine_extra if pair[0] != DRAFT_MODEL)
        return to_wire_strategy(replace(strategy, engine_extra=extra))


def _workload(shape: Description) -> wire.Workload:
    rate = shape.requests_per_s
    prompt, output = shape.prompt_tokens, shape.output_tokens
    return wire.Workload(
        requests=_whole(shape.requests),
        prompt_tokens_mean_milli=None if prompt is None else _whole(prompt.mean * MILLI),
        prompt_tokens_p50=None if prompt is None else _whole(prompt.p50),
        prompt_tokens_p95=None if prompt is None else _whole(prompt.p95),
        output_tokens_mean_milli=None if output is None else _whole(output.mean * MILLI),
        output_tokens_p50=None if output is None else _whole(output.p50),
        output_tokens_p95=None if output is None else _whole(output.p95),
        shared_prefix_ppm=None if shape.shared_prefix_share is None else _share(shape.shared_prefix_share),
        prefix_groups=None if shape.prefix_groups is None else _whole(shape.prefix_groups),
        # As in records: a load is told by what drives it, and of traffic that is its rate.
        concurrency_milli=None if rate or shape.concurrency is None else _whole(shape.concurrency * MILLI),
        requests_per_s_milli=_whole(rate * MILLI) if rate else None,
        burstiness_ppm=None if shape.burstiness is None else _whole(shape.burstiness * PPM),
        streaming_ppm=_share(shape.streaming_share),
        copy_ppm=None if shape.copy_share is None else _share(shape.copy_share),
    )


def _chat(model: wire.Model) -> wire.Workload:
    """Return a conversation, as long as the model's context allows."""
    most = model.max_length or limits.CONTEXT_MAX
    prompt = [min(value, most * _ROOM_FOR_PROMPT) for value in _CHAT_PROMPT]
    output = [min(value, most * (1 - _ROOM_FOR_PROMPT)) for value in _CHAT_OUTPUT]
    return wire.Workload(
        requests=_CHAT_REQUESTS,
        prompt_tokens_mean_milli=_whole(prompt[0] * MILLI),
        prompt_tokens_p50=_whole(prompt[1]),
        prompt_tokens_p95=_whole(prompt[2]),
        output_tokens_mean_milli=_whole(output[0] * MILLI),
        output_tokens_p50=_whole(output[1]),
        output_tokens_p95=_whole(output[2]),
        concurrency_milli=CHAT_CONCURRENCY * MILLI,
        streaming_ppm=PPM,
    )


def _whole(value: float) -> int:
    return max(round(value), 0)


def _share(value: float) -> int:
    return min(max(round(value * PPM), 0), PPM)
