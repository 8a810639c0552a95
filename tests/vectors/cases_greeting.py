"""Vectors of the greeting and of load: messages, whole dialogues, settlements, figures."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from protocol import hello, limits, load, reach, schema, wire
from protocol.dialogue import Role
from protocol.hello import Greeting, Hello, Part, Settled
from protocol.ids import SwarmId
from protocol.messages import Vocabulary
from tests.protocol import samples, swarm_samples
from tests.vectors.forms import Json, jsonable, ordered, packed, refused

NOW: Final = samples.NOW


def _valid(messages: Mapping[str, Any], vocabulary: Vocabulary[Any]) -> list[Json]:
    raws = {name: vocabulary.encode(message) for name, message in messages.items()}
    return [
        {"name": name, "hex": raw.hex(), "message": jsonable(wire.decode(raw, limits.MESSAGE))}
        for name, raw in raws.items()
    ]


def _invalid(cases: list[tuple[str, object, str]], vocabulary: Vocabulary[Any]) -> list[Json]:
    return [
        {"name": name, "hex": packed(value).hex(), "reason": refused(_reader(packed(value), vocabulary), reason)}
        for name, value, reason in cases
    ]


def _reader(payload: bytes, vocabulary: Vocabulary[Any]) -> Callable[[], object]:
    return lambda: vocabulary.decode(payload)


def _hello(**changes: object) -> Json:
    plain: Json = ordered(schema.write(swarm_samples.hello()) | {"kind": "hello"} | changes)
    return plain


def _deep(value: object) -> Json:
    return _hello(zoo=[[[[[value]]]]])


_HELLO_INVALID: Final[list[tuple[str, object, str]]] = [
    ("not a map", [1], "wrong_type"),
    ("no kind", {"code": "full", "message": ""}, "missing_field"),
    ("a kind that is not known", {"kind": "welcome"}, "unknown_message"),
    ("no swarm", {key: value for key, value in _hello().items() if key != "swarm"}, "missing_field"),
    ("a swarm in capitals", _hello(swarm="Public"), "malformed"),
    ("a sender as text", _hello(sender=str(samples.AUTHOR)), "wrong_type"),
    ("a sender of small order", _hello(sender=bytes.fromhex("002408011220") + bytes(32)), "malformed"),
    ("time before 1970", _hello(time=-1), "out_of_bounds"),
    ("time as true", _hello(time=True), "wrong_type"),
    ("an incarnation beyond 2^53-1", _hello(incarnation=2**53), "malformed"),
    ("no software", _hello(software=""), "malformed"),
    ("software with an escape", _hello(software="a\x1b[31m"), "malformed"),
    ("software too long", _hello(software="x" * 65), "out_of_bounds"),
    ("version 0", _hello(versions={"infer": [0]}), "out_of_bounds"),
    ("version 256", _hello(versions={"infer": [256]}), "out_of_bounds"),
    ("nine versions", _hello(versions={"infer": list(range(1, 10))}), "out_of_bounds"),
    ("33 protocols", _hello(versions={f"p{index:02}": [1] for index in range(33)}), "out_of_bounds"),
    ("a protocol in capitals", _hello(versions={"Infer": [1]}), "malformed"),
    ("33 features", _hello(features=["a"] * 33), "out_of_bounds"),
    ("a feature with a space", _hello(features=["a b"]), "malformed"),
    ("a code of nothing", {"code": "", "kind": "part", "message": ""}, "malformed"),
    ("a message of 1025 bytes", {"code": "full", "kind": "part", "message": "x" * 1025}, "too_large"),
    ("an unknown field of five lists", _deep(1), "too_deep"),
    ("an unknown field of a thousand values", _hello(zoo=[[1] * 60] * 9), "too_many"),
    ("more than 4 KiB", _hello(zoo=["x" * 1000] * 5), "too_large"),
]


def _settlement(name: str, ours: Hello, theirs: Hello) -> Json:
    verdict = hello.settle(ours, theirs)
    case: Json = {"name": name, "ours": jsonable(schema.write(ours)), "theirs": jsonable(schema.write(theirs))}
    if isinstance(verdict, Part):
        return case | {"part": verdict.code}
    return case | {
        "versions": dict(verdict.versions),
        "features": sorted(verdict.features),
        "skew_us": verdict.skew_us,
    }


Script = list[tuple[Role, Greeting]]


def _dialogue(name: str, ours: Hello, theirs: Hello, *, judge: hello.Judge = hello.welcome_all) -> Json:
    """Let the node of `ours` open the greeting; `judge` is the opener's."""
    opener = Greeting(Role.OPENER, ours, theirs.sender, judge=judge)
    answerer = Greeting(Role.ANSWERER, theirs, ours.sender)
    first = opener.begin(ours.time)
    second = answerer.take(first, theirs.time)
    assert second is not None
    third = opener.take(second, ours.time)
    if third is not None:
        answerer.take(third, theirs.time)
    return {
        "name": name,
        "opener_sends": first.hex(),
        "answerer_sends": second.hex(),
        "opener_adds": None if third is None else third.hex(),
        "opener": _outcome(opener),
        "answerer": _outcome(answerer),
    }


def _outcome(end: Greeting) -> str:
    outcome = end.outcome
    assert outcome is not None
    return "met" if isinstance(outcome, Settled) else f"parted: {outcome.code}"


def no_room(_: Settled) -> Part:
    """Judge as a node that is full."""
    return Part(code="full", message="")


def greeting_pairs() -> dict[str, tuple[Hello, Hello]]:
    """Return pairs of hellos of two nodes, by what is odd about them."""
    ours, newer = swarm_samples.hello(), swarm_samples.HELLOS["hello of a newer node"]
    theirs = swarm_samples.HELLOS["hello of the other"]
    assert isinstance(newer, Hello)
    assert isinstance(theirs, Hello)
    return {
        "equals": (ours, theirs),
        "a newer node": (ours, newer),
        "another swarm": (ours, swarm_samples.hello(sender=swarm_samples.OTHER, swarm=SwarmId("mine"))),
        "nothing in common": (
            ours, swarm_samples.hello(sender=swarm_samples.OTHER, versions={"infer": (2,), "telepathy": (1,)}),
        ),
    }  # fmt: skip


def hello_vectors() -> Json:
    """Messages of the greeting, what two hellos come to, and whole dialogues."""
    pairs = greeting_pairs()
    ours = swarm_samples.hello()
    return {
        "valid": _valid(swarm_samples.HELLOS, hello.SCRIPT.vocabulary),
        "invalid": _invalid(_HELLO_INVALID, hello.SCRIPT.vocabulary),
        "settlements": [
            *(_settlement(name, *pair) for name, pair in pairs.items()),
            *(_settlement(f"{name}, the other way round", pair[1], pair[0]) for name, pair in pairs.items()),
            _settlement("itself", ours, ours),
        ],
        "dialogues": [
            *(_dialogue(name, *pair) for name, pair in pairs.items()),
            _dialogue("an opener that is full", *pairs["equals"], judge=no_room),
        ],
    }


_LOAD_INVALID: Final[list[tuple[str, object, str]]] = [
    ("a kind that is not known", {"kind": "ask"}, "unknown_message"),
    ("no figures", {"kind": "report"}, "missing_field"),
    ("a figure as text", {"kind": "report", "load": {"running": "3"}}, "wrong_type"),
    ("a figure as true", {"kind": "report", "load": {"accepting": True}}, "wrong_type"),
    ("a negative figure", {"kind": "report", "load": {"running": -1}}, "out_of_bounds"),
    ("a figure above 2^53-1", {"kind": "report", "load": {"running": 2**53}}, "out_of_bounds"),
    ("a figure with a bad name", {"kind": "report", "load": {"Running": 1}}, "malformed"),
    ("33 figures", {"kind": "report", "load": {f"f{index:02}": 1 for index in range(33)}}, "out_of_bounds"),
]
_FIGURES: Final[list[tuple[str, dict[str, int], str | None]]] = [
    ("the two that everybody sends", {"running": 1, "waiting": 2}, None),
    ("all, and one of tomorrow", {**swarm_samples.LOAD.to_figures(), "humidity": 7}, None),
    ("a state of tomorrow", {"running": 0, "state": 9, "waiting": 0}, None),
    ("not accepting", {"accepting": 0, "running": 64, "waiting": 256}, None),
    ("without running", {"waiting": 0}, "missing_field"),
    ("without waiting", {"running": 0}, "missing_field"),
    ("accepting a bit", {"accepting": 2, "running": 0, "waiting": 0}, "out_of_bounds"),
]


def load_vectors() -> Json:
    """Messages of `/metainf/load/1`, and figures with what they mean."""
    return {
        "valid": _valid(swarm_samples.LOADS, load.SCRIPT.vocabulary),
        "invalid": _invalid(_LOAD_INVALID, load.SCRIPT.vocabulary),
        "figures": [
            {"name": name, "figures": dict(sorted(figures.items()))} | _reading(figures, reason)
            for name, figures, reason in _FIGURES
        ],
    }


def _reading(figures: Mapping[str, int], reason: str | None) -> Json:
    if reason is not None:
        return {"reason": refused(lambda: load.read_figures(figures), reason)}
    reading = load.read_figures(figures)
    return {"reading": dict(reading.to_figures()), "open": reading.open}


_REACH_INVALID: Final[list[tuple[str, object, str]]] = [
    ("a kind that is not known", {"kind": "dial"}, "unknown_message"),
    ("no ports", {"kind": "ask"}, "missing_field"),
    ("five ports", {"kind": "ask", "ports": [1, 2, 3, 4, 5]}, "out_of_bounds"),
    ("port 0", {"kind": "ask", "ports": [0]}, "out_of_bounds"),
    ("port 65536", {"kind": "ask", "ports": [65536]}, "out_of_bounds"),
    ("a port as text", {"kind": "ask", "ports": ["47470"]}, "wrong_type"),
    ("nothing tried", {"kind": "seen", "reached": []}, "missing_field"),
    ("a name for a host", {"host": "example.org", "kind": "seen", "reached": [], "tried": []}, "malformed"),
    ("a host of 46 characters", {"host": "1" * 46, "kind": "seen", "reached": [], "tried": []}, "out_of_bounds"),
]


def reach_vectors() -> Json:
    """Messages of `/metainf/reach/1`."""
    return {
        "valid": _valid(swarm_samples.REACHES, reach.SCRIPT.vocabulary),
        "invalid": _invalid(_REACH_INVALID, reach.SCRIPT.vocabulary),
    }
