"""Whose clock is wrong, by what greetings tell."""

from node.core.clocks import PEERS, PeerClocks
from protocol.ids import PeerId

MINUTE = 60_000_000


def peer(number: int) -> PeerId:
    return PeerId((8 * number + 9).to_bytes(32, "little"))


def test_the_median_of_those_who_are_here_is_told() -> None:
    clocks = PeerClocks()
    for number, ahead in enumerate((10 * MINUTE, 9 * MINUTE, -MINUTE)):
        clocks.note(peer(number), ahead, 0)
    everybody = [peer(number) for number in range(5)]
    assert clocks.facts(everybody, 0) == {"peers": 3, "ahead_s": 540.0, "disagreeing": 2, "tolerated_s": 300.0}
    assert clocks.facts([peer(2)], 0)["ahead_s"] == -60.0
    assert clocks.facts([], 0) == {"peers": 0, "ahead_s": None, "disagreeing": 0, "tolerated_s": 300.0}


def test_a_clock_that_was_set_since_is_reckoned_with() -> None:
    clocks = PeerClocks()
    clocks.note(peer(1), 10 * MINUTE, 1000)
    assert clocks.ahead_us(peer(1), 1000 + 10 * MINUTE) == 0
    assert clocks.ahead_us(peer(2), 0) is None


def test_old_greetings_are_forgotten() -> None:
    clocks = PeerClocks()
    for number in range(PEERS + 1):
        clocks.note(peer(number), 0, 0)
    assert clocks.ahead_us(peer(0), 0) is None
    assert clocks.ahead_us(peer(1), 0) == 0
