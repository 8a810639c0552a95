"""Vectors of signed records, and the forger's tools that make the invalid ones."""

from typing import Any

from protocol import limits, records, schema, wire
from protocol.ids import PUBLIC_SWARM, SwarmId
from tests.protocol import samples
from tests.vectors.forms import Json, jsonable, packed, refused


def records_vectors() -> Json:
    """Sealed records, what they say, and when and why they are refused."""
    signed = records.sign(samples.NOTE, samples.note(), samples.KEY)
    newer = records.sign(
        samples.NEXT_NOTE, samples.NextNote(stamp=samples.stamp(seq=8), text="hello", mood="calm", tags=()), samples.KEY
    )
    return {
        "kind": {"name": "note", "version": 1, "prefix": samples.NOTE.prefix.hex(), "lifetime_us": 24 * samples.HOUR},
        "private_key": samples.KEY.private_bytes_raw().hex(),
        "valid": [_opened("note", signed.sealed), _opened("note with a field from the future", newer.sealed)],
        "invalid": [
            {
                "name": name,
                "sealed": sealed.hex(),
                "now_us": now,
                "swarm": swarm,
                "reason": _unsealed(sealed, now, swarm, reason),
            }
            for name, sealed, now, swarm, reason in _invalid_records(signed.sealed)
        ],
    }


def _opened(name: str, sealed: bytes) -> Json:
    record = records.verify_and_open(sealed, samples.NOTE, swarm=PUBLIC_SWARM, now_us=samples.NOW)
    seal = wire.decode(sealed, limits.RECORD)
    assert isinstance(seal, dict)
    assert isinstance(seal["body"], bytes)
    body = wire.decode(seal["body"], limits.RECORD)
    return {
        "name": name,
        "sealed": sealed.hex(),
        "seal": jsonable(seal),
        "body": jsonable(body),
        "digest": str(record.digest),
        "record": str(record.name),
        "now_us": samples.NOW,
    }


def _unsealed(sealed: bytes, now: int, swarm: str, reason: str) -> str:
    return refused(lambda: records.verify_and_open(sealed, samples.NOTE, swarm=SwarmId(swarm), now_us=now), reason)


def reseal(sealed: bytes, **changes: object) -> bytes:
    """Return the sealed record with other fields in its sealed form, its signature as it was."""
    seal = wire.decode(sealed, limits.RECORD)
    assert isinstance(seal, dict)
    return packed(dict(sorted((seal | changes).items())))


def sign_anything(body: object, *, key: Any = samples.KEY, prefix: bytes = samples.NOTE.prefix) -> bytes:
    """Return a validly signed record of any body at all, as a hostile author can make it."""
    raw = body if isinstance(body, bytes) else packed(body)
    seal = {"body": raw, "kind": "note", "signature": key.sign(prefix + raw), "version": 1}
    return packed(seal)


def stamped(**changes: object) -> dict[str, Any]:
    """Return an honest body's map, but for changes to its stamp."""
    body: dict[str, Any] = dict(schema.write(samples.note()))
    body["stamp"] = dict(sorted((body["stamp"] | changes).items()))
    return dict(sorted(body.items()))


def _invalid_records(sealed: bytes) -> list[tuple[str, bytes, int, str, str]]:
    now, hour = samples.NOW, samples.HOUR
    signature = wire.decode(sealed, limits.RECORD)["signature"]  # type: ignore[index,call-overload]
    assert isinstance(signature, bytes)
    order = 2**252 + 27742317777372353535851937790883648493
    malleated = signature[:32] + (int.from_bytes(signature[32:], "little") + order).to_bytes(32, "little")
    body = stamped()
    nobody = bytes.fromhex("002408011220") + bytes(32)  # the peer id of the key y = 0, of order 4
    stampless = {key: value for key, value in body.items() if key != "stamp"}
    there: list[tuple[str, bytes, str]] = [
        ("signature of zeros", reseal(sealed, signature=bytes(64)), "bad_signature"),
        ("signature with S + L", reseal(sealed, signature=malleated), "bad_signature"),
        ("signature cut short", reseal(sealed, signature=signature[:63]), "out_of_bounds"),
        ("signed by somebody else", sign_anything(body, key=samples.OTHER_KEY), "bad_signature"),
        ("signed for another kind", sign_anything(body, prefix=samples.LETTER.prefix), "bad_signature"),
        ("signed for another version", sign_anything(body, prefix=b"metainf/note/2\0"), "bad_signature"),
        ("signed without a prefix", sign_anything(body, prefix=b""), "bad_signature"),
        ("another kind", reseal(sealed, kind="letter"), "wrong_kind"),
        ("another version outside", reseal(sealed, version=2), "wrong_version"),
        ("another version inside", sign_anything(stamped(version=2)), "wrong_version"),
        ("a field beside the seal's four", reseal(sealed, note=1), "malformed"),
        ("author of another form", sign_anything(stamped(author=samples.AUTHOR.public_key())), "malformed"),
        ("author of small order", sign_anything(stamped(author=nobody)), "malformed"),
        ("no stamp", sign_anything(stampless), "missing_field"),
        ("seq as a text", sign_anything(stamped(seq="7")), "wrong_type"),
        ("seq as true", sign_anything(stamped(seq=True)), "wrong_type"),
        ("time above 2^53-1", sign_anything(stamped(expiry=2**53)), "out_of_bounds"),
        ("older than its history", sign_anything(stamped(epoch=now + 1)), "out_of_bounds"),
        ("expires before it begins", sign_anything(stamped(expiry=now)), "out_of_bounds"),
        ("lives longer than its kind", sign_anything(stamped(expiry=now + 25 * hour)), "out_of_bounds"),
        ("body not canonical", sign_anything(packed(dict(reversed(body.items())))), "map_order"),
        ("body with a float", sign_anything(body | {"weight": 1.0}), "forbidden_type"),
        ("not a map", packed([1]), "wrong_type"),
    ]
    return [(name, raw, now, "public", reason) for name, raw, reason in there] + [
        ("expired this microsecond", sealed, now + hour, "public", "expired"),
        ("six minutes early", sealed, now - 360_000_000, "public", "from_the_future"),
        ("of another swarm", sealed, now, "private-1", "wrong_swarm"),
    ]
