"""What all connections hold together is bounded, and who holds most pays for it."""

from dataclasses import dataclass, field

from node.adapters.p2p.pot import Pot


@dataclass(eq=False)
class Connection:
    party: str
    bytes_: int = 0
    streams: int = 0
    ended: list[str] = field(default_factory=list)

    def held(self) -> int:
        return 0 if self.ended else self.bytes_

    def theirs(self) -> int:
        return 0 if self.ended else self.streams

    def spill(self) -> None:
        self.ended.append(self.party)


def a_pot(*members: Connection, unread: int = 800, streams: int = 100) -> Pot:
    pot = Pot(unread=unread, streams=streams)
    for each in members:
        pot.enter(each)
    return pot


def test_the_largest_connection_of_the_address_that_holds_most_ends() -> None:
    honest = Connection("honest", 300)
    crowd = [Connection("crowd", size) for size in (90, 200, 110, 150)]
    pot = a_pot(honest, *crowd)
    pot.received(100)
    assert [bool(each.ended) for each in crowd] == [False, True, False, False]
    assert not honest.ended
    assert pot.spilt == 1


def test_within_the_bound_nobody_ends_and_little_is_not_even_counted() -> None:
    members = [Connection(str(number), 200) for number in range(4)]
    pot = a_pot(*members)
    pot.received(100)
    members[0].bytes_ = 10_000
    pot.received(99)
    assert not any(each.ended for each in members)
    pot.received(1)
    assert members[0].ended


def test_as_many_end_as_must() -> None:
    members = [Connection("crowd", 400) for _ in range(10)]
    a_pot(*members).received(100)
    assert sum(not each.ended for each in members) == 2


def test_beyond_all_streams_only_those_with_more_than_their_share_get_no_more() -> None:
    greedy, modest = Connection("greedy", streams=95), Connection("modest", streams=5)
    pot = a_pot(greedy, modest)
    assert pot.has_room(greedy)
    greedy.streams += 1
    assert not pot.has_room(greedy)
    modest.streams += 1
    assert pot.has_room(modest)


def test_a_connection_that_is_gone_counts_no_more() -> None:
    pot = a_pot(streams=1)
    one = Connection("a", streams=1)
    pot.enter(one)
    other = Connection("a", streams=1)
    pot.enter(other)
    assert not pot.has_room(other)
    del one
    assert pot.has_room(other)
