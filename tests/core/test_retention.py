"""Which records are retained, and that everybody retains the same whatever came when."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from node.core.retention import Entry, Quota, Shares, in_order, retained, shares
from protocol.ids import Epoch, PeerId, RecordName
from tests.protocol.samples import AUTHOR
from tests.protocol.swarm_samples import OTHER

AUTHORS = [AUTHOR, OTHER, *(PeerId(bytes([seed]) * 31 + b"\1") for seed in (2, 3, 4))]


def entry(author: int = 0, seq: int = 0, cell: bytes = b"a", time: int = 0, life: int = 1000) -> Entry:
    name = RecordName(author=AUTHORS[author], epoch=Epoch(0), seq=seq)
    return Entry(name=name, cell=cell, time=time, expiry=time + life)


@st.composite
def histories(draw: st.DrawFn) -> list[Entry]:
    names = draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=30, unique=True))
    return [
        entry(author, seq, draw(st.sampled_from([b"a", b"b", b"c"])), draw(st.integers(0, 8)), draw(st.integers(1, 20)))
        for author, seq in names
    ]


@given(histories(), st.randoms(), st.integers(1, 6), st.integers(0, 20), st.integers(0, 12))
def test_nodes_that_hear_the_same_in_any_order_and_drop_as_they_go_retain_the_same(
    history: list[Entry], luck: Random, per_author: int, total: int, now: int
) -> None:
    quota = Quota(author=per_author, total=total)
    whole = retained(history, now_us=now, quota=quota)
    shuffled = list(history)
    luck.shuffle(shuffled)
    mine: list[Entry] = []
    while shuffled:
        size = luck.randint(1, 5)
        mine += shuffled[:size]
        del shuffled[:size]
        names = retained(mine, now_us=now, quota=quota)
        mine = [each for each in mine if each.name in names]
    assert {each.name for each in mine} == whole
    assert len(whole) <= total


def test_the_newest_of_every_cell_comes_before_the_second_newest_of_any() -> None:
    old, new = entry(seq=1, cell=b"a", time=1), entry(seq=2, cell=b"a", time=9)
    other = entry(seq=3, cell=b"b", time=0)
    assert in_order([old, other, new]) == [new, other, old]


def test_what_has_expired_gives_its_place_to_what_it_displaced() -> None:
    old, new = entry(seq=1, time=0, life=100), entry(seq=2, time=5, life=10)
    quota = Quota(author=1)
    assert retained([old, new], now_us=14, quota=quota) == {new.name}
    assert retained([old, new], now_us=15, quota=quota) == {old.name}


def test_a_flood_of_authors_takes_equal_shares_and_never_the_whole() -> None:
    honest = [entry(0, seq, cell=bytes([seq]), time=seq) for seq in range(50)]
    flood = [entry(1 + seq % 4, seq, cell=bytes([seq]), time=900 + seq) for seq in range(200)]
    names = retained([*honest, *flood], now_us=0, quota=Quota(author=50, total=100))
    assert sum(name.author == AUTHOR for name in names) == 20
    assert {name.seq for name in names if name.author == AUTHOR} == set(range(30, 50))


@given(st.dictionaries(st.sampled_from(AUTHORS), st.integers(1, 9)), st.integers(0, 40))
def test_shares_use_every_place_and_are_equal_but_for_one(counts: dict[PeerId, int], most: int) -> None:
    divided = shares(counts, most=most)
    given = {author: min(count, divided.of(author)) for author, count in counts.items()}
    assert sum(given.values()) == min(most, sum(counts.values()))
    cut = [given[author] for author, count in counts.items() if given[author] < count]
    assert not cut or max(given.values()) - min(cut) <= 1


def test_more_authors_than_places_leave_one_record_to_as_many_as_fit() -> None:
    divided = shares(dict.fromkeys(AUTHORS, 3), most=2)
    assert sorted(divided.of(author) for author in AUTHORS) == [0, 0, 0, 1, 1]
    assert shares({}, most=2) == Shares(level=0)
