"""What peers are taken for: falls with each offence, recovers with time, and is bounded in memory."""

import pytest

from node.core import conduct
from node.core.conduct import HALF_LIFE, PEERS, REASONS, Conduct
from node.services.replicate import ALONE_FOR
from node.services.replicate_pull import End
from tests.services.members import peer_of
from tests.services.replicas import key_of

PEER, OTHER = (peer_of(key_of(seed)) for seed in (1, 2))


def test_standing_halves_with_each_offence_and_recovers_with_time() -> None:
    known = Conduct()
    assert known.standing(PEER, 0.0) == 1.0
    known.blame(PEER, "fork", 0.0)
    assert known.standing(PEER, 0.0) == 0.5
    assert known.standing(PEER, HALF_LIFE) == pytest.approx(0.5**0.5)
    assert known.standing(OTHER, 0.0) == 1.0
    assert known.offences(PEER) == {"fork": 1}
    assert known.offences(OTHER) == {}


def test_three_offences_in_minutes_make_an_outcast_who_may_come_back_after_a_while() -> None:
    known = Conduct()
    assert [known.blame(PEER, "bad_gossip", float(at)) for at in (0, 1, 2, 3)] == [False, False, True, False]
    assert known.outcast(PEER, 10.0)
    assert known.outcast(PEER, HALF_LIFE)  # better, and not good yet
    assert not known.outcast(PEER, 3 * HALF_LIFE)
    assert not known.outcast(OTHER, 10.0)


def test_who_offends_as_often_as_it_is_asked_again_is_an_outcast_within_half_an_hour() -> None:
    known = Conduct()
    made = [known.blame(PEER, "bad_signature", at * ALONE_FOR[End.FAULT]) for at in range(4)]
    assert made == [False, False, False, True]


def test_offences_far_apart_make_none() -> None:
    known = Conduct()
    assert not any(known.blame(PEER, "speed_of_light", at * HALF_LIFE) for at in range(20))


def test_neither_peers_nor_reasons_take_more_memory_than_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conduct, "PEERS", 2)
    assert PEERS > 2
    known = Conduct()
    for number in range(2 * REASONS):
        known.blame(PEER, f"reason {number}", 0.0)
    assert len(known.offences(PEER)) == REASONS + 1
    for seed in (2, 3):
        known.blame(peer_of(key_of(seed)), "fork", 0.0)
    assert known.standing(PEER, 0.0) == 1.0
