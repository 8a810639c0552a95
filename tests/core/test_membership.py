"""Who is a member, and what each may do."""

import pytest

from node.core.access import EVERYBODY, Access
from node.core.membership import (
    ANOTHERS,
    NO_CERTIFICATE,
    NOT_TO_BE_READ,
    REVOKED,
    WORDS,
    Members,
    Membership,
    revoke,
)
from protocol import limits, records
from protocol.errors import Reason, RemoteProtocolError
from protocol.hello import Part, PartCode
from protocol.membership import REVOCATIONS, MemberRole
from protocol.records import Signed
from tests.protocol.membership_samples import Founder, key_of, peer_of
from tests.protocol.samples import HOUR, NOW

TEAM = Founder()
OTHERS = Founder(admin=key_of("another administrator"))
ME, ALICE, BOB, MALLORY = (peer_of(key_of(name)) for name in ("me", "alice", "bob", "mallory"))
MEMBERSHIP = Membership(
    swarm=TEAM.swarm, administrator=TEAM.me, key=TEAM.key, certificate=TEAM.certificate(ME, by="mine").sealed
)


def members() -> Members:
    return Members(MEMBERSHIP)


def test_a_certificate_makes_a_member_and_roles_are_what_it_says() -> None:
    team = members()
    assert team.outsider(ALICE, NOW)
    assert team.refusal(ALICE, TEAM.certificate(ALICE, roles=("ask", "observe")).sealed, NOW) is None
    assert not team.outsider(ALICE, NOW)
    assert team.may(ALICE, MemberRole.ASK, NOW)
    assert not team.may(ALICE, MemberRole.SERVE, NOW)
    assert not team.may(BOB, MemberRole.ASK, NOW)
    assert [each.peer for each in team.seen(NOW)] == [ALICE]


@pytest.mark.parametrize(
    ("certificate", "why"),
    [
        (None, NO_CERTIFICATE),
        (b"garbage", NOT_TO_BE_READ),
        (TEAM.certificate(BOB).sealed, ANOTHERS),
        (OTHERS.certificate(ALICE).sealed, WORDS[Reason.WRONG_SWARM]),
        (TEAM.certificate(ALICE, expiry=NOW + 1).sealed, WORDS[Reason.EXPIRED]),
        (TEAM.direct(ALICE, time=NOW + HOUR).sealed, WORDS[Reason.FROM_THE_FUTURE]),
        (TEAM.certificate(ALICE).sealed[:-1] + b"!", None),
    ],
    ids=["none", "garbage", "anothers", "swarm", "expired", "future", "signature"],
)
def test_what_does_not_hold_is_told_in_words_and_changes_nothing(certificate: bytes | None, why: str | None) -> None:
    team = members()
    said = team.refusal(ALICE, certificate, NOW + 1)
    assert said is not None
    assert why in (None, said)
    assert team.outsider(ALICE, NOW)
    part = team.part(ALICE, certificate, NOW + 1)
    assert isinstance(part, Part)
    assert part.code == PartCode.NOT_A_MEMBER
    assert said in part.message
    assert team.refusal(ALICE, TEAM.certificate(ALICE).sealed, NOW) is None
    assert team.refusal(ALICE, certificate, NOW + 1) == said
    assert not team.outsider(ALICE, NOW)


def test_a_member_is_one_until_its_certificate_runs_out() -> None:
    team = members()
    team.refusal(ALICE, TEAM.certificate(ALICE).sealed, NOW)
    assert team.may(ALICE, MemberRole.ASK, NOW + 24 * HOUR - 1)
    assert not team.may(ALICE, MemberRole.ASK, NOW + 24 * HOUR)
    assert team.outsider(ALICE, NOW + 24 * HOUR)
    assert team.refusal(ALICE, TEAM.certificate(ALICE).sealed, NOW + 24 * HOUR) == WORDS[Reason.EXPIRED]


def test_a_revoked_member_is_out_and_stays_out_with_any_certificate() -> None:
    team = members()
    for peer in (ALICE, BOB):
        assert team.refusal(peer, TEAM.certificate(peer, by=str(peer)[-8:]).sealed, NOW) is None
    assert team.take(TEAM.revocations(ALICE).sealed)
    assert team.outsider(ALICE, NOW)
    assert not team.outsider(BOB, NOW)
    assert team.refusal(ALICE, TEAM.direct(ALICE).sealed, NOW) == REVOKED
    assert team.revoked(ALICE)
    assert not team.revoked(BOB)


def test_a_revoked_invitation_puts_out_whoever_came_by_it() -> None:
    team = members()
    for peer in (ALICE, BOB):
        assert team.refusal(peer, TEAM.certificate(peer, by="leaked").sealed, NOW) is None
    assert team.refusal(ME, MEMBERSHIP.certificate, NOW) is None
    assert team.take(TEAM.revocations(peer_of(key_of("leaked"))).sealed)
    assert team.outsider(ALICE, NOW)
    assert team.outsider(BOB, NOW)
    assert team.refusal(MALLORY, TEAM.certificate(MALLORY, by="leaked").sealed, NOW) == REVOKED
    assert not team.outsider(ME, NOW)


def test_an_older_list_undoes_nothing_and_another_swarms_is_refused() -> None:
    team = members()
    assert team.take(TEAM.revocations(ALICE, seq=2).sealed)
    assert not team.take(TEAM.revocations(seq=1).sealed)
    assert not team.take(TEAM.revocations(ALICE, seq=2).sealed)
    assert team.revoked(ALICE)
    with pytest.raises(RemoteProtocolError):
        team.take(OTHERS.revocations(seq=9).sealed)
    again = Members(MEMBERSHIP, revocations=TEAM.revocations(ALICE, seq=2).sealed)
    assert again.revoked(ALICE)
    assert not Members(MEMBERSHIP, revocations=b"damaged").revoked(ALICE)


def test_ones_own_certificate_is_held_to_the_same_rules() -> None:
    team = members()
    own, wrong = team.own(ME, NOW)
    assert wrong is None
    assert own is not None
    assert own.until == NOW + 24 * HOUR
    assert team.own(ME, NOW + 24 * HOUR)[1] == WORDS[Reason.EXPIRED]
    team.take(TEAM.revocations(ME).sealed)
    assert team.own(ME, NOW)[1] == REVOKED


def signed_list(before: Signed[records.Stamped] | None, *names: str, now: int = NOW) -> Signed:
    peers = tuple(peer_of(key_of(name)) for name in names)
    return records.sign(REVOCATIONS, revoke(before, peers, membership=MEMBERSHIP, now_us=now), TEAM.admin)  # type: ignore[arg-type]


def test_each_list_outranks_the_one_before_even_if_the_clock_was_set_back() -> None:
    team = members()
    first = signed_list(None, "alice")
    second = signed_list(first, "bob", now=NOW - 24 * HOUR)
    third = signed_list(second, "alice", now=NOW + HOUR)  # again: once in the list
    for each in (first, second, third):
        assert team.take(each.sealed)
    assert len(third.body.revoked) == 2
    assert team.revoked(ALICE)
    assert team.revoked(BOB)


def test_what_no_certificate_can_outlast_is_left_out_and_a_full_list_says_so() -> None:
    full = signed_list(None, *(str(number) for number in range(limits.REVOKED)))
    with pytest.raises(ValueError, match="anew"):
        revoke(full, (ALICE,), membership=MEMBERSHIP, now_us=NOW + HOUR)
    later = revoke(full, (ALICE,), membership=MEMBERSHIP, now_us=NOW + limits.LIFETIME_MAX_US)
    assert [each.peer for each in later.revoked] == [ALICE]


def test_nothing_secret_is_shown() -> None:
    assert repr(TEAM.key) not in repr(MEMBERSHIP)


def test_access_asks_the_certificates_too() -> None:
    access = Access(serve=EVERYBODY, may_be_served=lambda peer: peer == ALICE, may_serve=lambda peer: peer == BOB)
    assert access.refusal(ALICE) is None
    refusal = access.refusal(BOB)
    assert refusal is not None
    assert (refusal.status, refusal.code) == (403, "not_its_role")
    assert access.may_ask(BOB)
    assert not access.may_ask(ALICE)
