"""Vectors of private swarms: names, invitations, certificates, revocations, tokens; whole and refused."""

from collections.abc import Callable
from typing import Any, Final

from protocol import limits, membership, schema, token, wire
from protocol.membership import CERTIFICATE, INVITATION, SCRIPT, Taken, Told
from protocol.records import Kind, Signed
from tests.protocol import samples
from tests.protocol.membership_samples import Founder, key_of, peer_of
from tests.vectors.forms import Json, jsonable, packed, refused

TEAM: Final = Founder()
OTHERS: Final = Founder(admin=key_of("another administrator"))
NODE: Final = peer_of(key_of("alice"))
NOW: Final = samples.NOW
HOUR: Final = samples.HOUR


def membership_vectors() -> Json:
    """Return everything about the private swarm `team` of one administrator."""
    return {
        "administrator": {"private_key": TEAM.admin.private_bytes_raw().hex(), "peer_id": str(TEAM.me)},
        "holder_private_key": key_of("holder").private_bytes_raw().hex(),
        "member": str(NODE),
        "now_us": NOW,
        "swarms": [
            {"name": name, "administrator": str(each.me), "swarm": str(membership.swarm_of(name, each.me))}
            for name, each in (("team", TEAM), ("team", OTHERS), ("t", TEAM), ("n" * membership.NAME_CHARS, TEAM))
        ],
        "invitations": [_sealed("three roles", TEAM.invitation())],
        "certificates": [
            _member("by an invitation", TEAM.certificate(NODE).sealed),
            _member("by the administrator", TEAM.direct(NODE, roles=("observe",)).sealed),
            _member("fewer roles", _accepted(("ask",))),
        ],
        "not_certificates": [
            {"name": name, "sealed": sealed.hex(), "now_us": now, "reason": refused(_opener(sealed, now), reason)}
            for name, sealed, now, reason in _invalid()
        ],
        "revocations": [
            _sealed("none", TEAM.revocations()),
            _sealed("a member and an invitation", TEAM.revocations(NODE, peer_of(key_of("holder")), seq=1)),
        ],
        "messages": [
            {"name": name, "hex": SCRIPT.vocabulary.encode(message).hex()}
            for name, message in {"told": Told(revocations=TEAM.revocations().sealed), "taken": Taken()}.items()
        ],
        "tokens": [_token("with an invitation", an_invitation_token()), _token("a new key", _bare_token())],
    }


def an_invitation_token() -> token.Token:
    """Return the token that `swarm invite` prints."""
    return token.Token(**_common(), invitation=TEAM.invitation().sealed, secret=key_of("holder").private_bytes_raw())


def _bare_token() -> token.Token:
    return token.Token(**_common())


def _common() -> dict[str, Any]:
    address = f"/ip4/192.0.2.1/tcp/47470/p2p/{NODE}"
    return {
        "version": 1,
        "swarm": TEAM.swarm,
        "administrator": TEAM.me,
        "key": bytes(range(32)),
        "addresses": (address,),
    }


def _token(name: str, made: token.Token) -> Json:
    return {"name": name, "text": token.spell(made), "token": jsonable(schema.write(made))}


def _sealed(name: str, signed: Signed[Any]) -> Json:
    seal = wire.decode(signed.sealed, limits.RECORD)
    assert isinstance(seal, dict)
    assert isinstance(seal["body"], bytes)
    body = jsonable(wire.decode(seal["body"], limits.RECORD))
    return {"name": name, "sealed": signed.sealed.hex(), "body": body, "digest": str(signed.digest)}


def _member(name: str, sealed: bytes) -> Json:
    member = _open(sealed, NOW)
    return {
        "name": name,
        "sealed": sealed.hex(),
        "roles": sorted(member.roles),
        "came_by": None if member.came_by is None else str(member.came_by),
        "until": member.until,
    }


def _open(sealed: bytes, now: int) -> membership.Member:
    return membership.open_certificate(sealed, swarm=TEAM.swarm, administrator=TEAM.me, now_us=now)


def _opener(sealed: bytes, now: int) -> Callable[[], object]:
    return lambda: _open(sealed, now)


def _accepted(roles: tuple[str, ...]) -> bytes:
    return membership.accept(TEAM.invitation(), key_of("holder"), NODE, roles).sealed


def _forged(kind: Kind[Any], sealed: bytes, key: str, **changes: object) -> bytes:
    """Return a certificate or invitation whose map was changed, validly signed by a key."""
    seal = wire.decode(sealed, limits.RECORD)
    assert isinstance(seal, dict)
    assert isinstance(seal["body"], bytes)
    body = wire.decode(seal["body"], limits.RECORD)
    assert isinstance(body, dict)
    stamp = body["stamp"]
    assert isinstance(stamp, dict)
    for name, value in changes.items():
        (stamp if name in stamp else body)[name] = value  # type: ignore[assignment]
    raw = packed({name: body[name] for name in sorted(body) if body[name] is not None})
    signature = key_of(key).sign(kind.prefix + raw)
    return packed({"body": raw, "kind": kind.name, "signature": signature, "version": 1})


def _invalid() -> list[tuple[str, bytes, int, str]]:
    honest = TEAM.certificate(NODE).sealed
    mallory = peer_of(key_of("mallory")).to_bytes()
    forged_invitation = _forged(INVITATION, TEAM.invitation("mallory").sealed, "mallory", author=mallory)
    return [
        ("run out", honest, NOW + 24 * HOUR, "expired"),
        ("of the future", honest, NOW - HOUR, "from_the_future"),
        ("of another swarm", OTHERS.certificate(NODE).sealed, NOW, "wrong_swarm"),
        (
            "by a stranger",
            _forged(CERTIFICATE, TEAM.direct(NODE).sealed, "mallory", author=mallory),
            NOW,
            "not_a_member",
        ),
        ("with another's invitation", _forged(CERTIFICATE, honest, "mallory", author=mallory), NOW, "not_a_member"),
        (
            "with an invitation by a stranger",
            _forged(CERTIFICATE, honest, "mallory", author=mallory, invitation=forged_invitation),
            NOW,
            "not_a_member",
        ),
        (
            "outlives its invitation",
            _forged(CERTIFICATE, honest, "holder", expiry=NOW + 25 * HOUR),
            NOW,
            "not_a_member",
        ),
        ("more roles than invited", _forged(CERTIFICATE, honest, "holder", roles=["king"]), NOW, "not_a_member"),
        ("no author's signature", _forged(CERTIFICATE, honest, "mallory"), NOW, "bad_signature"),
        ("nine roles", _forged(CERTIFICATE, honest, "holder", roles=["a"] * 9), NOW, "out_of_bounds"),
        ("an invitation", TEAM.invitation().sealed, NOW, "wrong_kind"),
        ("too long", bytes(limits.CERTIFICATE_BYTES + 1), NOW, "too_large"),
        ("cut short", honest[:-1], NOW, "truncated"),
    ]
