"""What somebody asks the learner about: a model on hardware under a workload, and the strategies in question.

Knows the columns of observation tables, and where their values can be had: a file, a table's contexts, this machine, a
model's own `config.json`. Knows no brain.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO, cast

import numpy as np

from node.core import strategy as strategies
from node.core.model_facts import model_on_wire
from node.core.observation_columns import COLUMNS, KINDS, Scalar
from node.core.profile_record import benchmark_on_wire, hardware_on_wire
from node.core.strategy import Build, Setting, Strategy
from node.core.trial_strategies import candidates
from node.errors import ConfigError, Unavailable
from node.learner.table import STRATEGY, WHERE, Table
from node.machine_profile import kept_profile
from node.places import Places
from protocol import schema

Columns = dict[str, Scalar]

THIS: Final = "this"
STANDARD: Final = Path("-")
NAMED: Final = 8  # in a message
MOST: Final = 256  # strategies of a table that come into question
CHARS: Final = 1 << 24  # of a file with a context, bytes of a configuration
SOME_LENGTH: Final = 4096  # tokens, for which strategies are made up where nothing says how long prompts may be
MODEL, HARDWARE, WORKLOAD = WHERE
_NOT_FINITE: Final = "a finite number belongs there"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What was said on the command line; each later one overrides columns of those before it."""

    context: Path | None = None
    like: int | None = None
    model: str | None = None
    model_config: Path | None = None
    hardware: str | None = None
    workload: str | None = None
    settings: tuple[str, ...] = ()


def rows_of(question: Question, table: Table, where: Places) -> list[Columns]:
    """Return one row for each strategy that comes into question, all of one context.

    Raises:
        NodeError: something is not there, is ambiguous, or is missing; the message says what there is.
    """
    given = _of_file(question.context) if question.context is not None else []
    if question.like is not None:
        given = given or _of_context(table, question.like)
    place = _place(given)
    for name, prefix, wanted in (
        ("model.name", MODEL, question.model),
        ("hardware.name", HARDWARE, None if question.hardware == THIS else question.hardware),
        ("workload.kind", WORKLOAD, question.workload),
    ):
        if wanted is not None:
            place = _without(place, prefix) | _found(table, name, prefix, wanted)
    if question.model_config is not None:
        place = _without(place, MODEL) | _of_model(question.model_config)
    if question.hardware == THIS:
        place = _without(place, HARDWARE) | _of_this_machine(where)
    place |= dict(map(_setting, question.settings))
    for prefix, way in ((MODEL, "--model"), (HARDWARE, "--hardware"), (WORKLOAD, "--workload")):
        if not any(name.startswith(prefix) for name in place):
            raise ConfigError(f"nothing says which {prefix[:-1]} is meant", remedy=f"add {way}, --like or --context")
    chosen = [found for row in given if (found := _only(row, STRATEGY))] or _known(table) or _made_up(place)
    fixed = _only(place, STRATEGY)  # set by hand: for all of them
    return [{**_without(place, STRATEGY), **row, **fixed} for row in chosen]


def words(place: Mapping[str, object]) -> str:
    """Return a context in a line."""
    count = place.get("hardware.count") or 1
    device = place.get("hardware.name", "unnamed hardware")
    tokens = [place.get(f"workload.{name}_tokens") for name in ("prompt", "output")]
    load = place.get("workload.concurrency")
    rate = place.get("workload.requests_per_s")
    parts = [
        f"{place.get('model.name', 'a model')} on {f'{count:g} x ' if count != 1 else ''}{device}",
        str(place.get("workload.kind") or "a workload"),
        " + ".join(f"{value:.0f}" for value in tokens if isinstance(value, int | float)) + " tokens",
        f"{load:g} in flight" if isinstance(load, int | float) else "",
        f"{rate:g} requests/s" if isinstance(rate, int | float) else "",
    ]
    return ", ".join(filter(None, parts))


def _only(row: Mapping[str, Scalar], prefix: str) -> Columns:
    return {name: value for name, value in row.items() if name.startswith(prefix)}


def _without(row: Mapping[str, Scalar], prefix: str) -> Columns:
    return {name: value for name, value in row.items() if not name.startswith(prefix)}


def _place(rows: Sequence[Mapping[str, Scalar]]) -> Columns:
    """Return the columns that say where: those of all rows, which must agree."""
    place: Columns = {}
    for row in rows:
        for name, value in row.items():
            if name.startswith(WHERE) and place.setdefault(name, value) != value:
                raise ConfigError(f"the rows are of several contexts: {name} is {place[name]} and {value}",
                                  remedy="ask about one at a time")  # fmt: skip
    return place


def _of_file(path: Path) -> list[Columns]:
    """Read one row, a list of rows, or a row a line."""
    try:
        if path == STANDARD:
            text = _bounded(path, sys.stdin)
        else:
            with path.open(encoding="utf-8") as file:
                text = _bounded(path, file)
    except (OSError, UnicodeDecodeError) as error:
        raise Unavailable(f"{path} cannot be read: {error}", remedy="check its permissions") from error
    try:
        whole: object = json.loads(text)
    except (ValueError, RecursionError):
        try:
            whole = [json.loads(line) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"{path} is neither JSON nor JSON Lines: {error}", remedy="write a row as an object"
            ) from error
    rows = whole if isinstance(whole, list) else [whole]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{path}: a row, or a list of rows, belongs there", remedy='{"model.name": ..., ...}')
    return [_scalars(path, cast("Mapping[str, object]", row)) for row in rows]


def _bounded(path: Path, file: TextIO) -> str:
    text = file.read(CHARS + 1)
    if len(text) > CHARS:
        raise ConfigError(
            f"{path} is too large for a context: more than {CHARS >> 20} MiB", remedy="ask about one context at a time"
        )
    return text


def _scalars(path: Path, row: Mapping[str, object]) -> Columns:
    known = {name: value for name, value in row.items() if value is not None}
    for name, value in known.items():
        if not isinstance(value, bool | int | float | str):
            raise ConfigError(f"{path}: {name}: a number, a text, true or false belongs there", remedy="rows are flat")
        if isinstance(value, int | float) and not abs(value) <= sys.float_info.max:  # not a number compares false
            raise ConfigError(f"{path}: {name}: {_NOT_FINITE}", remedy="leave out what is unknown")
    return cast("Columns", known)


def _of_context(table: Table, number: int) -> list[Columns]:
    at = np.flatnonzero(table.contexts == number)
    if not len(at):
        some = ", ".join(str(each) for each in np.unique(table.contexts)[:NAMED])
        raise ConfigError(f"there is no context {number}", remedy=f"the table's column `context` has {some}, ...")
    merged = table.take(at).merge_repeats()
    return [_row(merged, row, (*WHERE, STRATEGY)) for row in range(merged.rows)]


def _row(table: Table, at: int, prefixes: tuple[str, ...]) -> Columns:
    found: Columns = {}
    for name, column in table.columns.items():
        value = column[at]
        if name.startswith(prefixes) and value is not None and value == value:
            found[name] = _as_it_was(name, value)
    return found


def _as_it_was(name: str, value: Any) -> Scalar:  # noqa: ANN401 -- of an array: a number or a word
    if isinstance(value, str):
        return value
    if KINDS.get(name) is bool:
        return bool(value)
    return int(value) if float(value).is_integer() else float(value)


def _found(table: Table, column: str, prefix: str, wanted: str) -> Columns:
    """Return what the table says of the one model, device or workload that is called so."""
    words_there = table.words(column)
    names = sorted({str(word) for word in words_there if word is not None})
    exact = [name for name in names if name.casefold() == wanted.casefold()]
    alike = exact or [name for name in names if wanted.casefold() in name.casefold()]
    if len(alike) != 1:
        there = ", ".join((alike or names)[:NAMED]) + (", ..." if len(alike or names) > NAMED else "")
        what = "several could be meant by" if alike else "the table knows no"
        raise ConfigError(
            f"{what} {column} {wanted!r}", remedy=f"it knows {there}" if there else "give --table or --context"
        )
    rows = np.flatnonzero(words_there == alike[0])
    kept = [name for name in table.columns if name.startswith(prefix)]
    # Of several (counts of a device, loads of a workload) the one that most rows have; of equals the first.
    variants = [tuple(str(table.columns[name][row]) for name in kept) for row in rows]
    ((commonest, _),) = Counter(variants).most_common(1)
    return _row(table, int(rows[variants.index(commonest)]), (prefix,))


def _of_this_machine(where: Places) -> Columns:
    profile = kept_profile(where.cache)
    measured = profile.measurement
    build: Build = "cuda" if profile.hardware.gpus else "cpu"
    if measured is not None and measured.conditions.build in ("cpu", "cuda"):
        build = cast("Build", measured.conditions.build)
    return {
        **_shown(("hardware",), hardware_on_wire(profile, build)),
        **_shown(("benchmark",), benchmark_on_wire(profile, build)),
    }


def _of_model(path: Path) -> Columns:
    """Read a model's `config.json`; its size from the index of weights beside it, else from its shape."""
    config = _object(path)
    index = path.with_name("model.safetensors.index.json")
    total = _object(index).get("metadata", {}).get("total_size") if index.exists() else None
    facts = _shown(("model",), model_on_wire(config, name=None, weight_bytes=total if isinstance(total, int) else None))
    facts["model.name"] = str(config.get("_name_or_path") or path.absolute().parent.name)
    if "model.parameters" not in facts:
        facts |= _sizes(facts)
    return facts


def _sizes(facts: Columns) -> Columns:
    """Return the parameters of a decoder of this shape: embeddings, attention, and three matrices of each expert."""
    names = ("layers", "hidden", "intermediate", "heads", "kv_heads", "head_dim", "vocab")
    shape = [facts.get(f"model.{name}") for name in names]
    if not all(isinstance(value, int | float) for value in shape):
        raise ConfigError("the configuration does not say how large the model is", remedy="--set model.parameters=8e9")
    layers, hidden, inner, heads, kv_heads, width, vocab = cast("list[int]", shape)
    attention = 2 * hidden * width * (heads + kv_heads)
    experts, chosen = (max(int(facts.get(f"model.{name}") or 0), 1) for name in ("experts", "experts_per_token"))
    common = 2 * vocab * hidden + layers * attention
    return {
        "model.parameters": common + layers * 3 * hidden * inner * experts,
        "model.active_parameters": common + layers * 3 * hidden * inner * chosen,
    }


def _object(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(CHARS + 1)
        if len(text) > CHARS:
            raise ConfigError(f"{path} is too large: more than {CHARS >> 20} MiB", remedy="name a model's config.json")
        found = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise Unavailable(f"{path} cannot be read: {error}", remedy="name a model's config.json") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: no JSON object", remedy="name a model's config.json")
    return found


def _shown(section: tuple[str, ...], part: schema.Record) -> Columns:
    """Return the columns that show one section of a record."""
    whole = cast("Mapping[str, Any]", schema.write(part))
    shown = [column for column in COLUMNS if column.section == section and column.field in whole]
    return {column.name: column.show(whole[column.field]) for column in shown}


def _setting(text: str) -> tuple[str, Scalar]:
    name, equals, value = text.partition("=")
    if not equals or not name.startswith((*WHERE, STRATEGY)):
        raise ConfigError(f"{text!r} sets no column", remedy="for example --set workload.concurrency=32")
    if _beyond_numbers(value):
        raise ConfigError(f"{text!r}: {_NOT_FINITE}", remedy="leave out what is unknown")
    try:
        found: object = json.loads(value)
    except (ValueError, RecursionError):
        return name, value
    return name, found if isinstance(found, bool | int | float | str) else value


def _beyond_numbers(text: str) -> bool:
    """Tell whether a text is a number that no column can hold: infinite, none, or too large for a double."""
    try:
        return not abs(float(text)) <= sys.float_info.max
    except ValueError:
        return False


def _known(table: Table) -> list[Columns]:
    """Return each strategy that the table has, those that most rows have first."""
    _, first, counts = np.unique(table.choices, return_index=True, return_counts=True)
    often = first[np.argsort(-counts, kind="stable")][:MOST]
    rows = [_row(table, int(row), (STRATEGY,)) for row in often]
    return rows if any(rows) else []


def _made_up(place: Mapping[str, Scalar]) -> list[Columns]:
    """Return vLLM's own strategies, as trials would try them."""
    build: Build = "cpu" if place.get("hardware.platform") == "cpu" else "cuda"
    longest = place.get("model.max_length")
    count = place.get("hardware.count")
    setting = Setting(build=build, gpus=int(count) if isinstance(count, int | float) else None)
    tried = candidates(setting, max_model_len=int(longest) if isinstance(longest, int | float) else SOME_LENGTH)
    return [dict(_columns(strategy)) for strategy in tried]


def _columns(strategy: Strategy) -> Iterator[tuple[str, Scalar]]:
    for name, value in strategies.to_plain(strategy).items():
        if isinstance(value, bool | int | float | str):
            yield f"{STRATEGY}{name}", value
    if strategy.speculation is not None:
        yield "strategy.speculation", strategy.speculation.method
        yield "strategy.speculative_tokens", strategy.speculation.tokens
    yield "strategy.engine", "vllm"
    yield "strategy.name", strategy.name
    yield "strategy.is_default", strategy == strategies.DEFAULT
