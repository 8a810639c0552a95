"""Vectors of the inference exchange: messages, and whole dialogues."""

from collections.abc import Callable
from typing import Final

from protocol import inference, inference_events, limits, schema, wire
from tests.protocol import samples
from tests.vectors.forms import Json, jsonable, packed, refused

_MESSAGES_INVALID: Final[list[tuple[str, object, str]]] = [
    ("not a map", ["ask"], "wrong_type"),
    ("no kind", {"data": b"x"}, "missing_field"),
    ("a kind that is not known", {"kind": "hello"}, "unknown_message"),
    ("data without data", {"kind": "data"}, "missing_field"),
    ("data of nothing", {"data": b"", "kind": "data"}, "out_of_bounds"),
    ("data as text", {"data": "x", "kind": "data"}, "wrong_type"),
    ("status as text", {"headers": [], "kind": "head", "status": "200"}, "wrong_type"),
    ("status 100", {"headers": [], "kind": "head", "status": 100}, "out_of_bounds"),
    ("nil for an absent field", {"data_size": 0, "kind": "end", "load": None}, "wrong_type"),
    ("load that is not a number", {"data_size": 0, "kind": "end", "load": {"running": "3"}}, "wrong_type"),
    ("negative load", {"data_size": 0, "kind": "end", "load": {"running": -1}}, "out_of_bounds"),
]


def _ask(**changes: object) -> Json:
    return dict(sorted((schema.write(samples.ASK) | {"kind": "ask"} | changes).items()))


def _invalid_asks() -> list[tuple[str, object, str]]:
    header = [b"accept", b"*/*"]
    return [
        ("a body above 32 MiB", _ask(body_size=limits.BODY_BYTES + 1), "out_of_bounds"),
        ("a negative body", _ask(body_size=-1), "out_of_bounds"),
        ("another method", _ask(method="PUT"), "malformed"),
        ("a whole URL as target", _ask(target="http://127.0.0.1/"), "malformed"),
        ("an authority as target", _ask(target="//host/v1/models"), "malformed"),
        ("a line break in the target", _ask(target="/v1/models\r\nx: y"), "malformed"),
        ("a fragment", _ask(target="/v1/models#x"), "malformed"),
        ("a space in the request id", _ask(request_id="a b"), "malformed"),
        ("no request id", {key: value for key, value in _ask().items() if key != "request_id"}, "missing_field"),
        ("no time left", _ask(time_left_us=0), "out_of_bounds"),
        ("the 17th attempt", _ask(attempt=17), "out_of_bounds"),
        ("an authorization header", _ask(headers=[[b"authorization", b"Bearer x"]]), "malformed"),
        ("a cookie", _ask(headers=[[b"cookie", b"a=b"]]), "malformed"),
        ("an API key", _ask(headers=[[b"x-api-key", b"x"]]), "malformed"),
        ("a header in capitals", _ask(headers=[[b"Accept", b"*/*"]]), "malformed"),
        ("a line break in a header", _ask(headers=[[b"accept", b"a\r\nb: c"]]), "malformed"),
        ("a header of texts", _ask(headers=[["accept", "a"]]), "wrong_type"),
        ("a header of three", _ask(headers=[[b"accept", b"a", b"b"]]), "wrong_type"),
        ("33 headers", _ask(headers=[header] * 33), "out_of_bounds"),
        ("17 KiB of headers", _ask(headers=[[b"accept", b"x" * 3400]] * 5), "out_of_bounds"),
    ]


def inference_vectors() -> Json:
    """Messages, and whole dialogues with the state that each end is in after each message."""
    invalid = _MESSAGES_INVALID + _invalid_asks()
    dropped = packed(_ask(headers=[[b"accept", b"*/*"], [b"x-new", b"1"]]))
    return {
        "valid": [
            {"name": name, "hex": raw.hex(), "message": jsonable(wire.decode(raw, limits.MESSAGE))}
            for name, raw in ((name, inference_events.encode(event)) for name, event in samples.MESSAGES.items())
        ],
        "headers_dropped": {"hex": dropped.hex(), "kept": [["accept", "*/*"]]},
        "invalid": [
            {"name": name, "hex": packed(value).hex(), "reason": refused(_reader(packed(value)), reason)}
            for name, value, reason in invalid
        ],
        "dialogues": [_dialogue(name, script) for name, script in DIALOGUES.items()],
    }


def _reader(payload: bytes) -> Callable[[], object]:
    return lambda: inference_events.decode(payload)


A, V = inference.Role.ASKER, inference.Role.SERVER
Script = list[tuple[inference.Role, inference_events.Event | None]]
# (role, event): this end sends it. (role, None): this end takes everything that is under way to it.
DIALOGUES: Final[dict[str, Script]] = {
    "a prompt without body": [
        (A, samples.ASK_WHOLE), (V, None), (V, samples.HEAD), (V, samples.DATA), (V, samples.END), (A, None),
    ],
    "a prompt with a body in two parts, then another prompt on the same stream": [
        (A, samples.ASK), (A, samples.BODY), (A, samples.BODY_LAST), (V, None), (V, samples.HEAD), (A, None),
        (V, samples.DATA), (V, samples.END), (A, None), (A, samples.ASK_WHOLE), (V, None), (V, samples.FAIL), (A, None),
    ],
    "cancelled while it answers": [
        (A, samples.ASK_WHOLE), (V, None), (V, samples.HEAD), (A, samples.CANCEL), (V, samples.DATA), (V, None),
        (V, samples.CANCELLED), (A, None), (A, samples.ASK_WHOLE), (V, None),
    ],
    "the end and the cancel cross": [
        (A, samples.ASK_WHOLE), (V, None), (V, samples.HEAD), (V, samples.DATA), (V, samples.END), (A, samples.CANCEL),
        (V, None), (V, samples.CANCELLED), (A, None), (A, samples.ASK_WHOLE), (V, None), (V, samples.REFUSE), (A, None),
    ],
    "refused while the body is under way": [
        (A, samples.ASK), (V, None), (A, samples.BODY), (V, samples.REFUSE), (A, None), (A, samples.CANCEL), (V, None),
        (V, samples.CANCELLED), (A, None),
    ],
    "refused while the last of the body is under way": [
        (A, samples.ASK), (V, None), (V, samples.REFUSE), (A, samples.BODY), (A, samples.BODY_LAST), (A, None),
        (A, samples.ASK_WHOLE), (V, None),
    ],
}  # fmt: skip


def _dialogue(name: str, script: Script) -> Json:
    ends = {role: inference.Exchange(role) for role in inference.Role}
    steps: list[Json] = []
    for role, event in script:
        other = V if role is A else A
        if event is not None:
            raw = ends[role].send(event)
            ends[other].feed(raw)
            steps.append({"by": role.value, "sends": raw.hex(), "state": ends[role].state.value})
        else:
            took = 0
            while ends[role].next_event() is not None:
                took += 1
            steps.append({"by": role.value, "takes": took, "state": ends[role].state.value})
    return {"name": name, "steps": steps}
