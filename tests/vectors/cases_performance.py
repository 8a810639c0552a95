"""Vectors of performance records: sealed ones, refused ones, the rows that show them, and what is doubted of them."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, Final, get_args

from node.core.observation import from_row, to_row
from node.core.record_checks import doubts
from protocol import limits, records, schema, wire
from protocol.ids import PUBLIC_SWARM
from protocol.performance import (
    DUMMY,
    PERFORMANCE,
    TRAFFIC,
    Benchmark,
    Engine,
    Hardware,
    Model,
    Outcome,
    Performance,
    Strategy,
    Workload,
)
from protocol.schema import Blob, Flag, Id, Int, Named, Nested, Text
from tests.protocol import performance_samples, samples
from tests.vectors.cases_records import sign_anything
from tests.vectors.forms import Json, jsonable, ordered, packed, refused

NOW: Final = samples.NOW


def largest(cls: type[Any]) -> Any:
    """Return a section with every field of this version, each as long as it may be."""
    given: dict[str, Any] = {}
    for item in fields(cls):
        if item.name == "stamp":
            given[item.name] = performance_samples.body(seq=limits.SEQ_MAX).stamp
        elif item.name != "unknown":
            given[item.name] = _longest(get_args(item.type)[1])
    return cls(**given)


def _longest(rule: object) -> object:
    if isinstance(rule, Int):
        return rule.high
    if isinstance(rule, Flag):
        return True
    if isinstance(rule, Text):
        return "w" * rule.most
    if isinstance(rule, Named):
        return {f"{chr(97 + index)}" + "-" * 63: "w" * limits.WORD_CHARS for index in range(rule.most)}
    if isinstance(rule, Nested):
        return largest(rule.cls)
    if isinstance(rule, Id):
        return performance_samples.MODEL.digest if rule.form is bytes else "m" * limits.MODEL_NAME_CHARS
    assert isinstance(rule, Blob)
    return bytes(range(rule.most))


LEAST: Final = replace(
    performance_samples.body(pair=None, context=None),
    model=Model(weights=DUMMY),
    hardware=Hardware(name="x", count=1),
    benchmark=Benchmark(),
    engine=Engine(name="vllm"),
    strategy=Strategy(),
    workload=Workload(),
    outcome=Outcome(requests=0, failures=0),
)
BODIES: Final[dict[str, Performance]] = {
    "as little as may be": LEAST,
    "a trial": performance_samples.body(),
    "a strategy that failed": performance_samples.failed().body,
    "traffic of an engine reached by URL, little known": performance_samples.body(
        origin=TRAFFIC,
        seq=2,
        strategy=Strategy(engine_extra={"external": "yes"}),
        workload=Workload(),
        benchmark=Benchmark(),
        pair=None,
        context=None,
    ),
    "fields from the future": replace(
        performance_samples.body(outcome=performance_samples.outcome(unknown={"humidity_ppm": 7})),
        unknown={"weather": ["calm", b"\0"]},
    ),
    "every field as long as it may be": largest(Performance),
}


def _plain(base: Performance = LEAST, **changes: object) -> dict[str, Any]:
    """Return a body's map, but for the changes: to a section's fields where they are a map, else whole."""
    body: dict[str, Any] = dict(schema.write(base))
    for name, change in changes.items():
        body[name] = body[name] | change if isinstance(change, dict) and isinstance(body.get(name), dict) else change
    plain: dict[str, Any] = ordered(body)
    return plain


def _without(section: str, name: str) -> dict[str, Any]:
    body = _plain()
    body[section] = {key: value for key, value in body[section].items() if key != name}
    return body


def _forged(body: object) -> bytes:
    """Return a validly signed performance record of any body at all."""
    seal = wire.decode(sign_anything(body, prefix=PERFORMANCE.prefix), limits.MESSAGE)
    assert isinstance(seal, dict)
    return packed(dict(sorted((seal | {"kind": "performance"}).items())))


_FLAT: Final = {key: value for key, value in _plain().items() if key != "outcome"}

_INVALID: Final[list[tuple[str, object, str]]] = [
    ("no outcome", _FLAT, "missing_field"),
    ("an outcome that is nil", _plain(outcome=None), "wrong_type"),
    ("no requests in the outcome", _without("outcome", "requests"), "missing_field"),
    ("no word on the weights", _without("model", "weights"), "missing_field"),
    ("no device", _plain(hardware={"count": 0}), "out_of_bounds"),
    ("a device with an escape", _plain(hardware={"name": "\x1b[2J"}), "malformed"),
    ("a nil for what is unknown", _plain(outcome={"ttft_mean_us": None}), "wrong_type"),
    ("a time below zero", _plain(outcome={"ttft_mean_us": -1}), "out_of_bounds"),
    ("a time of 32 days", _plain(outcome={"ttft_mean_us": limits.DURATION_MAX_US + 1}), "out_of_bounds"),
    ("a time as a float", _plain(outcome={"ttft_mean_us": 0.5}), "forbidden_type"),
    ("a time as true", _plain(outcome={"ttft_mean_us": True}), "wrong_type"),
    ("more than all", _plain(outcome={"prefix_hit_ppm": 1_000_001}), "out_of_bounds"),
    ("a rate beyond what doubles carry", _plain(outcome={"output_tokens_per_s_milli": 2**50}), "out_of_bounds"),
    ("a pinned name", _plain(model={"name": f"m@{performance_samples.MODEL.digest}"}), "malformed"),
    ("a short digest", _plain(model={"digest": bytes(31)}), "malformed"),
    ("an origin with a space", _plain(origin="my lab"), "malformed"),
    ("a switch as a number", _plain(strategy={"prefix_caching": 1}), "wrong_type"),
    ("speculation without its tokens", _plain(strategy={"speculation": {"method": "ngram"}}), "missing_field"),
    ("17 extras", _plain(strategy={"engine_extra": {f"k{index:02}": "v" for index in range(17)}}), "out_of_bounds"),
    ("an extra that is a path", _plain(strategy={"engine_extra": {"draft-model": "/home/ann/m"}}), "malformed"),
    ("an extra with a capital", _plain(strategy={"engine_extra": {"Key": "v"}}), "malformed"),
    ("a pair of 15 bytes", _plain(pair=bytes(15)), "out_of_bounds"),
    ("a context as a text", _plain(context="1"), "wrong_type"),
    ("two years of life", _plain(stamp={"expiry": NOW + 2 * performance_samples.LIFETIME}), "out_of_bounds"),
    ("of another swarm", _plain(stamp={"swarm": "mine"}), "wrong_swarm"),
    ("of tomorrow", _plain(stamp={"time": NOW + samples.HOUR}), "from_the_future"),
    ("expired", _plain(stamp={"time": NOW - samples.HOUR, "expiry": NOW}), "expired"),
    ("version 2", _plain(stamp={"version": 2}), "wrong_version"),
    ("an unknown field of 600 values", _plain(zoo=[{}] * 600), "too_many"),
    ("more than 8 KiB", _plain(zoo=["x" * 1000] * 9), "too_large"),
]

# Bodies that are well-formed and cannot be true: changes to the trial, and every code that is due.
_DOUBTED: Final[list[tuple[str, dict[str, Any], list[str]]]] = [
    ("nothing", {}, []),
    ("half of the times above twice the mean", {"outcome": {"ttft_p50_us": 500_000, "ttft_p95_us": 500_000}},
     ["contradiction"]),
    ("more failures than requests", {"outcome": {"failures": 97}}, ["contradiction"]),
    ("speculation that was off", {"strategy": {"prefix_caching": False}}, ["contradiction"]),
    ("a token in half a millisecond", {"outcome": {"tpot_mean_us": 500, "tpot_p50_us": 500, "tpot_p95_us": 500,
      "latency_mean_us": 270_000, "latency_p50_us": 270_000}}, ["speed_of_light"]),
    ("weights that do not fit", {"model": {"weight_bytes": 32_000_000_000}}, ["memory"]),
    ("a thousand watts", {"outcome": {"energy_mj": 13_000_000}}, ["power"]),
    ("a clock of 2024", {"stamp": {"epoch": NOW - 2 * performance_samples.LIFETIME,
      "time": NOW - 2 * performance_samples.LIFETIME, "expiry": NOW - performance_samples.LIFETIME}}, ["clock"]),
]  # fmt: skip


def _valid(name: str, body: Performance) -> Json:
    signed = records.sign(PERFORMANCE, body, samples.KEY)
    row = to_row(body)
    assert from_row(row) == body
    return {
        "name": name,
        "sealed": signed.sealed.hex(),
        "body": jsonable(schema.write(body)),
        "digest": str(signed.digest),
        "row": dict(row),
    }


def _doubted(name: str, changes: dict[str, Any], due: list[str]) -> Json:
    plain = _plain(performance_samples.body(), **changes)
    found = [doubt.value for doubt in doubts(schema.read(Performance, plain), now_us=NOW)]
    assert found == due, (name, found)
    return {"name": name, "body": jsonable(plain), "doubts": due}


def _opener(raw: bytes) -> Callable[[], object]:
    return lambda: records.verify_and_open(raw, PERFORMANCE, swarm=PUBLIC_SWARM, now_us=NOW)


def performance_vectors() -> Json:
    """Sealed records with their rows, those that are refused, and what is doubted of which body."""
    advertised = records.sign(samples.NOTE, samples.note(), samples.KEY).sealed
    invalid = [(name, _forged(body), reason) for name, body, reason in _INVALID]
    invalid += [("another kind", advertised, "wrong_kind")]
    return {
        "valid": [_valid(name, body) for name, body in BODIES.items()],
        "invalid": [
            {"name": name, "sealed": raw.hex(), "reason": refused(_opener(raw), reason)}
            for name, raw, reason in invalid
        ],
        "doubts": [_doubted(*case) for case in _DOUBTED],
        "now_us": NOW,
    }
