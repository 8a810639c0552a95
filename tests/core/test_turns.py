"""Whose turn it is, by its promises: one after another, never all away, and nobody blocks for ever."""

import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.core.turns import INTENT_COUNTS, LONGEST, LUCK_LAST, QUIET, SPREAD, Look, Other, Wait
from protocol.advert import SWITCH, SWITCHING
from protocol.ids import PeerId

PEERS = sorted(
    PeerId.from_public_key(
        Ed25519PrivateKey.from_private_bytes(bytes([3, index]) + bytes(30)).public_key().public_bytes_raw()
    )
    for index in range(6)
)
LOW, ME, HIGH, HIGHER = PEERS[:4]
TOLD = SPREAD + LUCK_LAST


def look(*others: Other, running: int = 0, now: float = TOLD) -> Look:
    """Look once, at the end of the others' hearing of us."""
    return Wait(ME, began=0.0, luck=0.0).look(others, running=running, now=now)


def serving(peer: PeerId, intends: str = "") -> Other:
    return Other(peer=peer, intends=intends, serves=True)


def test_nobody_goes_before_the_others_can_have_heard_of_it_and_luck_spreads_them() -> None:
    for luck, first in ((0.0, SPREAD + 0.5), (0.999, SPREAD + 1.99)):
        wait = Wait(ME, began=100.0, luck=luck)
        assert not wait.look([serving(HIGH)], running=0, now=100.0 + first - 0.1).go
        assert wait.look([serving(HIGH)], running=0, now=100.0 + first + 0.1).go


@pytest.mark.parametrize(
    ("others", "goes"),
    [
        ([serving(HIGH)], True),
        ([serving(LOW)], True),
        ([serving(HIGH, SWITCH)], True),  # it waits for us, and serves
        ([serving(LOW, SWITCH)], False),
        ([serving(LOW, SWITCH), serving(HIGH)], False),
        ([Other(peer=HIGH, intends=SWITCHING)], False),
        ([serving(HIGH, SWITCHING), serving(HIGHER)], False),  # about to go
        ([Other(peer=HIGH, intends=SWITCHING), serving(HIGHER), serving(LOW)], False),
        ([serving(HIGH, "a word of later versions"), serving(HIGHER)], True),
        ([serving(LOW, "a word of later versions"), serving(HIGHER)], False),
        ([Other(peer=HIGH, intends=SWITCH)], False),  # it is away, and wants more
    ],
)
def test_the_lowest_goes_while_somebody_stays(others: list[Other], goes: bool) -> None:
    found = look(*others)
    assert (found.go, bool(found.why)) == (goes, True)


def test_the_only_replica_waits_for_a_quiet_moment_and_not_for_ever() -> None:
    away = Other(peer=LOW)  # offers the model, and serves nobody
    for others in ((), (away,)):
        assert look(*others, running=0).go
        assert not look(*others, running=1).go
        wait = Wait(ME, began=0.0, luck=0.0)
        assert not wait.look(others, running=3, now=SPREAD + 0.5 + QUIET - 0.1).go
        assert wait.look(others, running=3, now=SPREAD + 0.5 + QUIET).go


def test_an_intent_counts_for_so_long_however_it_is_said() -> None:
    wait, now, since = Wait(ME, began=0.0, luck=0.0), 0.0, 0.0
    while True:
        now += 1.0
        claims = int(now) % 3 != 0  # it drops it now and then, to begin anew
        since += claims
        found = wait.look([serving(LOW, SWITCH) if claims else Other(peer=LOW), serving(HIGH)], running=0, now=now)
        if found.go and claims:
            break
        assert now < LONGEST
    assert since == pytest.approx(INTENT_COUNTS + 1, abs=1)


def test_whatever_the_others_say_anybody_goes_in_the_end() -> None:
    for others in ([serving(LOW, SWITCHING)], [Other(peer=peer, intends=SWITCH) for peer in PEERS if peer != ME]):
        wait = Wait(ME, began=0.0, luck=0.0)
        for now in range(1, int(LONGEST)):
            assert not wait.look(others, running=0, now=float(now)).go
        assert wait.look(others, running=0, now=LONGEST).go


def test_where_many_serve_some_go_together() -> None:
    stay = [serving(peer) for peer in PEERS[3:]] * 3  # nine that serve, and ourselves
    assert look(serving(LOW, SWITCH), *stay).go
    assert not look(serving(LOW, SWITCH), Other(peer=HIGH, intends=SWITCHING), *stay).go
    assert not look(serving(LOW, SWITCH), *stay[:5]).go


class Crowd:
    """Nodes that all want to go, in steps of a tenth of a second; a word takes up to half of `SPREAD` to each other."""

    def __init__(self, nodes: int, seed: int) -> None:
        self.luck = random.Random(seed)  # noqa: S311 -- a test
        self.nodes = range(nodes)
        within = self.luck.choice([0.0, 3.0, 60.0])
        self.begin = [self.luck.uniform(0, within) for _ in self.nodes]
        self.away_for = self.luck.uniform(1, 90)
        self.delay = [[self.luck.uniform(0, SPREAD / 2) for _ in self.nodes] for _ in self.nodes]
        self.words = [[(float("-inf"), "")] for _ in self.nodes]  # said by each, and when
        self.waits: list[Wait | None] = [None for _ in self.nodes]
        self.back: list[float | None] = [None for _ in self.nodes]
        self.order: list[int] = []

    def away(self, node: int, now: float) -> bool:
        until = self.back[node]
        return until is not None and now < until

    def others(self, me: int, now: float) -> list[Other]:
        found: list[Other] = []
        for each in self.nodes:
            heard = [word for at, word in self.words[each] if at + self.delay[each][me] <= now]
            if each != me:
                found.append(Other(peer=PEERS[each], intends=heard[-1], serves=not self.away(each, now)))
        return found

    def step(self, me: int, now: float) -> None:
        if self.back[me] is not None:
            if not self.away(me, now) and self.words[me][-1][1]:
                self.words[me].append((now, ""))
            return
        wait = self.waits[me]
        if wait is None and now >= self.begin[me]:
            wait = self.waits[me] = Wait(PEERS[me], began=now, luck=self.luck.random())
            self.words[me].append((now, SWITCH))
        if wait is not None and wait.look(self.others(me, now), running=1, now=now).go:
            self.back[me] = now + self.away_for
            self.words[me].append((now, SWITCHING))
            self.order.append(me)

    def run(self) -> None:
        now = 0.0
        while len(self.order) < len(self.nodes) and now < LONGEST - 60:
            now += 0.1
            for me in self.nodes:
                self.step(me, now)
            assert sum(self.away(each, now) for each in self.nodes) <= 1


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("nodes", [2, 3, 5])
def test_nodes_that_hear_each_other_within_the_spread_go_one_after_another(seed: int, nodes: int) -> None:
    crowd = Crowd(nodes, seed)
    crowd.run()
    assert sorted(crowd.order) == list(range(nodes))
