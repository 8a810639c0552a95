"""Certificates that hold, and all that do not: garbage, forged, stretched, of another swarm, run out."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits, records
from protocol.dialogue import Dialogue, Role
from protocol.errors import Reason, RemoteProtocolError
from protocol.ids import Epoch, InvalidId
from protocol.membership import (
    CERTIFICATE,
    INVITATION,
    NAME_CHARS,
    REVOCATIONS,
    SCRIPT,
    Member,
    Revocations,
    Revoked,
    Taken,
    Told,
    accept,
    is_administrator,
    open_certificate,
    open_invitation,
    open_revocations,
    outranks,
    swarm_of,
)
from tests.protocol.membership_samples import ROLES, Founder, key_of, peer_of
from tests.protocol.samples import HOUR, NOW

TEAM = Founder()
OTHERS = Founder(admin=key_of("another administrator"))
ALICE = peer_of(key_of("alice"))
MALLORY = key_of("mallory")


def opened(sealed: bytes, *, team: Founder = TEAM, now: int = NOW) -> Member:
    return open_certificate(sealed, swarm=team.swarm, administrator=team.me, now_us=now)


def why_not(sealed: bytes, *, team: Founder = TEAM, now: int = NOW) -> Reason:
    with pytest.raises(RemoteProtocolError) as caught:
        opened(sealed, team=team, now=now)
    return caught.value.reason


def test_an_invitation_makes_a_member_without_its_administrator() -> None:
    member = opened(TEAM.certificate(ALICE).sealed)
    assert member == Member(
        peer=ALICE, roles=frozenset(ROLES), came_by=peer_of(key_of("holder")), since=NOW, until=NOW + 24 * HOUR
    )


def test_the_administrator_makes_one_node_a_member() -> None:
    member = opened(TEAM.direct(ALICE, roles=("observe",)).sealed)
    assert (member.peer, member.roles, member.came_by) == (ALICE, {"observe"}, None)


def test_fewer_roles_than_the_invitations_may_be_taken_and_no_others() -> None:
    invitation = TEAM.invitation(roles=("ask", "observe"))
    assert opened(accept(invitation, key_of("holder"), ALICE, ("ask",)).sealed).roles == {"ask"}
    assert why_not(accept(invitation, key_of("holder"), ALICE, ("serve",)).sealed) is Reason.NOT_A_MEMBER


def test_a_certificate_ends_with_its_invitation() -> None:
    certificate = TEAM.certificate(ALICE)
    assert opened(certificate.sealed, now=NOW + 24 * HOUR - 1)
    assert why_not(certificate.sealed, now=NOW + 24 * HOUR) is Reason.EXPIRED
    longer = replace(
        certificate.body, stamp=replace(certificate.body.stamp, expiry=certificate.body.stamp.expiry + HOUR)
    )
    stretched = records.sign(CERTIFICATE, longer, key_of("holder"))
    assert why_not(stretched.sealed) is Reason.NOT_A_MEMBER
    assert why_not(stretched.sealed, now=NOW + 24 * HOUR) is Reason.EXPIRED  # of the invitation in it


def test_nobody_but_the_administrator_can_begin_the_chain() -> None:
    forger = Founder(admin=MALLORY)
    body = TEAM.certificate(ALICE).body
    by_mallory = replace(body, stamp=replace(body.stamp, author=peer_of(MALLORY)))
    assert why_not(records.sign(CERTIFICATE, by_mallory, MALLORY).sealed) is Reason.NOT_A_MEMBER  # another's invitation
    assert (
        why_not(records.sign(CERTIFICATE, replace(by_mallory, invitation=None), MALLORY).sealed) is Reason.NOT_A_MEMBER
    )
    invitation = records.sign(
        INVITATION, replace(forger.invitation("mallory").body, stamp=TEAM.stamp(author=peer_of(MALLORY))), MALLORY
    )
    assert why_not(accept(invitation, key_of("mallory"), ALICE).sealed) is Reason.NOT_A_MEMBER
    assert why_not(forger.certificate(ALICE).sealed) is Reason.WRONG_SWARM
    assert why_not(TEAM.certificate(ALICE).sealed, team=OTHERS) is Reason.WRONG_SWARM


def test_a_members_own_key_invites_nobody() -> None:
    """A certificate is no invitation, although both are signed in one swarm."""
    member = key_of("alice")
    body = replace(TEAM.certificate(ALICE).body, member=peer_of(MALLORY))
    assert why_not(
        records.sign(CERTIFICATE, replace(body, stamp=replace(body.stamp, author=peer_of(member))), member).sealed
    )
    with pytest.raises(RemoteProtocolError) as caught:
        open_invitation(TEAM.certificate(ALICE).sealed[:600], swarm=TEAM.swarm, administrator=TEAM.me, now_us=NOW)
    assert caught.value.reason in {Reason.WRONG_KIND, Reason.TRUNCATED}


def test_a_future_certificate_waits_for_its_time() -> None:
    assert why_not(TEAM.direct(ALICE).sealed, now=NOW - 2 * HOUR) is Reason.FROM_THE_FUTURE


def test_what_is_too_large_is_not_looked_into() -> None:
    assert why_not(b"\x81" * (limits.CERTIFICATE_BYTES + 1)) is Reason.TOO_LARGE


def test_the_largest_that_is_honest_fits() -> None:
    long = Founder(name="n" * NAME_CHARS)
    every = ("ask", "observe", "relay", "serve")
    certificate = long.certificate(ALICE, roles=every)
    assert len(long.invitation(roles=every).sealed) <= limits.INVITATION_BYTES - 100
    assert len(certificate.sealed) <= limits.CERTIFICATE_BYTES - 100
    assert opened(certificate.sealed, team=long).roles == set(every)


@given(st.data())
def test_one_changed_byte_ends_it_and_nothing_but_the_remote_error_comes_out(data: st.DataObject) -> None:
    whole = TEAM.certificate(ALICE).sealed
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RemoteProtocolError):
        opened(bytes(changed))


@given(st.binary(max_size=600))
def test_garbage_is_refused(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        opened(raw)
    with pytest.raises(RemoteProtocolError):
        open_revocations(raw, swarm=TEAM.swarm, administrator=TEAM.me)


def test_a_swarm_is_named_after_its_administrator() -> None:
    assert TEAM.swarm != OTHERS.swarm
    assert str(TEAM.swarm).startswith("team-")
    assert is_administrator(TEAM.swarm, TEAM.me)
    assert not is_administrator(TEAM.swarm, OTHERS.me)
    for wrong in ("Team", "", "-team", "team-", "n" * (NAME_CHARS + 1)):
        with pytest.raises(InvalidId):
            swarm_of(wrong, TEAM.me)


def test_revocations_count_whatever_the_clock_says_and_the_later_list_counts() -> None:
    first = TEAM.revocations(ALICE, seq=1)
    second = TEAM.revocations(seq=2, time=NOW - 24 * HOUR, epoch=Epoch(NOW - 48 * HOUR))  # a clock that was set back
    third = TEAM.revocations(seq=2)
    assert outranks(third, first)
    assert outranks(first, second)
    assert not outranks(first, first)
    assert open_revocations(first.sealed, swarm=TEAM.swarm, administrator=TEAM.me).body == first.body
    with pytest.raises(RemoteProtocolError):
        open_revocations(first.sealed, swarm=OTHERS.swarm, administrator=OTHERS.me)
    forged = replace(first.body, stamp=replace(first.body.stamp, author=peer_of(MALLORY)))
    with pytest.raises(RemoteProtocolError) as caught:
        open_revocations(records.sign(REVOCATIONS, forged, MALLORY).sealed, swarm=TEAM.swarm, administrator=TEAM.me)
    assert caught.value.reason is Reason.NOT_A_MEMBER


def test_the_longest_list_fits() -> None:
    revoked = tuple(Revoked(peer=peer_of(key_of(str(number))), time=NOW) for number in range(limits.REVOKED))
    body = Revocations(stamp=Founder(name="n" * NAME_CHARS).stamp(), revoked=revoked)
    sealed = records.sign(REVOCATIONS, body, TEAM.admin).sealed
    told = SCRIPT.vocabulary.encode(Told(revocations=sealed))
    assert len(told) <= SCRIPT.limit


def test_telling_is_answered_each_time() -> None:
    opener, answerer = Dialogue(SCRIPT, Role.OPENER), Dialogue(SCRIPT, Role.ANSWERER)
    for _ in range(2):
        assert answerer.hear(opener.say(Told(revocations=b"x"))) == Told(revocations=b"x")
        assert opener.hear(answerer.say(Taken())) == Taken()
    opener.end()
    answerer.end()
    with pytest.raises(RemoteProtocolError):
        Dialogue(SCRIPT, Role.ANSWERER).hear(SCRIPT.vocabulary.encode(Taken()))
