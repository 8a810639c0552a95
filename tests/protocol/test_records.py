"""Signed records: only the author can make one, nobody can change one, and every rejection says why."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import limits, records, schema, wire
from protocol.errors import LocalProtocolError, Reason, RemoteProtocolError
from protocol.ids import PUBLIC_SWARM, Epoch, SwarmId
from protocol.records import Kind, Signed, find_fork, open_unverified, sign, verify_and_open, verify_archived
from tests.protocol import samples
from tests.protocol.samples import KEY, LETTER, NEXT_NOTE, NOTE, NOW, OTHER_KEY, NextNote, Note, note, stamp
from tests.protocol.strategies import VALUES, mutated
from tests.vectors.cases_records import reseal, sign_anything, stamped

SIGNED = sign(NOTE, note(), KEY)


def opened(sealed: bytes, now: int = NOW, kind: Kind[Note] = NOTE) -> Signed[Note]:
    return verify_and_open(sealed, kind, swarm=PUBLIC_SWARM, now_us=now)


def refusal(sealed: bytes, now: int = NOW) -> Reason:
    with pytest.raises(RemoteProtocolError) as caught:
        opened(sealed, now)
    return caught.value.reason


@given(st.text(max_size=100), st.integers(0, 2**53 - 1))
def test_what_is_signed_opens_to_the_same_body(text: str, seq: int) -> None:
    body = note(text, seq=seq)
    signed = sign(NOTE, body, KEY)
    there = opened(signed.sealed)
    assert there == signed
    assert there.body == body
    assert there.name == body.stamp.name


@given(mutated(SIGNED.sealed))
def test_no_change_of_any_byte_goes_unnoticed(sealed: bytes) -> None:
    if sealed != SIGNED.sealed:
        refusal(sealed)


@pytest.mark.parametrize("at", range(len(SIGNED.sealed)))
def test_no_bit_can_be_flipped(at: int) -> None:
    for bit in range(8):
        flipped = bytearray(SIGNED.sealed)
        flipped[at] ^= 1 << bit
        refusal(bytes(flipped))


@given(st.binary(max_size=400))
def test_garbage_is_the_peers_fault(raw: bytes) -> None:
    refusal(raw)
    with pytest.raises(RemoteProtocolError):
        open_unverified(raw, NOTE)


@given(VALUES)
def test_a_hostile_author_can_sign_anything_and_gains_nothing(body: wire.Value) -> None:
    refusal(sign_anything(body))


def test_fields_from_the_future_are_kept_and_covered_by_the_signature() -> None:
    newer = sign(NEXT_NOTE, NextNote(stamp=stamp(), text="hello", mood="calm", tags=()), KEY)
    seen = opened(newer.sealed)
    assert seen.body.unknown == {"mood": "calm"}
    assert seen.sealed == newer.sealed
    assert seen.digest == newer.digest
    # Passed on by the older node, it is still whole for a newer one.
    onwards = verify_and_open(seen.sealed, NEXT_NOTE, swarm=PUBLIC_SWARM, now_us=NOW)
    assert onwards.body.mood == "calm"


def test_the_seal_has_one_form() -> None:
    assert refusal(reseal(SIGNED.sealed, extra=1)) is Reason.MALFORMED


def test_one_kinds_signature_is_worth_nothing_for_another() -> None:
    letter = sign(LETTER, note(), KEY)
    assert refusal(letter.sealed) is Reason.WRONG_KIND
    assert refusal(reseal(letter.sealed, kind="note")) is Reason.BAD_SIGNATURE


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (NOW + samples.HOUR, Reason.EXPIRED),
        (NOW + samples.HOUR - 1, None),
        (NOW - limits.CLOCK_SKEW_US, None),
        (NOW - limits.CLOCK_SKEW_US - 1, Reason.FROM_THE_FUTURE),
    ],
)
def test_the_clock_window_is_exact(now: int, reason: Reason | None) -> None:
    if reason is None:
        opened(SIGNED.sealed, now)
    else:
        assert refusal(SIGNED.sealed, now) is reason


def test_an_archived_record_opens_after_its_time_and_still_needs_its_signature() -> None:
    assert verify_archived(SIGNED.sealed, NOTE, swarm=PUBLIC_SWARM) == SIGNED
    with pytest.raises(RemoteProtocolError) as caught:
        verify_archived(reseal(SIGNED.sealed, signature=bytes(64)), NOTE, swarm=PUBLIC_SWARM)
    assert caught.value.reason is Reason.BAD_SIGNATURE


def test_a_record_of_another_swarm_stays_there() -> None:
    other = sign(NOTE, note(swarm=SwarmId("private-1")), KEY)
    assert refusal(other.sealed) is Reason.WRONG_SWARM
    assert verify_and_open(other.sealed, NOTE, swarm=SwarmId("private-1"), now_us=NOW) == other


def test_the_unsafe_door_shows_a_body_that_nobody_vouches_for() -> None:
    forged = sign_anything(stamped(), key=OTHER_KEY)
    assert open_unverified(forged, NOTE) == note()
    assert refusal(forged) is Reason.BAD_SIGNATURE


def test_a_signed_cannot_be_made_without_a_signature() -> None:
    with pytest.raises(LocalProtocolError):
        Signed(kind=NOTE, body=note(), sealed=b"", digest=SIGNED.digest, door=object())
    with pytest.raises(ValueError, match="door"):
        replace(SIGNED, body=note("other"))


@pytest.mark.parametrize(
    "body",
    [
        note(version=2),
        note(expiry=NOW),
        note(expiry=NOW + 25 * samples.HOUR),
        note(epoch=Epoch(NOW + 1)),
        note("x" * 1025),
        note(seq=-1),
    ],
)
def test_we_do_not_sign_what_others_would_refuse(body: Note) -> None:
    with pytest.raises(LocalProtocolError):
        sign(NOTE, body, KEY)


def test_we_do_not_sign_in_anothers_name() -> None:
    with pytest.raises(LocalProtocolError):
        sign(NOTE, note(), OTHER_KEY)


def test_the_largest_body_fits_into_a_seal() -> None:
    room = NOTE.size - len(wire.encode(schema.write(note()), NOTE.bounds)) - len(wire.encode({"x": ""}, limits.RECORD))
    filler: dict[str, wire.Value] = {"x": b"x" * (room - 2)}
    signed = sign(NOTE, replace(note(), unknown=filler), KEY)
    assert NOTE.size - 4 <= len(wire.encode(schema.write(signed.body), NOTE.bounds)) <= NOTE.size
    opened(signed.sealed)


def test_two_bodies_under_one_name_prove_a_fork() -> None:
    one, other = sign(NOTE, note("one"), KEY), sign(NOTE, note("other"), KEY)
    proof = find_fork(one, other)
    assert proof is not None
    assert proof == find_fork(other, one)
    assert proof.name == one.name
    for sealed in (proof.first, proof.second):
        verify_archived(sealed, NOTE, swarm=PUBLIC_SWARM)


def test_an_honest_author_never_seems_to_fork() -> None:
    first = sign(NOTE, note("one"), KEY)
    again = opened(first.sealed)
    later = sign(NOTE, note("other", seq=8), KEY)
    restored = sign(NOTE, note("other", epoch=Epoch(NOW - 1)), KEY)
    letter = sign(LETTER, note("other"), KEY)
    for other in (again, later, restored, letter):
        assert find_fork(first, other) is None


def test_equal_bodies_have_equal_digests_and_records_can_be_keys() -> None:
    assert len({SIGNED, opened(SIGNED.sealed), sign(NOTE, note(), KEY)}) == 1
    assert sign(NOTE, note("other"), KEY).digest != SIGNED.digest


def test_the_prefix_names_kind_and_version() -> None:
    assert NOTE.prefix == b"metainf/note/1\0"
    assert records.Kind(name="note", version=12, body=Note).prefix == b"metainf/note/12\0"
