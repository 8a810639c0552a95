"""Which address is dialled when: back-off, doubt of strangers' words, bounds."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from node.core.addressbook import (
    FIRST_DELAY,
    GIVE_UP,
    HOST_GAP,
    LONGEST_CONFIGURED,
    LONGEST_DELAY,
    PEERS,
    PER_PEER,
    RELAY_LATER,
    REMEMBERED,
    AddressBook,
    Dial,
    Source,
)
from protocol import limits
from protocol.addresses import Address, Reach, parse_address
from protocol.ids import PeerId
from tests.protocol import samples, swarm_samples

OURS, ANNE = samples.AUTHOR, swarm_samples.OTHER


def peer(number: int) -> PeerId:
    return PeerId((8 * number + 9).to_bytes(32, "little"))


def at(host: str = "8.8.8.8", port: int = 1, of: PeerId = ANNE) -> Address:
    address = parse_address(f"/ip4/{host}/tcp/{port}")
    assert address is not None
    return address.of(of)


def plan(book: AddressBook, *wanted: PeerId, now: float = 0.0, room: int = 8) -> list[str]:
    """Return the host and port of each dial that is begun."""
    dials = book.plan(wanted=wanted, connected=(), room=room, now=now).dials
    return [f"{dial.address.host}:{dial.address.port}" for dial in dials]


def dial(address: Address) -> Dial:
    assert address.peer is not None
    return Dial(peer=address.peer, address=address)


def test_the_operators_address_is_tried_whoever_is_wanted_and_again_for_ever() -> None:
    book, now = AddressBook(OURS), 0.0
    book.learn([at()], Source.CONFIGURED)
    for _ in range(30):
        found = book.plan(wanted=(), connected=(), room=8, now=now)
        assert [each.address for each in found.dials] == [at()]
        book.failed(found.dials[0], now, luck=0.99)
        again = book.plan(wanted=(), connected=(), room=8, now=now)
        assert again.dials == ()
        assert again.wake_at is not None
        assert again.wake_at - now <= LONGEST_CONFIGURED
        now = again.wake_at


def test_who_is_connected_is_not_dialled() -> None:
    book = AddressBook(OURS)
    book.learn([at()], Source.CONFIGURED)
    assert book.plan(wanted=(ANNE,), connected={ANNE}, room=8, now=0.0).dials == ()


def test_each_address_has_its_own_patience() -> None:
    book = AddressBook(OURS)
    book.learn([at(port=1), at(port=2), at(port=3)], Source.NEAR)
    assert plan(book, ANNE) == ["8.8.8.8:1", "8.8.8.8:2"]
    assert plan(book, ANNE) == []  # two at a time
    book.failed(dial(at(port=1)), 0.0, luck=0.99)
    assert plan(book, ANNE) == ["8.8.8.8:3"]
    book.failed(dial(at(port=2)), 0.0, luck=0.99)
    assert plan(book, ANNE, now=2 * FIRST_DELAY) == ["8.8.8.8:1"]


def test_what_worked_is_tried_first_and_remembered() -> None:
    book = AddressBook(OURS)
    book.learn([at(port=1), at(port=2)], Source.ADVERT)
    book.plan(wanted=(ANNE,), connected=(), room=8, now=0.0)
    book.failed(dial(at(port=1)), 0.0, luck=0.0)
    book.plan(wanted=(ANNE,), connected=(), room=8, now=HOST_GAP)
    book.succeeded(dial(at(port=2)), 5.0)
    assert book.addresses(ANNE)[0] == at(port=2)
    assert book.to_remember() == (at(port=2),)


def test_strangers_words_cannot_turn_us_against_one_host() -> None:
    """Two hundred made-up nodes that all name one victim: one dial a second, however many ports."""
    book, dialled = AddressBook(OURS), 0
    everybody = [peer(number) for number in range(200)]
    for number, each in enumerate(everybody):
        book.replace(each, [at("8.8.4.4", 1000 + number)])
    for tenth in range(100):
        found = book.plan(wanted=everybody, connected=(), room=100, now=tenth / 10)
        dialled += len(found.dials)
        for each in found.dials:
            book.failed(each, tenth / 10, luck=0.5)
    assert dialled == 10


def test_what_only_this_machine_could_answer_is_not_taken_from_strangers() -> None:
    book = AddressBook(OURS)
    book.replace(ANNE, [at("127.0.0.1"), at("169.254.0.9"), at("10.0.0.1"), at()])
    assert set(book.addresses(ANNE)) == {at("10.0.0.1"), at()}
    book = AddressBook(OURS, nearest=Reach.LOOPBACK)
    book.replace(ANNE, [at("127.0.0.1")])
    assert book.addresses(ANNE) == (at("127.0.0.1"),)
    book = AddressBook(OURS)
    book.learn([at("127.0.0.1")], Source.CONFIGURED)
    assert book.addresses(ANNE) == (at("127.0.0.1"),)


def test_a_swarm_on_one_machine_need_not_wait_for_its_own_host() -> None:
    book = AddressBook(OURS, nearest=Reach.LOOPBACK)
    for number in range(5):
        book.replace(peer(number), [at("127.0.0.1", 1000 + number)])
    assert len(plan(book, *map(peer, range(5)))) == 5


def test_a_new_advert_replaces_what_never_worked() -> None:
    book = AddressBook(OURS)
    book.replace(ANNE, [at(port=1), at(port=2)])
    book.plan(wanted=(ANNE,), connected=(), room=1, now=0.0)
    book.succeeded(dial(at(port=1)), 0.0)
    book.replace(ANNE, [at(port=3)])
    assert set(book.addresses(ANNE)) == {at(port=1), at(port=3)}


def test_a_sign_of_life_and_a_farewell_move_the_next_dial() -> None:
    book = AddressBook(OURS)
    book.learn([at()], Source.NEAR)
    now = 0.0
    for _ in range(6):
        book.plan(wanted=(ANNE,), connected=(), room=1, now=now)
        book.failed(dial(at()), now, luck=0.99)
        now += LONGEST_DELAY
    book.plan(wanted=(ANNE,), connected=(), room=1, now=now)
    book.failed(dial(at()), now, luck=0.99)
    assert plan(book, ANNE, now=now + 1) == []
    book.hopeful(ANNE)
    assert plan(book, ANNE, now=now + 1) == ["8.8.8.8:1"]
    book.succeeded(dial(at()), now)
    book.shun(ANNE, now + 3_600.0)
    assert plan(book, ANNE, now=now + 3_599) == []


def test_who_is_shunned_is_dialled_at_no_address_that_is_heard_of_meanwhile_either() -> None:
    book = AddressBook(OURS)
    book.shun(ANNE, 3_600.0)
    book.learn([at()], Source.NEAR)
    book.replace(ANNE, [at(port=2)])
    assert plan(book, ANNE, now=3_599.0) == []
    book.hopeful(ANNE)  # it has come up anew
    assert plan(book, ANNE, now=3_599.0) == ["8.8.8.8:1", "8.8.8.8:2"]


def test_a_dial_that_was_broken_off_speaks_against_nobody() -> None:
    book = AddressBook(OURS)
    book.learn([at()], Source.NEAR)
    assert plan(book, ANNE) == ["8.8.8.8:1"]
    book.gave_up(dial(at()))
    assert plan(book, ANNE) == ["8.8.8.8:1"]


def test_a_strangers_address_is_given_up_in_the_end() -> None:
    book, now = AddressBook(OURS), 0.0
    book.replace(ANNE, [at()])
    for _ in range(GIVE_UP):
        assert plan(book, ANNE, now=now) == ["8.8.8.8:1"]
        book.failed(dial(at()), now, luck=0.99)
        now += LONGEST_DELAY
    assert len(book) == 0


@pytest.mark.parametrize("source", Source)
def test_our_own_address_and_nobodys_are_left_out(source: Source) -> None:
    book = AddressBook(OURS)
    book.learn([at(of=OURS), Address("ip4", "8.8.8.8", 1)], source)
    assert len(book) == 0


def test_a_flood_is_forgotten_before_what_the_operator_gave_and_what_worked() -> None:
    book = AddressBook(OURS)
    book.learn([at(of=peer(1))], Source.CONFIGURED)
    book.learn([at("8.8.4.4", of=peer(2))], Source.HEARSAY)
    book.plan(wanted=(peer(2),), connected=(), room=8, now=0.0)
    book.succeeded(dial(at("8.8.4.4", of=peer(2))), 0.0)
    for number in range(3, PEERS + 50):
        book.learn([at("1.1.1.1", of=peer(number))], Source.HEARSAY)
    assert len(book) == PEERS
    book.replace(ANNE, [at(port=7)])
    assert len(book) == PEERS
    assert book.addresses(ANNE)
    assert book.addresses(peer(1))
    assert book.addresses(peer(2))


def test_where_every_address_has_worked_the_oldest_proof_makes_way_for_a_signed_word() -> None:
    book = AddressBook(OURS)
    book.learn([at("1.0.0.1", of=peer(0))], Source.CONFIGURED)
    for number in range(1, PEERS):
        address = at(f"1.0.{number // 250}.{number % 250 + 1}", of=peer(number))
        book.learn([address], Source.ADVERT)
        book.plan(wanted=(peer(number),), connected=(peer(0),), room=1, now=2.0 * number)
        book.succeeded(dial(address), 2.0 * number)
    book.learn([at("9.9.9.9", of=peer(PEERS))], Source.HEARSAY)
    assert not book.addresses(peer(PEERS))
    book.replace(peer(PEERS), [at("9.9.9.9")])
    assert book.addresses(peer(PEERS))
    assert not book.addresses(peer(1))
    assert book.addresses(peer(0))
    assert len(book) == PEERS


def test_one_peers_addresses_are_bounded_and_the_worst_go_first() -> None:
    book = AddressBook(OURS)
    book.learn((at(port=port) for port in range(1, 100)), Source.HEARSAY)
    assert len(book.addresses(ANNE)) == limits.ADDRESSES
    book.learn([at(port=500)], Source.CONFIGURED)
    assert len(book.addresses(ANNE)) == limits.ADDRESSES
    assert book.addresses(ANNE)[0] == at(port=500)


def test_what_is_remembered_is_bounded_and_newest_first() -> None:
    book = AddressBook(OURS)
    for number in range(REMEMBERED + 20):
        book.learn([at(of=peer(number))], Source.CONFIGURED)
        book.plan(wanted=(), connected=(), room=1, now=float(number))
        book.succeeded(dial(at(of=peer(number))), float(number))
        book.shun(peer(number), 1e9)
    remembered = book.to_remember()
    assert len(remembered) == REMEMBERED
    assert remembered[0] == at(of=peer(REMEMBERED + 19))


class Dialling(RuleBasedStateMachine):
    """Any course of events: never too many at a time, never one twice, never before its time."""

    def __init__(self) -> None:
        super().__init__()
        self.book, self.now = AddressBook(OURS), 0.0
        self.under_way: list[Dial] = []
        self.not_before: dict[Address, float] = {}

    @rule(number=st.integers(0, 3), port=st.integers(1, 4), source=st.sampled_from(Source))
    def an_address_is_heard_of(self, number: int, port: int, source: Source) -> None:
        self.book.learn([at(port=port, of=peer(number))], source)

    @rule(number=st.integers(0, 3), ports=st.sets(st.integers(1, 4), max_size=3))
    def an_advert_comes(self, number: int, ports: set[int]) -> None:
        self.book.replace(peer(number), [at(port=port, of=peer(number)) for port in ports])

    @rule(room=st.integers(0, 4))
    def we_dial(self, room: int) -> None:
        found = self.book.plan(wanted=[peer(number) for number in range(4)], connected=(), room=room, now=self.now)
        assert len(found.dials) <= room
        assert found.wake_at is None or found.wake_at > self.now
        for each in found.dials:
            assert each not in self.under_way
            assert self.not_before.get(each.address, 0.0) <= self.now
        self.under_way += found.dials

    @rule(luck=st.floats(0, 0.99))
    def a_dial_fails(self, luck: float) -> None:
        if self.under_way:
            each = self.under_way.pop()
            self.book.failed(each, self.now, luck)
            self.not_before[each.address] = self.now + FIRST_DELAY / 2

    @rule()
    def a_dial_succeeds(self) -> None:
        if self.under_way:
            each = self.under_way.pop(0)
            self.book.succeeded(each, self.now)
            self.not_before.pop(each.address, None)

    @rule(seconds=st.floats(0, 5))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def few_at_a_time_of_one_peer(self) -> None:
        for number in range(4):
            assert sum(each.peer == peer(number) for each in self.under_way) <= PER_PEER


Dialling.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestDialling = Dialling.TestCase


def test_those_nearby_and_of_the_last_run_are_worth_a_dial_before_anything_is_heard_of_them() -> None:
    book = AddressBook(OURS)
    for number, source in enumerate((Source.REMEMBERED, Source.NEAR, Source.ADVERT, Source.CONFIGURED)):
        book.learn([at(of=peer(number))], source)
    assert book.introduced() == (peer(1), peer(0))  # those whom the operator gave are dialled in any case


RELAY = peer(1)


def way(host: str = "9.9.9.9", of: PeerId = ANNE) -> Address:
    """Return a way through a relay."""
    return at(host, 1, RELAY).through(of)


def test_a_relay_is_asked_after_a_peers_own_addresses_have_had_a_moment() -> None:
    book = AddressBook(OURS)
    book.replace(ANNE, [way(), at("8.8.8.8"), at("8.8.4.4")])
    found = book.plan(wanted=[ANNE], connected=(), room=8, now=0.0)
    assert len(found.dials) == 2
    assert all(each.address.relay is None for each in found.dials)
    assert found.wake_at == RELAY_LATER
    later = book.plan(wanted=[ANNE], connected=(), room=8, now=RELAY_LATER)
    assert [each.address for each in later.dials] == [way()]


def test_where_its_own_addresses_have_all_failed_a_relay_is_asked_at_once() -> None:
    book = AddressBook(OURS)
    book.replace(ANNE, [way(), at()])
    (first,) = book.plan(wanted=[ANNE], connected=(), room=8, now=0.0).dials
    book.failed(first, 0.1, luck=0.99)
    assert [each.address for each in book.plan(wanted=[ANNE], connected=(), room=8, now=0.1).dials] == [way()]


def test_peers_behind_one_relay_are_called_one_after_the_other_unless_it_is_connected() -> None:
    for connected, at_once in (((), 1), ((RELAY,), 3)):
        book, peers = AddressBook(OURS), [peer(number) for number in range(2, 5)]
        for each in peers:
            book.replace(each, [way(of=each)])
        assert len(book.plan(wanted=peers, connected=connected, room=8, now=0.0).dials) == at_once


def test_what_depends_on_a_relay_is_not_written_down() -> None:
    book = AddressBook(OURS)
    book.replace(ANNE, [way()])
    (found,) = book.plan(wanted=[ANNE], connected=(), room=8, now=0.0).dials
    book.succeeded(found, 1.0)
    assert book.to_remember() == ()
    assert book.addresses(ANNE) == (way(),)
