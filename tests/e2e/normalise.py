"""What stays equal when the same question is asked twice: answers without their ids, times and torn-up streams.

Ids and times are replaced by their kind, so that their presence is still compared. A stream is folded into what
it said: vLLM puts one token or several into an event as its own scheduling falls, twice the same question gives
two ways of cutting. (That no event is lost, joined or reordered on the way is asked for by its own tests.)
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from tests.e2e.recorder import Event, Exchange, events, parsed

Object = dict[str, object]

# chatcmpl-b147fe750da92402, resp_9a34f439df43f7a1, chatcmpl-tool-8f..., modelperm-...; a UUID in place of the hex.
GENERATED_ID = re.compile(r"\b([a-z]+(?:[-_][a-z]+)*)[-_][0-9a-f]{8}(?:-?[0-9a-f]{4,}){1,4}\b")
CLOCK = re.compile(r"\[\d{2}:\d{2}:\d{2}\]")  # which the grammar compiler writes into its messages
TIME_KEYS = frozenset({"created", "created_at", "completed_at"})
HEADERS_OF_THE_MOMENT = frozenset({"date"})

# Text that a stream sends in pieces.
PIECEWISE = frozenset({"content", "text", "reasoning", "arguments"})


def normalised(exchange: Exchange) -> Object:
    """Return an exchange as plain data that is equal for equal questions."""
    return {
        "request": f"{exchange.method} {_without_ids(exchange.path)}",
        "status": exchange.status,
        "headers": {name: _header(name, value, exchange) for name, value in exchange.headers.items()},
        "body": _body(exchange),
    }


def _header(name: str, value: str, exchange: Exchange) -> str:
    if name in HEADERS_OF_THE_MOMENT:
        return f"<{name}>"
    if name == "content-length" and exchange.body and int(value) == len(exchange.body):
        return "<the body's>"  # ids are of different lengths; the body itself is compared
    return value


def steady(value: object) -> object:
    """Return JSON-like data with generated ids and times replaced by their kind."""
    if isinstance(value, str):
        return _without_ids(value)
    if isinstance(value, Mapping):
        pairs = cast("Mapping[str, object]", value).items()
        return {_without_ids(key): "<time>" if _is_time(key, item) else steady(item) for key, item in pairs}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [steady(item) for item in cast("Sequence[object]", value)]
    return value


def _without_ids(text: str) -> str:
    return CLOCK.sub("[<time>]", GENERATED_ID.sub(r"<\1 id>", text))


def _is_time(key: str, value: object) -> bool:
    return key in TIME_KEYS and isinstance(value, int | float)


def _body(exchange: Exchange) -> object:
    if exchange.streamed:
        return folded(events(exchange.body))
    return steady(parsed(exchange.body.decode("utf-8")))


def folded(stream: Sequence[Event]) -> object:
    """Return what a stream said, however it was cut into events."""
    data = [steady(event.data) for event in stream]
    if any(isinstance(item, dict) and "choices" in item for item in data):
        return _fold_chunks(data)
    return _fold_typed([event.name for event in stream], data)


def _fold_chunks(data: Sequence[object]) -> Object:
    """Fold `chat.completion.chunk`s or `text_completion`s: per choice what its deltas add up to."""
    chunks = [cast("Object", item) for item in data if isinstance(item, dict)]
    choices: dict[str, Object] = {}
    envelope: dict[str, list[object]] = {}
    for chunk in chunks:
        for key, value in chunk.items():
            if key not in {"choices", "usage"} and value not in envelope.setdefault(key, []):
                envelope[key].append(value)
        for choice in cast("list[Object]", chunk.get("choices", [])):
            index = f"choice {choice['index']}"
            choices[index] = cast("Object", _added(choices.get(index), choice))
    return {
        "envelope": envelope,
        "choices": choices,
        "last usage": next((chunk["usage"] for chunk in reversed(chunks) if chunk.get("usage")), None),
        "usage in every chunk": all(chunk.get("usage") for chunk in chunks),
        "besides": [item for item in data if not isinstance(item, dict)],  # [DONE]
    }


def _added(total: object, piece: object, key: str = "") -> object:
    """Return what `piece` makes of `total`: pieces of text and lists grow, whatever else is replaced."""
    if total is None or piece is None:
        return piece if total is None else total
    if isinstance(total, dict) and isinstance(piece, dict):
        old, new = cast("Object", total), cast("Object", piece)
        return old | {name: _added(old.get(name), value, name) for name, value in new.items()}
    if isinstance(total, list) and isinstance(piece, list):
        old_list, new_list = cast("list[object]", total), cast("list[object]", piece)
        return _calls(old_list, new_list) if key == "tool_calls" else old_list + new_list
    if isinstance(total, str) and isinstance(piece, str) and key in PIECEWISE:
        return total + piece
    return piece


def _calls(total: list[object], pieces: list[object]) -> list[object]:
    """Add pieces of tool calls, which name their call by its index."""
    by_index = {cast("Object", call)["index"]: call for call in total}
    for piece in pieces:
        index = cast("Object", piece)["index"]
        by_index[index] = _added(by_index.get(index), piece)
    return list(by_index.values())


def _fold_typed(names: Sequence[str | None], data: Sequence[object]) -> list[object]:
    """Fold the events of Responses and Messages: neighbours of one type with a delta become one."""
    result: list[Object] = []
    for position, (name, item) in enumerate(zip(names, data, strict=True)):
        event: Object = {"event": name, "data": _numbered(item, position)}
        last = result[-1] if result else None
        if last and last["event"] == name and _has_delta(item):
            last["data"] = _joined(cast("Object", last["data"]), cast("Object", event["data"]))
        else:
            result.append(event)
    return cast("list[object]", result)


def _numbered(item: object, position: int) -> object:
    """Replace a sequence number by whether it is the right one: how many went before depends on the cutting."""
    if isinstance(item, dict) and "sequence_number" in item:
        return cast("Object", item) | {"sequence_number": item["sequence_number"] == position}
    return item


def _has_delta(item: object) -> bool:
    return isinstance(item, dict) and "delta" in item


def _joined(old: Object, new: Object) -> Object:
    join: Callable[[object, object], object] = _joined_delta
    return old | new | {"delta": join(old["delta"], new["delta"])} | _grown(old, new)


def _joined_delta(old: object, new: object) -> object:
    if isinstance(old, str) and isinstance(new, str):
        return old + new
    if isinstance(old, dict) and isinstance(new, dict):
        before, after = cast("Object", old), cast("Object", new)
        texts = {"text", "partial_json", "thinking"} & before.keys() & after.keys()
        return before | after | {key: f"{before[key]}{after[key]}" for key in texts}
    return new


def _grown(old: Object, new: Object) -> Object:
    """Return the lists that two events both have (log-probabilities), joined."""
    shared = old.keys() & new.keys()
    both = {key: (old[key], new[key]) for key in shared}
    return {key: a + b for key, (a, b) in both.items() if isinstance(a, list) and isinstance(b, list)}
