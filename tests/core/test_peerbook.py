"""Membership by its promises: no ghosts, one history whatever the order, and no place for a flood."""

from random import Random

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from node.core.peerbook import SHORTLIST, BookLimits, Change, Peerbook, What
from protocol import limits
from protocol.advert import Advert
from protocol.gossip import Verdict, Why
from protocol.hello import Settled
from protocol.ids import Epoch, ModelName, PeerId
from protocol.records import Signed
from tests.protocol import samples, swarm_samples

KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([7, index]) + bytes(30)) for index in range(40)]
PEERS = [PeerId.from_public_key(key.public_key().public_bytes_raw()) for key in KEYS]
OURS = swarm_samples.OTHER
MODEL = ModelName(swarm_samples.MODEL.name)
NOW_US, RUN = samples.NOW, swarm_samples.EPOCH.start_us
LATER_RUN = RUN + 60_000_000


def advert(peer: int = 0, run: int = RUN, seq: int = 1, life: float = 180.0, **fields: object) -> Signed[Advert]:
    """Return an advert of the n-th peer that lives for `life` seconds from `NOW_US`, which is 0.0 of the loop."""
    expiry = NOW_US + int(life * limits.SECOND_US)
    return swarm_samples.advert(KEYS[peer], epoch=Epoch(run), seq=seq, expiry=expiry, **fields)


def settled(peer: int = 0, run: int = RUN) -> Settled:
    return Settled(
        peer=PEERS[peer],
        incarnation=Epoch(run),
        software="metainf/0.1.0",
        versions={"infer": 1},
        features=frozenset(),
        skew_us=0,
    )


def hear(book: Peerbook, said: Signed[Advert], now: float = 0.0, via: int | None = None) -> tuple[Change, ...]:
    bringer = None if via is None else PEERS[via]
    return book.hear(said, via=bringer, now=now, now_us=NOW_US + int(now * limits.SECOND_US)).changes


def serving(book: Peerbook, now: float = 0.0) -> set[PeerId]:
    return {candidate.peer for candidate in book.candidates(MODEL, now)}


def test_a_peer_that_says_what_it_serves_is_a_candidate_until_its_lease_runs_out() -> None:
    book = Peerbook(OURS)
    assert hear(book, advert()) == (Change(PEERS[0], What.JOINED),)
    assert serving(book, 179.9) == {PEERS[0]}
    assert serving(book, 180.0) == set()
    assert book.wake_at() == 180.0
    assert book.expire(180.0) == (Change(PEERS[0], What.EXPIRED),)
    assert len(book) == 0


def test_a_renewed_lease_lasts() -> None:
    book = Peerbook(OURS)
    hear(book, advert())
    assert hear(book, advert(seq=2, life=240.0), 60.0) == (Change(PEERS[0], What.CHANGED),)
    assert book.expire(200.0) == ()
    assert serving(book, 200.0) == {PEERS[0]}


def test_a_leave_is_final_whatever_comes_late() -> None:
    book = Peerbook(OURS)
    hear(book, advert(seq=1))
    assert hear(book, advert(seq=2, leaving=True)) == (Change(PEERS[0], What.LEFT),)
    assert serving(book) == set()
    assert hear(book, advert(seq=1, name="late")) == ()
    assert book.members(0.0) == ()


def test_a_leave_that_expires_early_still_outranks_what_outlives_it() -> None:
    book = Peerbook(OURS)
    hear(book, advert(seq=1, life=180.0))
    hear(book, advert(seq=3, life=1.0, leaving=True))
    book.expire(100.0)
    assert hear(book, advert(seq=2, life=180.0), 100.0) == ()
    assert serving(book, 100.0) == set()


def test_a_leave_counts_while_the_connection_is_still_open() -> None:
    book = Peerbook(OURS)
    book.connected(settled(), dialled=True, now=0.0)
    hear(book, advert())
    assert hear(book, advert(seq=2, leaving=True)) == (Change(PEERS[0], What.LEFT),)
    assert book.members(0.0) == ()
    assert book.disconnected(PEERS[0], 1.0) == ()


def test_a_restart_replaces_its_ghost() -> None:
    book = Peerbook(OURS)
    hear(book, advert(seq=99))
    assert hear(book, advert(run=LATER_RUN, seq=0)) == (Change(PEERS[0], What.RESTARTED),)
    assert hear(book, advert(seq=100)) == ()


def test_a_greeting_of_a_later_run_makes_the_old_advert_a_ghost() -> None:
    book = Peerbook(OURS)
    hear(book, advert(seq=99))
    changes = book.connected(settled(run=LATER_RUN), dialled=False, now=1.0)
    assert changes == (Change(PEERS[0], What.RESTARTED),)
    assert serving(book, 1.0) == set()
    assert hear(book, advert(seq=100), 1.0) == ()
    hear(book, advert(run=LATER_RUN, seq=0), 2.0)
    assert serving(book, 2.0) == {PEERS[0]}


def test_a_node_that_left_and_came_back_is_in_again_at_once() -> None:
    book = Peerbook(OURS)
    hear(book, advert())
    hear(book, advert(seq=2, leaving=True))
    assert book.connected(settled(run=LATER_RUN), dialled=True, now=5.0) == (Change(PEERS[0], What.JOINED),)
    hear(book, advert(run=LATER_RUN), 5.0)
    assert serving(book, 5.0) == {PEERS[0]}


def test_a_lost_connection_puts_a_peer_aside_until_it_speaks_again() -> None:
    book = Peerbook(OURS)
    book.connected(settled(), dialled=True, now=0.0)
    hear(book, advert())
    assert book.disconnected(PEERS[0], 10.0) == (Change(PEERS[0], What.LOST),)
    assert serving(book, 10.0) == set()
    assert book.to_dial(10.0, lambda: 0.5) == (PEERS[0],)
    assert hear(book, advert(), 11.0) == ()  # said before, and heard again: no sign of life
    assert serving(book, 11.0) == set()
    assert hear(book, advert(seq=2), 12.0) == (Change(PEERS[0], What.JOINED),)
    assert serving(book, 12.0) == {PEERS[0]}


def test_a_connection_that_we_close_says_nothing_against_the_peer() -> None:
    book = Peerbook(OURS)
    book.connected(settled(), dialled=True, now=0.0)
    hear(book, advert())
    assert book.disconnected(PEERS[0], 10.0, by_us=True) == ()
    assert serving(book, 10.0) == {PEERS[0]}


def test_a_peer_that_cannot_be_dialled_is_out_until_it_connects() -> None:
    book = Peerbook(OURS)
    hear(book, advert())
    assert book.set_aside(PEERS[0], 1.0) == (Change(PEERS[0], What.LOST),)
    assert serving(book, 1.0) == set()
    assert book.connected(settled(), dialled=True, now=2.0) == (Change(PEERS[0], What.JOINED),)
    assert serving(book, 2.0) == {PEERS[0]}


def test_our_own_advert_is_no_news() -> None:
    book = Peerbook(PEERS[0])
    assert hear(book, advert()) == ()
    assert len(book) == 0


def test_who_serves_what_is_told_by_name_content_and_role() -> None:
    book = Peerbook(OURS)
    other = type(swarm_samples.MODEL)(name=MODEL.name)
    hear(book, advert(0))
    hear(book, advert(1, models=(other,)))
    hear(book, advert(2, roles=("bootstrap",)))
    assert serving(book) == {PEERS[0], PEERS[1]}
    pinned = book.candidates(ModelName(MODEL.name, swarm_samples.DIGEST), 0.0)
    assert [candidate.peer for candidate in pinned] == [PEERS[0]]
    assert {(offer.name, offer.digest) for offer in book.models(0.0)} == {
        (MODEL.name, None),
        (MODEL.name, swarm_samples.DIGEST),
    }
    hear(book, advert(0, seq=2, models=()))
    assert serving(book) == {PEERS[1]}


def test_a_prompt_is_weighed_against_a_few_of_many_the_connected_among_them() -> None:
    book, luck = Peerbook(OURS), Random(4)  # noqa: S311 -- seeded: the same every time
    for number in range(150):
        key = Ed25519PrivateKey.from_private_bytes(bytes([8, number]) + bytes(30))
        hear(book, swarm_samples.advert(key))
    book.connected(settled(3), dialled=True, now=0.0)
    hear(book, advert(3))
    drawn = [{each.peer for each in book.shortlist(MODEL, 0.0, luck.random)} for _ in range(80)]
    assert all(len(some) == SHORTLIST and PEERS[3] in some for some in drawn)
    assert set.union(*drawn) == serving(book)
    assert {each.peer for each in book.shortlist(ModelName("other"), 0.0, luck.random)} == set()


def test_an_author_without_pause_counts_here_but_is_not_passed_on() -> None:
    book = Peerbook(OURS)
    verdicts = []
    for seq in range(1, 8):
        reaction = book.hear(advert(seq=seq), via=None, now=0.0, now_us=NOW_US)
        verdicts.append(reaction.verdict)
    assert verdicts == [Verdict.ACCEPT] * limits.ADVERT_BURST + [Verdict.IGNORE] * 3
    assert book.advert_of(PEERS[0], 0.0) == advert(seq=7)
    later = book.hear(advert(seq=9), via=None, now=5.0, now_us=NOW_US + limits.ADVERT_GAP_US)
    assert later.verdict is Verdict.ACCEPT


def test_a_flood_displaces_only_what_came_the_same_way() -> None:
    book = Peerbook(OURS, BookLimits(peers=8))
    for peer in (0, 1, 2):
        hear(book, advert(peer), via=30)
    for peer in range(3, 30):
        hear(book, advert(peer), 1.0, via=31)
    assert serving(book, 1.0) >= {PEERS[0], PEERS[1], PEERS[2]}
    assert len(book) == 8
    hear(book, advert(33), 2.0, via=30)
    assert PEERS[33] in serving(book, 2.0)
    assert len(book) == 8


def test_a_flood_that_is_not_kept_is_not_passed_on() -> None:
    book = Peerbook(OURS, BookLimits(peers=4))
    reactions = [book.hear(advert(peer), via=PEERS[31], now=0.0, now_us=NOW_US) for peer in range(6)]
    assert [reaction.why for reaction in reactions] == [None] * 4 + [Why.NO_ROOM] * 2
    assert {reaction.verdict for reaction in reactions[4:]} == {Verdict.IGNORE}


def test_connected_and_proven_peers_are_given_up_last() -> None:
    book = Peerbook(OURS, BookLimits(peers=3))
    hear(book, advert(0))
    hear(book, advert(1))
    book.proven(PEERS[1], 0.0)
    book.connected(settled(2), dialled=False, now=0.0)
    assert book.connected(settled(3), dialled=False, now=1.0) is not None
    assert PEERS[0] not in book.members(1.0)  # merely heard of
    assert book.connected(settled(4), dialled=False, now=1.0) is not None
    assert PEERS[1] not in book.members(1.0)  # proven, not connected
    assert book.connected(settled(5), dialled=False, now=1.0) is None
    assert set(book.members(1.0)) == {PEERS[2], PEERS[3], PEERS[4]}


SAID = [
    advert(peer, run=run, seq=seq, life=life, leaving=leaving or None, name=name)
    for peer in (0, 1)
    for run in (RUN, LATER_RUN)
    for seq, life, leaving in ((1, 30.0, False), (2, 20.0, False), (3, 35.0, True), (4, 10.0, False))
    for name in (None, "clone")
]


@given(st.lists(st.sampled_from(SAID), max_size=12), st.randoms(), st.floats(0, 40))
def test_books_that_have_heard_the_same_agree_whatever_the_order(
    said: list[Signed[Advert]], luck: Random, later: float
) -> None:
    one, other = Peerbook(OURS), Peerbook(OURS)
    for each in said:
        hear(one, each)
    shuffled = [*said, *said]
    luck.shuffle(shuffled)
    for each in shuffled:
        hear(other, each)
    for now in (0.0, later):
        assert one.members(now) == other.members(now)
        assert serving(one, now) == serving(other, now)
        assert [one.advert_of(peer, now) for peer in PEERS[:2]] == [other.advert_of(peer, now) for peer in PEERS[:2]]


class Membership(RuleBasedStateMachine):
    """A book of five places against everything that may happen, in any order, and an honest account beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.book = Peerbook(OURS, BookLimits(peers=5))
        self.open: set[PeerId] = set()
        self.last_expiry: dict[PeerId, float] = {}
        self.members: set[PeerId] = set()

    def _told(self, changes: tuple[Change, ...]) -> None:
        for change in changes:
            if change.what is What.JOINED:
                assert change.peer not in self.members
                self.members.add(change.peer)
            elif change.what in {What.CHANGED, What.RESTARTED}:
                assert change.peer in self.members
            else:
                assert change.peer in self.members
                self.members.discard(change.peer)

    @rule(peer=st.integers(0, 9), run=st.sampled_from([RUN, LATER_RUN]), seq=st.integers(0, 5),
          life=st.floats(1, 60), leaving=st.booleans(), via=st.sampled_from([None, 20, 21]))  # fmt: skip
    def an_advert_comes(self, peer: int, run: int, seq: int, life: float, leaving: bool, via: int | None) -> None:
        said = advert(peer, run=run, seq=seq, life=self.now + life, leaving=leaving or None)
        self._told(hear(self.book, said, self.now, via))
        self.last_expiry[PEERS[peer]] = max(self.last_expiry.get(PEERS[peer], 0.0), self.now + life)

    @rule(peer=st.integers(0, 9), run=st.sampled_from([RUN, LATER_RUN]), dialled=st.booleans())
    def a_peer_connects(self, peer: int, run: int, dialled: bool) -> None:
        changes = self.book.connected(settled(peer, run), dialled=dialled, now=self.now)
        if changes is None:
            assert len(self.open) == 5
            return
        self.open.add(PEERS[peer])
        self._told(changes)

    @rule(peer=st.integers(0, 9), by_us=st.booleans())
    def a_connection_ends(self, peer: int, by_us: bool) -> None:
        self._told(self.book.disconnected(PEERS[peer], self.now, by_us=by_us))
        self.open.discard(PEERS[peer])

    @rule(peer=st.integers(0, 9))
    def a_dial_fails(self, peer: int) -> None:
        self._told(self.book.set_aside(PEERS[peer], self.now))

    @rule(peer=st.integers(0, 9))
    def a_peer_answers(self, peer: int) -> None:
        self.book.proven(PEERS[peer], self.now)

    @rule(seconds=st.floats(0, 30))
    def time_passes(self, seconds: float) -> None:
        """As the service does: it wakes when the book has told it to."""
        until = self.now + seconds
        for _ in range(1_000):
            wake = self.book.wake_at()
            if wake is None or wake > until:
                break
            self.now = max(self.now, wake)
            self._told(self.book.expire(self.now))
            again = self.book.wake_at()
            assert again is None or again > self.now, "it must not be woken for nothing, for ever"
        self.now = until

    @invariant()
    def nobody_is_a_ghost(self) -> None:
        for peer in serving(self.book, self.now):
            assert self.now < self.last_expiry[peer]

    @invariant()
    def what_was_told_is_what_is(self) -> None:
        assert set(self.book.members(self.now)) == self.members

    @invariant()
    def the_book_keeps_its_size_and_its_connected(self) -> None:
        assert len(self.book) <= 5
        assert self.book.connections() == self.open


Membership.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestMembership = Membership.TestCase
