"""Comparing and pulling histories, without a network: any order of exchanges converges, and liars gain nothing."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import reduce
from hashlib import sha256
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.ledger import Ledger
from node.core.paging import Paging, listing
from node.core.pull import EMPTY_PAGES, PROMISED, Pull
from protocol import history, limits, ranges
from protocol.dialogue import Dialogue, Role
from protocol.errors import Reason, RemoteProtocolError
from protocol.history import (
    SCRIPT,
    Alike,
    Buckets,
    Compare,
    Fetch,
    Held,
    Holdings,
    List,
    Page,
    Place,
    Point,
    Question,
    Want,
    check_listing,
    rest_of,
)
from protocol.ids import Epoch, InvalidId, PeerId, RecordName
from tests.protocol.samples import AUTHOR
from tests.protocol.strategies import FOREIGN, mutated
from tests.protocol.swarm_samples import EPOCH, OTHER

NUMBERS = st.sets(st.integers(0, 40), max_size=20)
ALL = b"\xff" * 32


def authors(count: int) -> list[PeerId]:
    """Return authors in a few buckets only, so that buckets have several."""
    found: list[PeerId] = []
    for seed in range(10 * count):
        try:
            found.append(PeerId(bytes([seed % 5]) + sha256(b"%d" % seed).digest()[1:]))
        except InvalidId:
            continue
    return found[:count]


AUTHORS = authors(8)
NAMES = st.builds(
    RecordName,
    author=st.sampled_from(AUTHORS),
    epoch=st.sampled_from([Epoch(1), Epoch(2), Epoch(3)]),
    seq=st.integers(0, 12),
)


@dataclass
class Memory:
    """A history whose records are their names."""

    records: dict[RecordName, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledger = Ledger()
        self.take(self.records.items())

    def take(self, records: Iterable[tuple[RecordName, bytes]]) -> list[RecordName]:
        news = [(name, sealed) for name, sealed in records if name not in self.records]
        self.records.update(news)
        for author in {name.author for name in self.records}:
            self.ledger.put(author, self.held({author}))
        return [name for name, _ in news]

    def held(self, of: set[PeerId]) -> list[Held]:
        series: dict[tuple[PeerId, Epoch], list[int]] = {}
        for name in self.records:
            if name.author in of:
                series.setdefault((name.author, name.epoch), []).append(name.seq)
        found = [
            Held(author=author, epoch=epoch, ranges=ranges.of(seqs), digest=self.digest(author, epoch))
            for (author, epoch), seqs in series.items()
        ]
        return sorted(found, key=lambda each: each.place.rank)

    def digest(self, author: PeerId, epoch: Epoch) -> bytes:
        digests = [
            sha256(sealed).digest()
            for name, sealed in self.records.items()
            if (name.author, name.epoch) == (author, epoch)
        ]
        return reduce(lambda one, two: bytes(a ^ b for a, b in zip(one, two, strict=True)), digests)

    def answer(self, question: Question) -> history.Answer:
        if isinstance(question, Compare):
            same = question.digest == self.ledger.root()
            return Alike() if same else Buckets(digests=self.ledger.digests())
        if isinstance(question, List):
            some = self.ledger.listed(question.buckets, question.after, most=3)
            behind = self.ledger.listed(question.buckets, question.after, most=4)
            return listing(question, self.held(set(some)), more=len(behind) > len(some))
        paging = Paging(question)
        while (want := paging.want()) is not None:
            seqs = [seq for first, last in want.ranges for seq in range(first, last + 1)]
            names = [RecordName(author=want.author, epoch=want.epoch, seq=seq) for seq in reversed(seqs)]
            here = [name for name in names if name in self.records][: paging.records]
            paging.found([self.records[name] for name in here], here[-1].seq if here else None)
        return paging.page()


def sealed(name: RecordName) -> bytes:
    return str(name).encode()


def name_of(raw: bytes) -> RecordName:
    return RecordName.from_string(raw.decode())


def pull(ours: Memory, theirs: Memory) -> Pull:
    """Carry one exchange to its end, over the wire's own encoding."""
    puller = Pull(ours.ledger.digests(), skip=lambda _: False)
    opener, answerer = Dialogue(SCRIPT, Role.OPENER), Dialogue(SCRIPT, Role.ANSWERER)
    while (question := puller.question()) is not None:
        heard = answerer.hear(opener.say(question))
        assert isinstance(heard, Compare | List | Fetch)
        answer = opener.hear(answerer.say(theirs.answer(heard)))
        if isinstance(answer, Alike | Buckets):
            puller.compared(answer)
        elif isinstance(answer, Holdings):
            held = ours.held({each.author for each in answer.held})
            puller.listed(answer, {(each.author, each.epoch): each for each in held})
        else:
            assert isinstance(answer, Page)
            puller.paged(answer)
            puller.brought(ours.take((name_of(raw), raw) for raw in answer.records))
    opener.end()
    return puller


@given(st.lists(st.sets(NAMES, max_size=40), min_size=2, max_size=4), st.randoms())
def test_any_order_of_exchanges_ends_with_everybody_holding_everything(
    parts: list[set[RecordName]], luck: Random
) -> None:
    nodes = [Memory({name: sealed(name) for name in part}) for part in parts]
    pairs = [(one, two) for one in nodes for two in nodes if one is not two] * len(nodes)
    luck.shuffle(pairs)
    for one, two in [*pairs, *((one, two) for one in nodes for two in nodes if one is not two)] * 2:
        before = set(one.records)
        pull(one, two)
        assert set(one.records) == before | set(two.records)
    everything = set().union(*parts)
    assert all(set(node.records) == everything for node in nodes)
    assert len({node.ledger.root() for node in nodes}) == 1


def test_what_is_newest_of_each_author_comes_first() -> None:
    theirs = Memory({name: sealed(name) for name in (
        RecordName(author=author, epoch=Epoch(1), seq=seq) for author in AUTHORS for seq in range(200)
    )})  # fmt: skip
    puller, seen = Pull(Memory().ledger.digests(), skip=lambda _: False), []
    while (question := puller.question()) is not None:
        answer = theirs.answer(question)
        if isinstance(answer, Alike | Buckets):
            puller.compared(answer)
        elif isinstance(answer, Holdings):
            puller.listed(answer, {})
        else:
            assert isinstance(answer, Page)
            puller.paged(answer)
            seen += [name_of(raw) for raw in answer.records]
    assert len(seen) == len(set(seen)) == 200 * len(AUTHORS)
    assert {name.author for name in seen[: 32 * len(AUTHORS)]} == set(AUTHORS)
    assert min(name.seq for name in seen[: 32 * len(AUTHORS)]) == 168


def test_equal_ranges_of_unlike_records_are_asked_for_whole_and_once_in_a_while_only() -> None:
    name = RecordName(author=AUTHOR, epoch=EPOCH, seq=3)
    ours, theirs = Memory({name: b"one"}), Memory({name: b"other"})
    asked: list[Held] = []
    puller = Pull(ours.ledger.digests(), skip=lambda held: asked.append(held) is not None)
    for _ in range(3):
        question = puller.question()
        assert question is not None
        answer = theirs.answer(question)
        if isinstance(answer, Buckets):
            puller.compared(answer)
        elif isinstance(answer, Holdings):
            puller.listed(answer, {(AUTHOR, EPOCH): ours.held({AUTHOR})[0]})
        else:
            assert isinstance(answer, Page)
            assert answer.records == (b"other",)
            puller.paged(answer)
    assert puller.question() is None
    assert puller.fruitless() == [((AUTHOR, EPOCH), sha256(b"other").digest())]
    assert asked == theirs.held({AUTHOR})


def test_a_million_promised_authors_take_bounded_memory_and_a_few_empty_pages() -> None:
    puller, listings, pages, key = Pull(Memory().ledger.digests(), skip=lambda _: False), 0, 0, 1
    while (question := puller.question()) is not None:
        if isinstance(question, Compare):
            puller.compared(Buckets(digests=bytes(range(256)) * 32))
        elif isinstance(question, List):
            listings += 1
            held = []
            for _ in range(limits.HISTORY_HOLDINGS):
                key += 1
                author = PeerId(b"\x07" + key.to_bytes(30, "big") + b"\x01")
                held.append(Held(author=author, epoch=EPOCH, ranges=((0, limits.SEQ_MAX),), digest=bytes(32)))
            puller.listed(Holdings(held=tuple(held), more=True), {})
        else:
            pages += 1
            puller.paged(Page(records=()))
    assert puller.in_vain
    assert pages == EMPTY_PAGES
    assert listings * limits.HISTORY_HOLDINGS <= PROMISED


WANTS = (
    Want(author=AUTHOR, epoch=EPOCH, ranges=((3, 7), (9, 9))),
    Want(author=OTHER, epoch=EPOCH, ranges=((0, 4),)),
)


@given(st.integers(0, 1), st.integers(0, 10), st.integers(0, 12))
def test_every_page_leaves_less_to_ask_or_is_refused(which: int, seq: int, records: int) -> None:
    said = Page(records=(b"x",) * records, next=Point(author=WANTS[which].author, epoch=EPOCH, seq=seq))
    before = sum(ranges.count(want.ranges) for want in WANTS)
    try:
        rest = rest_of(Fetch(wants=WANTS), said)
    except RemoteProtocolError:
        return
    assert 0 < sum(ranges.count(want.ranges) for want in rest) < before
    assert records <= before


@given(st.sets(st.integers(0, 40), min_size=1, max_size=20), st.integers(1, 9))
def test_pages_of_any_size_answer_all_that_was_asked(numbers: set[int], size: int) -> None:
    names = [RecordName(author=AUTHOR, epoch=EPOCH, seq=seq) for seq in numbers]
    theirs = Memory({name: sealed(name) for name in names})
    wants: tuple[Want, ...] = (Want(author=AUTHOR, epoch=EPOCH, ranges=((0, 50),)), WANTS[1])
    got: list[bytes] = []
    while wants:
        whole = theirs.answer(Fetch(wants=wants))
        assert isinstance(whole, Page)
        cut = whole.records[:size]
        after = None
        if len(cut) < len(whole.records):
            lowest = name_of(cut[-1]).seq
            after = history.point_after(wants, 0, lowest)
        got += cut
        wants = rest_of(Fetch(wants=wants), Page(records=cut, next=after))
    assert got == [sealed(name) for name in sorted(names, reverse=True)]


HELD = tuple(Memory({RecordName(author=author, epoch=Epoch(epoch), seq=1): b"x" for author in AUTHORS
                     for epoch in (1, 2)}).held(set(AUTHORS)))  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "said", "reason"),
    [
        (List(buckets=ALL), Holdings(held=(HELD[1], HELD[0]), more=False), Reason.MALFORMED),
        (List(buckets=ALL), Holdings(held=(HELD[0], HELD[0]), more=False), Reason.MALFORMED),
        (List(buckets=ALL, after=HELD[2].place), Holdings(held=(HELD[2],), more=False), Reason.MALFORMED),
        (List(buckets=bytes(32)), Holdings(held=(HELD[0],), more=False), Reason.OUT_OF_BOUNDS),
        (List(buckets=ALL), Holdings(held=(), more=True), Reason.OUT_OF_BOUNDS),
    ],
)
def test_a_listing_out_of_order_or_beside_the_question_is_the_peers_fault(
    asked: List, said: Holdings, reason: Reason
) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        check_listing(asked, said)
    assert caught.value.reason is reason


def test_a_listing_in_order_is_taken() -> None:
    check_listing(List(buckets=ALL, after=HELD[0].place), Holdings(held=HELD[1:], more=True))
    assert HELD[0].epoch > HELD[1].epoch  # of one author the newest first


def test_buckets_that_are_all_alike_contradict_the_root() -> None:
    with pytest.raises(RemoteProtocolError):
        history.unlike(bytes(8192), bytes(8192))
    assert history.unlike(bytes(8192), bytes(8191) + b"\1") == bytes(31) + b"\1"


@given(NUMBERS, NUMBERS, st.integers(0, 45), st.integers(0, 5), st.integers(0, 50))
def test_ranges_are_sets(one: set[int], two: set[int], top: int, pieces: int, numbers: int) -> None:
    def numbers_of(made: ranges.Ranges) -> set[int]:
        return {number for first, last in made for number in range(first, last + 1)}

    made, others = ranges.of(one), ranges.of(two)
    assert numbers_of(made) == one
    assert ranges.count(made) == len(one)
    assert ranges.minus(made, others) == ranges.of(one - two)
    assert ranges.up_to(made, top) == ranges.of(number for number in one if number <= top)
    newest = numbers_of(ranges.newest(made, pieces=pieces, numbers=numbers))
    assert newest <= one
    assert len(newest) <= numbers
    assert len(ranges.of(newest)) <= pieces
    assert not newest or max(one - newest, default=-1) < min(newest)
    if made:
        rule = ranges.Bounded(1024)
        assert rule.load(rule.dump(made)) == made


GARBAGE = (
    st.binary(max_size=300)
    | FOREIGN
    | mutated(SCRIPT.vocabulary.encode(Fetch(wants=WANTS)))
    | mutated(SCRIPT.vocabulary.encode(Holdings(held=HELD[:2], more=True)))
)


@given(GARBAGE)
def test_no_garbage_makes_anything_but_the_peers_fault(raw: bytes) -> None:
    for role, state in ((Role.ANSWERER, history.State.IDLE), (Role.OPENER, history.State.LISTING)):
        dialogue = Dialogue(replace(SCRIPT, start=state), role)
        try:
            dialogue.hear(raw)
        except RemoteProtocolError:
            continue


def test_the_longest_question_and_answers_fit_their_frames() -> None:
    top = limits.SEQ_MAX
    bounds = tuple((top - 2 * index, top - 2 * index) for index in reversed(range(limits.HISTORY_WANT_RANGES)))
    want = Want(author=AUTHOR, epoch=Epoch(limits.TIME_MAX_US), ranges=bounds)
    question = SCRIPT.vocabulary.encode(Fetch(wants=(want,) * limits.HISTORY_WANTS))
    assert len(question) <= limits.HISTORY_ASK_BYTES
    many = tuple((2 * index, 2 * index) for index in range(limits.HISTORY_RANGES))
    held = [replace(HELD[0], ranges=many, epoch=Epoch(100 - index)) for index in range(20)]
    said = listing(List(buckets=ALL), held, more=False)
    assert said.more
    assert 4 <= len(said.held) < 20
    assert len(SCRIPT.vocabulary.encode(said)) <= limits.FRAME_BYTES
    rest = listing(List(buckets=ALL, after=said.held[-1].place), held, more=False)
    assert rest.held[0] == held[len(said.held)]
    sized = Page(records=(bytes(16 * 1024),) * 32, next=Point(author=AUTHOR, epoch=EPOCH, seq=1))
    assert len(SCRIPT.vocabulary.encode(sized)) <= limits.FRAME_BYTES
    assert Place(author=AUTHOR, epoch=EPOCH).rank < Place(author=AUTHOR, epoch=Epoch(0)).rank
