"""Admission by its promises: caps, fairness, no starvation, and that nobody is lost."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from node.core.admission import (
    LONGEST_RETRY,
    UNKNOWN_RETRY,
    Admission,
    AdmissionLimits,
    Admitted,
    Decline,
    Declined,
    Queued,
    Ticket,
)
from node.core.prompt import OWNER, Requester, RequesterKind

ANNE = Requester(RequesterKind.KEY, "anne")
BERT = Requester(RequesterKind.KEY, "bert")
CARL = Requester(RequesterKind.PEER, "carl")
DORA = Requester(RequesterKind.PEER, "dora")
LIMITS = AdmissionLimits(running=2, waiting=3, longest_wait=10.0)


def admit(admission: Admission, requester: Requester, now: float = 0.0) -> Ticket:
    decision = admission.arrive(requester, now)
    assert isinstance(decision, Admitted)
    return decision.ticket


def queue(admission: Admission, requester: Requester, now: float = 0.0) -> Ticket:
    decision = admission.arrive(requester, now)
    assert isinstance(decision, Queued)
    return decision.ticket


def test_prompts_are_admitted_up_to_the_cap_and_then_wait() -> None:
    admission = Admission(LIMITS)
    first = admit(admission, ANNE)
    admit(admission, ANNE)
    waiting = queue(admission, ANNE)
    assert admission.release(first, 1.0) == (waiting,)
    assert admission.holds_slot(waiting)
    assert admission.running == 2


def test_a_full_queue_declines_and_says_when_to_come_back() -> None:
    admission = Admission(LIMITS)
    for _ in range(5):
        admission.arrive(ANNE, 0.0)
    decision = admission.arrive(ANNE, 0.0)
    assert decision == Declined(reason=Decline.QUEUE_FULL, retry_after=UNKNOWN_RETRY)


def test_the_owner_is_served_before_everybody_who_waits() -> None:
    admission = Admission(LIMITS)
    running = admit(admission, ANNE)
    admit(admission, ANNE)
    queue(admission, BERT)
    owners = queue(admission, OWNER)
    assert admission.release(running, 1.0) == (owners,)


def test_whoever_has_least_running_is_next() -> None:
    admission = Admission(LIMITS)
    running = admit(admission, ANNE)
    admit(admission, ANNE)
    queue(admission, ANNE)
    berts = queue(admission, BERT)
    assert admission.release(running, 1.0) == (berts,)


def test_half_of_the_longest_wait_outweighs_a_lighter_newcomer() -> None:
    admission = Admission(LIMITS)
    running = admit(admission, ANNE)
    admit(admission, ANNE)
    annes = queue(admission, ANNE, 0.0)
    queue(admission, BERT, 4.9)
    assert admission.release(running, 5.0) == (annes,)


def test_a_lighter_requester_displaces_the_youngest_of_the_heaviest_when_the_queue_is_full() -> None:
    admission = Admission(LIMITS)
    for _ in range(4):
        admission.arrive(ANNE, 0.0)
    youngest = queue(admission, ANNE)
    decision = admission.arrive(BERT, 1.0)
    assert isinstance(decision, Queued)
    assert decision.displaced == youngest
    assert admission.waiting == 3


def test_equals_do_not_displace_each_other() -> None:
    admission = Admission(AdmissionLimits(running=1, waiting=2, longest_wait=10.0))
    admit(admission, CARL)
    queue(admission, ANNE)
    queue(admission, BERT)
    assert isinstance(admission.arrive(CARL, 0.0), Declined)


def test_the_owner_finds_room_even_where_each_stranger_waits_once() -> None:
    admission = Admission(AdmissionLimits(running=1, waiting=2, longest_wait=10.0))
    admit(admission, CARL)
    queue(admission, ANNE)
    berts = queue(admission, BERT)
    decision = admission.arrive(OWNER, 0.0)
    assert isinstance(decision, Queued)
    assert decision.displaced == berts


def test_waiting_ends_at_its_time_and_the_place_is_free_again() -> None:
    admission = Admission(LIMITS)
    admit(admission, ANNE)
    admit(admission, ANNE)
    late = queue(admission, BERT, 0.0)
    fresh = queue(admission, BERT, 5.0)
    assert admission.expire(10.0) == (late,)
    assert admission.waiting == 1
    assert admission.release(late, 10.0) == ()
    assert not admission.holds_slot(fresh)


def test_retry_after_follows_the_rate_of_endings_and_grows_while_nothing_ends() -> None:
    admission = Admission(AdmissionLimits(running=1, waiting=10, longest_wait=10.0))
    for second in range(10):
        admission.release(admit(admission, ANNE, float(second)), float(second))
    admit(admission, ANNE, 9.0)
    for _ in range(3):
        queue(admission, BERT, 9.0)
    assert admission.retry_after(9.0) == 4  # ten endings in nine seconds, four places ahead
    assert 4 < admission.retry_after(30.0) <= LONGEST_RETRY
    assert admission.retry_after(1e9) == LONGEST_RETRY


def test_a_wider_limit_admits_at_once_and_a_narrower_one_takes_nothing_back() -> None:
    admission = Admission(LIMITS)
    for _ in range(2):
        admit(admission, ANNE)
    waiting = queue(admission, BERT)
    assert admission.resize(AdmissionLimits(running=3, waiting=3, longest_wait=10.0), 1.0) == (waiting,)
    assert admission.resize(AdmissionLimits(running=1, waiting=3, longest_wait=10.0), 1.0) == ()
    assert admission.running == 3


def test_peers_leave_the_owners_reserve_alone_and_others_take_it_past_those_who_wait() -> None:
    admission = Admission(AdmissionLimits(running=3, waiting=3, longest_wait=10.0, reserved=1))
    admit(admission, CARL)
    running = admit(admission, DORA)
    carls = queue(admission, CARL)
    annes = admit(admission, ANNE)
    assert admission.release(annes, 1.0) == ()  # her slot was not a peer's
    assert not admission.holds_slot(carls)
    admit(admission, OWNER)
    assert admission.release(running, 2.0) == (carls,)


def test_a_slot_that_anybody_may_have_goes_by_the_usual_turn() -> None:
    admission = Admission(AdmissionLimits(running=3, waiting=3, longest_wait=10.0, reserved=1))
    first = admit(admission, ANNE)
    admit(admission, BERT)
    admit(admission, BERT)
    carls = queue(admission, CARL)
    owners = queue(admission, OWNER)
    assert admission.release(first, 1.0) == (owners,)
    assert admission.release(owners, 1.0) == (carls,)


def test_with_every_slot_reserved_peers_are_declined_at_once_and_only_they() -> None:
    admission = Admission(AdmissionLimits(running=1, waiting=3, longest_wait=10.0, reserved=1))
    assert not admission.takes(CARL)
    assert isinstance(admission.arrive(CARL, 0.0), Declined)
    admit(admission, ANNE)
    queue(admission, ANNE)


def test_a_smaller_reserve_lets_waiting_peers_in() -> None:
    admission = Admission(AdmissionLimits(running=2, waiting=3, longest_wait=10.0, reserved=1))
    admit(admission, CARL)
    waiting = queue(admission, CARL)
    assert admission.resize(AdmissionLimits(running=2, waiting=3, longest_wait=10.0), 1.0) == (waiting,)


@given(st.lists(st.sampled_from([OWNER, ANNE, BERT, CARL]), max_size=40), st.integers(1, 5), st.integers(0, 4))
def test_everybody_who_waits_is_admitted_once_those_before_have_ended(
    arrivals: list[Requester], running: int, reserved: int
) -> None:
    reserved = min(reserved, running - 1)
    admission = Admission(AdmissionLimits(running=running, waiting=100, longest_wait=1e9, reserved=reserved))
    active: list[Ticket] = []
    waiting: set[int] = set()
    for now, requester in enumerate(arrivals):
        decision = admission.arrive(requester, float(now))
        assert not isinstance(decision, Declined)
        if isinstance(decision, Admitted):
            active.append(decision.ticket)
        else:
            waiting.add(decision.ticket.number)
    while active:
        for admitted in admission.release(active.pop(0), 100.0):
            waiting.remove(admitted.number)
            active.append(admitted)
    assert not waiting
    assert (admission.running, admission.waiting) == (0, 0)


@dataclass
class Ledger:
    running: dict[int, Ticket] = field(default_factory=dict)
    waiting: dict[int, Ticket] = field(default_factory=dict)
    arrived: int = 0
    declined: int = 0
    dropped: int = 0
    released: int = 0


class AnyWeather(RuleBasedStateMachine):
    """Random arrivals, endings, departures and time: the ledger kept outside agrees with admission at every step."""

    @initialize(running=st.integers(1, 4), waiting=st.integers(0, 5), reserved=st.integers(0, 4))
    def build(self, running: int, waiting: int, reserved: int) -> None:
        self.limits = AdmissionLimits(running=running, waiting=waiting, longest_wait=5.0, reserved=reserved)
        self.admission = Admission(self.limits)
        self.books = Ledger()
        self.now = 0.0

    def admitted(self, tickets: tuple[Ticket, ...]) -> None:
        for ticket in tickets:
            self.books.running[ticket.number] = self.books.waiting.pop(ticket.number)

    @rule(requester=st.sampled_from([OWNER, ANNE, BERT, CARL, DORA]))
    def arrive(self, requester: Requester) -> None:
        self.books.arrived += 1
        taken = self.admission.takes(requester)
        decision = self.admission.arrive(requester, self.now)
        assert taken is not isinstance(decision, Declined)
        match decision:
            case Admitted(ticket=ticket):
                self.books.running[ticket.number] = ticket
            case Queued(ticket=ticket, displaced=displaced):
                self.books.waiting[ticket.number] = ticket
                if displaced is not None:
                    assert displaced.requester.kind is not RequesterKind.OWNER
                    del self.books.waiting[displaced.number]
                    self.books.dropped += 1
            case Declined(retry_after=retry):
                assert 1 <= retry <= LONGEST_RETRY
                self.books.declined += 1

    @precondition(lambda self: self.books.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        ticket = self.books.running.pop(data.draw(st.sampled_from(sorted(self.books.running))))
        self.books.released += 1
        self.admitted(self.admission.release(ticket, self.now))

    @precondition(lambda self: self.books.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = self.books.waiting.pop(data.draw(st.sampled_from(sorted(self.books.waiting))))
        self.books.dropped += 1
        self.admitted(self.admission.release(ticket, self.now))

    @rule(seconds=st.floats(0, 3))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for ticket in self.admission.expire(self.now):
            assert ticket.until <= self.now
            del self.books.waiting[ticket.number]
            self.books.dropped += 1

    @invariant()
    def nobody_is_lost_and_no_bound_is_passed(self) -> None:
        books = self.books
        assert self.admission.running == len(books.running) <= self.limits.running
        assert self.admission.waiting == len(books.waiting) <= self.limits.waiting
        assert books.arrived == (
            len(books.running) + len(books.waiting) + books.declined + books.dropped + books.released
        )

    @invariant()
    def nobody_waits_beside_a_slot_that_is_free_for_them_and_peers_leave_the_reserve_alone(self) -> None:
        peers = sum(ticket.requester.kind is RequesterKind.PEER for ticket in self.books.running.values())
        share = self.limits.running - self.limits.reserved
        assert peers <= max(share, 0)
        if len(self.books.running) < self.limits.running:
            kinds = {ticket.requester.kind for ticket in self.books.waiting.values()}
            assert kinds <= {RequesterKind.PEER}
            assert not kinds or peers == share


TestAnyWeather = AnyWeather.TestCase
