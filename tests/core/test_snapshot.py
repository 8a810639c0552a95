"""The text that metainf ships with: opened whole or not at all, by its digest, whatever the time is."""

import json
from base64 import b64encode
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.record_checks import doubts
from node.core.snapshot import BYTES, RECORDS, InvalidSnapshot, digest_of, open_snapshot, write_snapshot
from protocol import limits
from protocol.ids import Epoch, SwarmId
from protocol.performance import DUMMY, TRAFFIC
from tests.protocol.performance_samples import HARDWARE, MODEL, OUTCOME, performance
from tests.protocol.samples import KEY, NOW, OTHER_KEY

LATER = NOW + 3 * limits.LIFETIME_MAX_US  # when everything in here has long expired
SEALED = [
    performance(OTHER_KEY, seq=3, model=replace(MODEL, weights=DUMMY)).sealed,
    *(performance(KEY, seq=seq).sealed for seq in (2, 1)),
    performance(KEY, seq=1, epoch=Epoch(NOW - 1)).sealed,
]
RAW = write_snapshot(SEALED)
DIGEST = digest_of(RAW)


def lines_of(raw: bytes) -> list[bytes]:
    return raw.splitlines(keepends=True)


def opened_anyway(raw: bytes) -> None:
    """Open a text as if the program knew it."""
    open_snapshot(raw, digest=digest_of(raw))


def test_it_says_what_is_in_it_and_equal_records_make_equal_bytes() -> None:
    snapshot = open_snapshot(RAW, digest=DIGEST)
    assert {each.sealed for each in snapshot.records} == set(SEALED)
    assert write_snapshot([*reversed(SEALED), SEALED[0]]) == RAW
    summary = snapshot.summary
    assert (summary.records, summary.dummy) == (4, 1)
    assert [(len(each.epochs), each.records) for each in summary.signers] in ([(1, 1), (2, 3)], [(2, 3), (1, 1)])
    assert {each.author for each in summary.signers} == {str(each) for each in snapshot.authors}
    assert summary.hardware == (HARDWARE.name,)
    assert summary.platforms == ("cuda",)
    assert [word.split()[0] for word in summary.engines] == ["vllm"]
    assert json.loads(lines_of(RAW)[0]) == summary.to_plain()


def test_its_records_are_those_that_no_peer_may_bring_any_more() -> None:
    for signed in open_snapshot(RAW, digest=DIGEST).records:
        assert doubts(signed.body, now_us=LATER) == ("clock",)
        assert signed.body.stamp.expiry < LATER


@given(st.data())
def test_any_change_of_one_byte_refuses_all_of_it(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(RAW) - 1))
    flip = data.draw(st.integers(1, 255))
    changed = RAW[:at] + bytes([RAW[at] ^ flip]) + RAW[at + 1 :]
    with pytest.raises(InvalidSnapshot, match="SHA-256"):
        open_snapshot(changed, digest=DIGEST)


@given(
    st.binary(max_size=2000) | st.lists(st.sampled_from([*lines_of(RAW), b"[]\n", b"{}\n", b"[" * 5000])).map(b"".join)
)
def test_a_text_that_somebody_gave_a_digest_still_opens_only_where_it_is_one(raw: bytes) -> None:
    if raw == RAW:
        return
    with pytest.raises(InvalidSnapshot):
        opened_anyway(raw)


def test_a_first_line_that_says_other_than_the_records_is_refused() -> None:
    head, *rest = lines_of(RAW)
    for name, value in (("dummy", 0), ("records", 5), ("engines", ["vllm 9"]), ("more", 1)):
        changed = json.dumps({**json.loads(head), name: value}).encode() + b"\n"
        with pytest.raises(InvalidSnapshot, match="first line"):
            opened_anyway(b"".join([changed, *rest]))


def test_what_a_peer_could_not_make_anybody_believe_is_not_shipped_either() -> None:
    swift = performance(KEY, seq=9, outcome=replace(OUTCOME, tpot_mean_us=1, tpot_p50_us=1)).sealed
    traffic = performance(KEY, seq=9, origin=TRAFFIC).sealed
    elsewhere = performance(KEY, seq=9, swarm=SwarmId("private")).sealed
    bent = bytearray(SEALED[0])
    bent[len(bent) // 2] ^= 1
    for bad in (swift, traffic, elsewhere, bytes(bent), b"", b"{}"):
        with pytest.raises(InvalidSnapshot):
            write_snapshot([*SEALED, bad])
        line = json.dumps({"record.sealed": b64encode(bad).decode()}).encode() + b"\n"
        with pytest.raises(InvalidSnapshot):
            opened_anyway(RAW + line)


def test_two_records_of_one_name_are_refused() -> None:
    twin = performance(KEY, seq=1, outcome=replace(OUTCOME, requests=OUTCOME.requests + 1)).sealed
    with pytest.raises(InvalidSnapshot, match="one name"):
        write_snapshot([*SEALED, twin])


def test_it_is_bounded_in_records_and_in_bytes() -> None:
    with pytest.raises(InvalidSnapshot, match=f"1 to {RECORDS}"):
        write_snapshot([])
    with pytest.raises(InvalidSnapshot, match=f"1 to {RECORDS}"):
        opened_anyway(lines_of(RAW)[0] + lines_of(RAW)[1] * (RECORDS + 1))
    with pytest.raises(InvalidSnapshot, match="bytes"):
        opened_anyway(b" " * (BYTES + 1))
    full = write_snapshot(performance(KEY, seq=seq).sealed for seq in range(RECORDS))
    assert len(open_snapshot(full, digest=digest_of(full)).records) == RECORDS
    with pytest.raises(InvalidSnapshot, match=f"{RECORDS + 1} records"):
        write_snapshot(performance(KEY, seq=seq).sealed for seq in range(RECORDS + 1))


def test_records_in_another_order_are_refused_for_equal_records_make_one_text() -> None:
    head, first, second, *rest = lines_of(RAW)
    with pytest.raises(InvalidSnapshot, match="in order"):
        opened_anyway(b"".join([head, second, first, *rest]))
    with pytest.raises(InvalidSnapshot, match="twice"):
        opened_anyway(b"".join([head, first, first, second, *rest]))
