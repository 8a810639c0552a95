"""Vectors of what is said to all: adverts, addresses, gossip, and the distributed table."""

from collections.abc import Callable
from typing import Any, Final

from protocol import dht, gossip, limits, records, schema, wire
from protocol.addresses import parse_address, parse_circuit
from protocol.advert import ADVERT
from protocol.dht import batch_key, head_key, peer_key
from protocol.errors import Reason
from protocol.gossip import Subject, Topic, Verdict
from protocol.ids import PUBLIC_SWARM, PeerId, SwarmId
from tests.protocol import samples, swarm_samples
from tests.vectors.cases_records import sign_anything
from tests.vectors.forms import Json, jsonable, ordered, packed, refused

NOW: Final = samples.NOW


def _plain(**changes: object) -> dict[str, Any]:
    """Return an honest advert's map, but for the changes to it."""
    body: dict[str, Any] = ordered(schema.write(swarm_samples.advert_body()) | changes)
    return body


def _forged(body: object) -> bytes:
    """Return a validly signed advert of any body at all."""
    sealed = wire.decode(sign_anything(body, prefix=ADVERT.prefix), limits.MESSAGE)
    assert isinstance(sealed, dict)
    return packed(dict(sorted((sealed | {"kind": "advert"}).items())))


def _stamped(**changes: object) -> dict[str, Any]:
    body = _plain()
    return body | {"stamp": dict(sorted((body["stamp"] | changes).items()))}


def _model(**changes: object) -> list[dict[str, Any]]:
    return [dict(sorted(({"name": "m"} | changes).items()))]


def _advert_invalid() -> list[tuple[str, bytes, str]]:
    there = "/ip4/192.0.2.7/tcp/47470"
    bodies: list[tuple[str, object, str]] = [
        ("no roles", {key: value for key, value in _plain().items() if key != "roles"}, "missing_field"),
        ("17 addresses", _plain(addresses=[there] * 17), "out_of_bounds"),
        ("an address of 257 bytes", _plain(addresses=["/dns4/" + "x" * 251]), "out_of_bounds"),
        ("no multiaddr", _plain(addresses=["192.0.2.7:47470"]), "malformed"),
        ("an address with a line break", _plain(addresses=[there + "\n/x"]), "malformed"),
        ("17 models", _plain(models=_model() * 17), "out_of_bounds"),
        ("a pinned name", _plain(models=_model(name=f"m@{swarm_samples.DIGEST}")), "malformed"),
        ("a name with a space", _plain(models=_model(name="a b")), "malformed"),
        ("a short digest", _plain(models=_model(digest=bytes(31))), "malformed"),
        ("a length of nothing", _plain(models=_model(max_length=0)), "out_of_bounds"),
        ("nine modalities", _plain(models=_model(modalities=["text"] * 9)), "out_of_bounds"),
        ("leaving as a number", _plain(leaving=1), "wrong_type"),
        ("leaving as nil", _plain(leaving=None), "wrong_type"),
        ("a name of 65 bytes", _plain(name="x" * 65), "out_of_bounds"),
        ("no accelerators in the hardware", _plain(hardware={}), "missing_field"),
        (
            "no device of a kind", _plain(hardware={"accelerators": [{"count": 0, "name": "GPU"}]}), "out_of_bounds",
        ),
        ("a device with an escape", _plain(hardware={"accelerators": [], "cpu_name": "\x1b[2J"}), "malformed"),
        ("an engine without a name", _plain(engine={}), "missing_field"),
        ("an intent with a space", _plain(intends="switch now"), "malformed"),
        ("negative limits", _plain(limits={"running": -1}), "out_of_bounds"),
        ("a price that is a number", _plain(price=3), "wrong_type"),
        ("four hours of life", _stamped(expiry=NOW + 4 * samples.HOUR), "out_of_bounds"),
        ("expired", _stamped(time=NOW - samples.HOUR, expiry=NOW), "expired"),
        ("of tomorrow", _stamped(time=NOW + samples.HOUR, expiry=NOW + 2 * samples.HOUR), "from_the_future"),
        ("of another swarm", _stamped(swarm="mine"), "wrong_swarm"),
        ("an unknown field of 600 values", _plain(zoo=[{}] * 600), "too_many"),
        ("more than 8 KiB", _plain(zoo=["x" * 1000] * 9), "too_large"),
    ]  # fmt: skip
    note = records.sign(samples.NOTE, samples.note(), samples.KEY).sealed
    elsewhere = sign_anything(_plain())  # signed as a note
    seal = wire.decode(elsewhere, limits.MESSAGE)
    assert isinstance(seal, dict)
    renamed = packed(dict(sorted((seal | {"kind": "advert"}).items())))
    return [
        *((name, _forged(body), reason) for name, body, reason in bodies),
        ("another kind", note, "wrong_kind"),
        ("signed as a note", renamed, "bad_signature"),
    ]


_ADDRESSES: Final[list[tuple[str, str | None]]] = [
    ("/ip4/192.0.2.7/tcp/47470", "private"),  # a documentation network: nobody's
    ("/ip4/8.8.8.8/tcp/1", "public"),
    ("/ip4/127.0.0.1/tcp/47470", "loopback"),
    ("/ip4/10.0.0.1/tcp/47470", "private"),
    ("/ip4/100.64.0.1/tcp/47470", "private"),
    ("/ip4/169.254.1.1/tcp/47470", "link"),
    ("/ip6/::1/tcp/47470", "loopback"),
    ("/ip6/::ffff:127.0.0.1/tcp/47470", "loopback"),
    ("/ip6/fe80::1/tcp/47470", "link"),
    ("/ip6/2606:4700:4700::1111/tcp/65535", "public"),
    ("/dns4/node.example.org/tcp/47470", "name"),
    ("/dns/localhost/tcp/47470", "loopback"),
    (f"/ip4/8.8.8.8/tcp/1/p2p/{samples.AUTHOR}", "public"),
    ("/ip4/0.0.0.0/tcp/47470", None),
    ("/ip4/224.0.0.1/tcp/47470", None),
    ("/ip4/8.8.8.8/tcp/0", None),
    ("/ip4/8.8.8.8/tcp/65536", None),
    ("/ip4/8.8.8.8/tcp/01", None),
    ("/ip4/08.8.8.8/tcp/1", None),
    ("/ip4/8.8.8/tcp/1", None),
    ("/ip4/8.8.8.8/udp/1/quic-v1", None),
    ("/ip4/8.8.8.8/tcp/1/ws", None),
    ("/ip4/8.8.8.8/tcp/1/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", None),
    ("/dns4/-bad-.example/tcp/1", None),
    ("/dns4/1.2.3.4/tcp/1", None),
    ("", None),
]


def _address(text: str, reach: str | None) -> Json:
    address = parse_address(text)
    assert (None if address is None else address.reach.name.lower()) == reach, text
    return {"text": text, "reach": reach} | ({} if address is None else {"spelled": str(address)})


_CIRCUITS: Final[list[tuple[str, bool]]] = [
    (f"{swarm_samples.RELAY_AT}/p2p-circuit/p2p/{samples.AUTHOR}", True),
    (f"{swarm_samples.RELAY_AT}/p2p-circuit", True),
    (f"/dns4/relay.example.org/tcp/1/p2p/{swarm_samples.OTHER}/p2p-circuit/p2p/{samples.AUTHOR}", True),
    (f"{swarm_samples.RELAY_AT}/p2p-circuit/p2p/{swarm_samples.OTHER}", False),
    (f"{swarm_samples.RELAY_AT}/p2p/{samples.AUTHOR}", False),
    (swarm_samples.RELAY_AT, False),
    (f"/ip4/44.44.0.1/tcp/47470/p2p-circuit/p2p/{samples.AUTHOR}", False),
    (f"/p2p/{swarm_samples.OTHER}/p2p-circuit/p2p/{samples.AUTHOR}", False),
    (f"{swarm_samples.RELAY_AT}/p2p-circuit/p2p/{samples.AUTHOR}/p2p-circuit/p2p/{samples.AUTHOR}", False),
    (f"/ip4/0.0.0.0/tcp/47470/p2p/{swarm_samples.OTHER}/p2p-circuit", False),
    ("/p2p-circuit", False),
    ("", False),
]


def _circuit(text: str, *, good: bool) -> Json:
    address = parse_circuit(text)
    assert (address is not None) == good, text
    assert address is None or str(address) == text, text
    return {"text": text, "relay": None if address is None else str(address.relay)}


def advert_vectors() -> Json:
    """Sealed adverts, those that are refused, which of two counts, and addresses."""
    bodies = {
        "small": swarm_samples.advert_body(),
        "everything, and a field from the future": swarm_samples.FULL_ADVERT,
        "a leave": swarm_samples.LEAVE,
        "behind a router": swarm_samples.BEHIND,
    }
    sealed = {name: records.sign(ADVERT, body, samples.KEY) for name, body in bodies.items()}
    return {
        "valid": [
            {
                "name": name,
                "sealed": signed.sealed.hex(),
                "body": jsonable(schema.write(signed.body)),
                "digest": str(signed.digest),
            }
            for name, signed in sealed.items()
        ],
        "invalid": [
            {"name": name, "sealed": raw.hex(), "reason": refused(_opener(raw), reason)}
            for name, raw, reason in _advert_invalid()
        ],
        "now_us": NOW,
        "addresses": [_address(text, reach) for text, reach in _ADDRESSES],
        "circuits": [_circuit(text, good=good) for text, good in _CIRCUITS],
    }


def _opener(raw: bytes) -> Callable[[], object]:
    return lambda: gossip.open_advert(raw, swarm=PUBLIC_SWARM, now_us=NOW)


_BATCHES_INVALID: Final[list[tuple[str, object, str]]] = [
    ("an empty batch", {"records": []}, "out_of_bounds"),
    ("no records", {}, "missing_field"),
    ("65 records", {"records": [b"x"] * 65}, "too_many"),
    ("an empty record", {"records": [b""]}, "out_of_bounds"),
    ("a record above 16 KiB", {"records": [b"x" * 16_385]}, "too_large"),
    ("a record as text", {"records": ["x"]}, "wrong_type"),
]


# What becomes of a batch, by the verdicts on those of its records that were not accepted before.
_BATCH_VERDICTS: Final[list[tuple[list[str], str]]] = [
    ([], "ignore"),
    (["accept"], "accept"),
    (["accept", "accept"], "accept"),
    (["ignore"], "ignore"),
    (["ignore", "accept"], "ignore"),
    (["accept", "ignore"], "ignore"),
    (["accept", "reject"], "reject"),
    (["ignore", "reject"], "reject"),
]


def gossip_vectors() -> Json:
    """Topics, message ids, batches and what becomes of them, and the verdict for each reason."""
    topics = [str(Topic(SwarmId(swarm), subject)) for swarm in ("public", "my-swarm-2") for subject in Subject]
    strange = [
        "", "metainf", "metainf/public/advert", "metainf/public/advert/2", "metainf/public/advert/1/x",
        "metainf/Public/advert/1", "metainf//advert/1", "/metainf/public/advert/1", "metainf/public/load/1",
    ]  # fmt: skip
    assert not any(map(gossip.parse_topic, strange))
    batch = gossip.pack_records((b"one", b"two"))[0]
    return {
        "topics": topics,
        "strange_topics": strange,
        "ids": [
            {"topic": topic, "data": data.hex(), "id": gossip.message_id(topic, data).hex()}
            for topic, data in ((topics[0], b""), (topics[0], b"x"), (topics[1], b"x"))
        ],
        "batch": {"hex": batch.hex(), "records": [one.hex() for one in gossip.unpack_records(batch)]},
        "invalid": [
            {"name": name, "hex": packed(value).hex(), "reason": refused(_unpacker(packed(value)), reason)}
            for name, value, reason in _BATCHES_INVALID
        ],
        "verdicts": {reason.value: gossip.verdict_of(reason).value for reason in Reason},
        "batch_verdicts": [_batch_verdict(new, batch) for new, batch in _BATCH_VERDICTS],
    }


def _batch_verdict(new: list[str], batch: str) -> Json:
    assert gossip.verdict_of_batch(map(Verdict, new)).value == batch, new
    return {"new": new, "batch": batch}


def _unpacker(raw: bytes) -> Callable[[], object]:
    return lambda: gossip.unpack_records(raw)


def _values() -> dict[str, tuple[str, bytes]]:
    """Return what belongs: a name, its key and the value."""
    batch = swarm_samples.batch()
    return {
        "advert": (str(peer_key(PUBLIC_SWARM, samples.AUTHOR)), swarm_samples.advert().sealed),
        "head": (str(head_key(PUBLIC_SWARM, samples.AUTHOR)), swarm_samples.head().sealed),
        "batch": (str(batch_key(PUBLIC_SWARM, batch.name)), batch.sealed),
    }


def _dht_invalid() -> list[tuple[str, str, bytes, str]]:
    values, author = _values(), str(samples.AUTHOR)
    other = PeerId.from_public_key(samples.OTHER_KEY.public_key().public_bytes_raw())
    (peer, advert), (head, head_value), (batch, batch_value) = values["advert"], values["head"], values["batch"]
    late = swarm_samples.advert(time=NOW - 2 * swarm_samples.MINUTE, expiry=NOW)
    return [
        ("a key without a namespace", author, advert, "malformed"),
        ("a key of another namespace", f"/pk/public/{author}", advert, "malformed"),
        ("a key without a swarm", f"/metainf-peer/{author}", advert, "malformed"),
        ("a key with more", f"{peer}/1", advert, "malformed"),
        ("a key with a slash at its end", f"{peer}/", advert, "malformed"),
        ("a key that begins late", f"x{peer}", advert, "malformed"),
        ("a batch's key without its record", f"/metainf-batch/public/{author}", batch_value, "malformed"),
        ("a batch's key with a plus", batch.replace("/7", "/+7"), batch_value, "malformed"),
        ("a long key", peer + "x" * 200, advert, "malformed"),
        ("a key of another swarm", f"/metainf-peer/mine/{author}", advert, "wrong_swarm"),
        ("another author's advert", str(peer_key(PUBLIC_SWARM, other)), advert, "wrong_key"),
        ("another author's head", str(head_key(PUBLIC_SWARM, other)), head_value, "wrong_key"),
        ("another batch", batch.replace("/7", "/8"), batch_value, "wrong_key"),
        ("a head for an advert", peer, head_value, "wrong_kind"),
        ("an advert for a head", head, advert, "wrong_kind"),
        ("an expired advert", peer, late.sealed, "expired"),
        ("nothing", peer, b"", "truncated"),
        ("a flipped bit", peer, advert[:-60] + bytes([advert[-60] ^ 1]) + advert[-59:], "bad_signature"),
    ]


def _selections() -> dict[str, tuple[str, list[bytes]]]:
    key = str(peer_key(PUBLIC_SWARM, samples.AUTHOR))
    one, two = swarm_samples.advert(seq=1).sealed, swarm_samples.advert(seq=2).sealed
    later = swarm_samples.advert(seq=0, epoch=type(swarm_samples.EPOCH)(NOW - 1)).sealed
    late = swarm_samples.advert(seq=9, time=NOW - 2 * swarm_samples.MINUTE, expiry=NOW).sealed
    clone = swarm_samples.advert(seq=2, name="clone").sealed
    return {
        "the higher number": (key, [one, two]),
        "an equal value does not replace itself": (key, [two, two]),
        "a later run": (key, [two, later]),
        "an expired one gives way": (key, [late, one]),
        "garbage gives way": (key, [b"garbage", one]),
        "two bodies of one name": (key, [two, clone]),
        "two bodies of one name, the other way round": (key, [clone, two]),
    }


def dht_vectors() -> Json:
    """Keys with values that belong there, values that do not, and which of several counts."""
    return {
        "now_us": NOW,
        "swarm": str(PUBLIC_SWARM),
        "valid": [{"name": name, "key": key, "value": value.hex()} for name, (key, value) in _values().items()],
        "invalid": [
            {"name": name, "key": key, "value": value.hex(), "reason": refused(_validator(key, value), reason)}
            for name, key, value, reason in _dht_invalid()
        ],
        "selections": [
            {
                "name": name,
                "key": key,
                "values": [value.hex() for value in values],
                "selected": dht.select(key, values, swarm=PUBLIC_SWARM, now_us=NOW),
            }
            for name, (key, values) in _selections().items()
        ],
    }


def _validator(key: str, value: bytes) -> Callable[[], object]:
    return lambda: dht.validate(key, value, swarm=PUBLIC_SWARM, now_us=NOW)
