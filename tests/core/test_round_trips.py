"""How far away peers are: what it waited for on the way is told apart from the way, and strangers cost no memory."""

from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.round_trips import (
    LARGE,
    NEAR_UPLOAD,
    OWN_ROW,
    UNKNOWN_ROW,
    UNKNOWN_S,
    UNKNOWN_SPREAD_S,
    UPLOAD,
    RoundTrips,
)
from protocol.ids import PeerId

ME, *PEERS = [PeerId((8 * number + 9).to_bytes(32, "little")) for number in range(40)]


def measured(*seconds: float) -> RoundTrips:
    trips = RoundTrips(ME)
    for each in seconds:
        trips.note(PEERS[0], each)
    return trips


def test_a_stranger_is_as_far_as_strangers_are_and_this_node_is_here() -> None:
    trips = RoundTrips(ME)
    assert trips.rtt(PEERS[0]) == (UNKNOWN_S, UNKNOWN_SPREAD_S)
    assert trips.rtt(ME) == (0.0, 0.0)
    assert trips.rows([ME, PEERS[0]]).tolist() == [OWN_ROW, UNKNOWN_ROW]
    assert trips.upload_s(trips.rows([ME, PEERS[0]]), 12_500).tolist() == [0.0, 12_500 / UPLOAD]
    trips.note(ME, 3.0)
    trips.note_sent(ME, LARGE, 3.0)
    trips.forget(ME)
    assert trips.rtt(ME) == (0.0, 0.0)
    assert len(trips) == 0


def test_one_measurement_is_believed_and_half_of_it_doubted() -> None:
    trips = measured(0.02)
    assert trips.rtt(PEERS[0]) == (pytest.approx(0.02), pytest.approx(0.01))
    assert trips.known(PEERS[0])
    assert not trips.known(PEERS[1])


def test_waiting_on_the_way_is_spread_and_not_distance() -> None:
    trips = measured(*[0.02, 0.02, 0.5, 0.02, 0.02, 0.3, 0.02] * 4)
    seconds, spread = trips.rtt(PEERS[0])
    assert seconds == pytest.approx(0.02, rel=0.01)
    assert spread > 0.02


def test_a_way_that_has_become_longer_is_believed_after_a_while_and_a_shorter_one_soon() -> None:
    trips = measured(*[0.02] * 10, *[0.2] * 7)
    assert trips.rtt(PEERS[0])[0] == pytest.approx(0.02)
    for _ in range(16):
        trips.note(PEERS[0], 0.2)
    assert trips.rtt(PEERS[0])[0] == pytest.approx(0.2, rel=0.05)
    assert trips.rtt(PEERS[0])[1] < 0.05
    for _ in range(8):
        trips.note(PEERS[0], 0.02)
    assert trips.rtt(PEERS[0])[0] < 0.04


@given(st.lists(st.floats(1e-4, 10), min_size=1, max_size=60))
def test_the_estimate_stays_among_what_was_measured(seconds: list[float]) -> None:
    way, spread = measured(*seconds).rtt(PEERS[0])
    assert min(seconds) * 0.999 <= way <= max(seconds) * 1.001
    assert 0 <= spread <= max(seconds)


@pytest.mark.parametrize("nonsense", [nan, inf, -inf, -1.0])
def test_what_no_clock_reads_is_left_out(nonsense: float) -> None:
    trips = measured(nonsense)
    trips.note_sent(PEERS[0], LARGE, nonsense)
    assert not trips.known(PEERS[0])
    assert len(trips) == 0


def test_large_writes_tell_of_the_line_and_small_ones_of_nothing() -> None:
    trips = measured(0.05)
    row = trips.rows(PEERS[:1])
    trips.note_sent(PEERS[0], LARGE - 1, 1e-6)
    assert trips.upload_s(row, 1_250_000) == pytest.approx(1_250_000 / UPLOAD)
    trips.note_sent(PEERS[0], 1_000_000, 10.0)
    assert trips.upload_s(row, 1_000_000) == pytest.approx(10.0)
    for _ in range(20):
        trips.note_sent(PEERS[0], 1_000_000, 0.1)
    assert trips.upload_s(row, 1_000_000) == pytest.approx(0.1, rel=0.05)
    trips.note(PEERS[0], 0.001)
    assert trips.upload_s(row, 1_000_000) == pytest.approx(0.1, rel=0.05)


def test_a_peer_next_door_is_taken_to_have_a_fast_line() -> None:
    trips = measured(0.0005)
    assert trips.upload_s(trips.rows(PEERS[:1]), 1_000_000) == pytest.approx(1_000_000 / NEAR_UPLOAD)


def test_columns_say_what_each_alone_says_and_rows_that_were_given_back_nothing() -> None:
    trips = RoundTrips(ME)
    for number, peer in enumerate(PEERS):
        trips.note(peer, 0.01 * (number + 1))
    version, rows = trips.version, trips.rows(PEERS)
    seconds, spread = trips.rtts(rows)
    assert list(zip(seconds, spread, strict=True)) == [trips.rtt(peer) for peer in PEERS]
    trips.note(PEERS[0], 0.01)
    assert trips.version == version
    trips.forget(PEERS[3])
    assert trips.version > version
    assert trips.rtts(rows)[0][3] == UNKNOWN_S
    assert trips.rows(PEERS[3:4]).tolist() == [UNKNOWN_ROW]
    trips.note(PEERS[3], 0.7)
    assert trips.rtt(PEERS[3]) == (pytest.approx(0.7), pytest.approx(0.35))


def test_whoever_was_measured_longest_ago_makes_way() -> None:
    trips = RoundTrips(ME, most=4)
    for peer in PEERS:
        trips.note(PEERS[0], 0.5)
        trips.note(peer, 0.1)
        assert len(trips) <= 4
    assert trips.known(PEERS[0])
    assert [trips.known(peer) for peer in PEERS[-4:]] == [False, True, True, True]
    assert np.array_equal(trips.rtts(trips.rows([ME]))[0], [0.0])
