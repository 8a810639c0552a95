"""Vectors of the exchange of histories: messages, digests of holdings, answers held to their questions."""

from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any, Final

from protocol import history, limits, schema, wire
from protocol.history import SCRIPT, Held, Holdings, List, Message, Page, Point
from tests.protocol import history_samples as known
from tests.protocol import samples, swarm_samples
from tests.vectors.forms import Json, jsonable, ordered, packed, refused

_PEER: Final = samples.AUTHOR.to_bytes()
_HELD: Final[Json] = schema.write(known.HELD)


def _held(**changes: object) -> Json:
    return ordered({"held": [_HELD | changes], "kind": "holdings", "more": False})


def _want(**changes: object) -> Json:
    return ordered({"kind": "fetch", "wants": [schema.write(known.WANT) | changes]})


_INVALID: Final[list[tuple[str, object, str]]] = [
    ("a kind that is not known", {"kind": "push"}, "unknown_message"),
    ("a digest of 31 bytes", {"digest": bytes(31), "kind": "compare"}, "out_of_bounds"),
    ("255 buckets", {"digests": bytes(255 * 32), "kind": "buckets"}, "out_of_bounds"),
    ("a bitmap of 31 bytes", {"buckets": bytes(31), "kind": "list"}, "out_of_bounds"),
    ("a place without its epoch", {"after": {"author": _PEER}, "buckets": bytes(32), "kind": "list"}, "missing_field"),
    ("an author as text", _held(author=str(samples.AUTHOR)), "wrong_type"),
    ("no ranges", _held(ranges=[]), "out_of_bounds"),
    ("half a range", _held(ranges=[1, 2, 3]), "out_of_bounds"),
    ("a range backwards", _held(ranges=[2, 1]), "malformed"),
    ("ranges that touch", _held(ranges=[1, 2, 3, 4]), "malformed"),
    ("ranges that overlap", _held(ranges=[1, 5, 4, 9]), "malformed"),
    ("ranges that descend", _held(ranges=[7, 9, 1, 2]), "malformed"),
    ("a number below zero", _held(ranges=[-1, 2]), "out_of_bounds"),
    ("a number beyond 2^53-1", _held(ranges=[0, 2**53]), "out_of_bounds"),
    ("ranges as pairs", _held(ranges=[[1, 2]]), "wrong_type"),
    ("1025 ranges", _held(ranges=[2 * number for number in range(1025) for _ in "ab"]), "too_many"),
    ("more as 1", ordered({"held": [], "kind": "holdings", "more": 1}), "wrong_type"),
    ("257 holdings", ordered({"held": [_HELD] * 257, "kind": "holdings", "more": False}), "out_of_bounds"),
    ("65 ranges of one want", _want(ranges=[2 * number for number in range(65) for _ in "ab"]), "out_of_bounds"),
    ("65 wants", ordered({"kind": "fetch", "wants": [schema.write(known.WANT)] * 65}), "out_of_bounds"),
    ("257 records", {"kind": "page", "records": [b"x"] * 257}, "out_of_bounds"),
    ("an empty record", {"kind": "page", "records": [b""]}, "out_of_bounds"),
    ("a record above 16 KiB", {"kind": "page", "records": [bytes(16 * 1024 + 1)]}, "too_large"),
    ("a wait below zero", {"kind": "busy", "wait_ms": -1}, "out_of_bounds"),
]

_EXCHANGES: Final[list[tuple[str, Message, Message, str | None]]] = [
    ("all of it", known.MESSAGES["fetch of two"], Page(records=(b"x",) * 8), None),
    ("nothing of it", known.MESSAGES["fetch"], Page(records=()), None),
    ("the first want in part", known.MESSAGES["fetch of two"], Page(records=(b"x",) * 2, next=Point(
        author=samples.AUTHOR, epoch=swarm_samples.EPOCH, seq=6)), None),
    ("the first want in full", known.MESSAGES["fetch of two"], Page(records=(), next=Point(
        author=swarm_samples.OTHER, epoch=known.OLDER, seq=1)), None),
    ("more than was asked for", known.MESSAGES["fetch"], Page(records=(b"x",) * 7), "too_many"),
    ("on from where it began", known.MESSAGES["fetch"], Page(records=(), next=Point(
        author=samples.AUTHOR, epoch=swarm_samples.EPOCH, seq=9)), "out_of_bounds"),
    ("on with what nobody wants", known.MESSAGES["fetch"], Page(records=(), next=Point(
        author=swarm_samples.OTHER, epoch=known.OLDER, seq=1)), "out_of_bounds"),
    ("on below what is wanted", known.MESSAGES["fetch"], Page(records=(), next=Point(
        author=samples.AUTHOR, epoch=swarm_samples.EPOCH, seq=2)), "out_of_bounds"),
    ("in order", List(buckets=known.ALL), Holdings(held=known.IN_ORDER, more=True), None),
    ("on in order", List(buckets=known.ALL, after=known.IN_ORDER[0].place),
        Holdings(held=known.IN_ORDER[1:], more=False), None),
    ("out of order", List(buckets=known.ALL), Holdings(held=known.IN_ORDER[::-1], more=False), "malformed"),
    ("one of them again", List(buckets=known.ALL, after=known.IN_ORDER[0].place),
        Holdings(held=known.IN_ORDER, more=False), "malformed"),
    ("of another bucket", List(buckets=bytes(32)), Holdings(held=known.IN_ORDER, more=False), "out_of_bounds"),
    ("more behind nothing", List(buckets=known.ALL), Holdings(held=(), more=True), "out_of_bounds"),
]  # fmt: skip


def _exchange(name: str, asked: Message, said: Message, reason: str | None) -> Json:
    case: Json = {
        "name": name,
        "question": SCRIPT.vocabulary.encode(asked).hex(),
        "answer": SCRIPT.vocabulary.encode(said).hex(),
    }
    if reason is not None:
        return case | {"reason": refused(lambda: known.hold(asked, said), reason)}
    return case | {"rest": [jsonable(schema.write(want)) for want in known.hold(asked, said)]}


def _digests() -> Json:
    authors: list[tuple[int, Json, bytes, Held]] = []
    for _, grouped in groupby(known.IN_ORDER, key=lambda held: held.author):
        held = list(grouped)
        digest = history.author_digest(held)
        plain: Json = {"held": [jsonable(schema.write(each)) for each in held], "digest": digest.hex()}
        authors.append((history.bucket_of(held[0].author), plain, digest, held[0]))
    digests = [
        history.bucket_digest((one.author, digest) for bucket, _, digest, one in authors if bucket == index)
        for index in range(limits.HISTORY_BUCKETS)
    ]
    return {
        "authors": [{"bucket": bucket} | plain for bucket, plain, _, _ in authors],
        "empty_bucket": history.bucket_digest(()).hex(),
        "buckets": {str(bucket): digests[bucket].hex() for bucket, _, _, _ in authors},
        "root": history.root(b"".join(digests)).hex(),
    }


def history_vectors() -> Json:
    """Messages of `/metainf/history/1`, digests of holdings, answers with what is made of them."""
    messages: Mapping[str, Any] = known.MESSAGES
    raws = {name: SCRIPT.vocabulary.encode(message) for name, message in messages.items()}
    return {
        "valid": [
            {"name": name, "hex": raw.hex(), "message": jsonable(wire.decode(raw, limits.MESSAGE))}
            for name, raw in raws.items()
        ],
        "invalid": [
            {"name": name, "hex": packed(value).hex(), "reason": refused(_reader(packed(value)), reason)}
            for name, value, reason in _INVALID
        ],
        "digests": _digests(),
        "exchanges": [_exchange(*case) for case in _EXCHANGES],
    }


def _reader(payload: bytes) -> Callable[[], object]:
    return lambda: SCRIPT.vocabulary.decode(payload)
