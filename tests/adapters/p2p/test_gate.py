"""Who may come in, as a pure decision."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.adapters.p2p.gate import Arrival, Gate, Ticket, origin_of
from node.adapters.p2p.limits import P2pLimits

LIMITS = P2pLimits(inbound=6, handshakes=5, inbound_per_address=3, handshakes_per_address=3)


def test_a_handshake_that_dawdles_makes_room_for_a_newcomer_of_its_origin() -> None:
    gate = Gate(LIMITS)
    first, second, third = (gate.arrive("a").ticket for _ in range(3))
    arrival = gate.arrive("a")
    assert arrival.ticket is not None
    assert arrival.displaced == first
    assert first is not None
    assert not gate.establish(first)
    assert second is not None
    assert third is not None
    assert gate.establish(second)


def test_where_all_places_are_taken_the_origin_with_most_gives_one_up() -> None:
    gate = Gate(LIMITS)
    crowd = [gate.arrive("crowd").ticket for _ in range(3)]
    assert gate.arrive("b").displaced is None
    assert gate.arrive("c").displaced is None
    assert gate.arrive("honest").displaced == crowd[0]


def test_the_established_are_never_displaced_and_a_newcomer_is_refused() -> None:
    gate = Gate(LIMITS)
    for _ in range(3):
        ticket = gate.arrive("a").ticket
        assert ticket is not None
        assert gate.establish(ticket)
    assert gate.arrive("a") == Arrival(None)
    assert gate.arrive("b").ticket is not None


def test_a_place_that_was_left_can_be_taken() -> None:
    gate = Gate(LIMITS)
    for _ in range(100):
        ticket = gate.arrive("a").ticket
        assert ticket is not None
        assert gate.establish(ticket)
        gate.leave(ticket)
        gate.leave(ticket)
    assert (gate.shaking, gate.inside) == (0, 0)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 2), st.integers(0, 50)), max_size=200))
def test_the_bounds_hold_whatever_comes(steps: list[tuple[str, int, int]]) -> None:
    gate, tickets = Gate(LIMITS), list[Ticket]()
    for origin, action, which in steps:
        if action == 0:
            arrival = gate.arrive(origin)
            if arrival.ticket is not None:
                tickets.append(arrival.ticket)
        elif tickets and action == 1:
            gate.establish(tickets[which % len(tickets)])
        elif tickets:
            gate.leave(tickets.pop(which % len(tickets)))
        assert gate.shaking <= LIMITS.handshakes
        assert gate.inside <= LIMITS.inbound
    for ticket in tickets:
        gate.leave(ticket)
    assert (gate.shaking, gate.inside) == (0, 0)
    assert gate._shaking_from == gate._inside_from == {}


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_origin_is_an_address_or_the_network_of_one_customer(host: str, origin: str) -> None:
    assert origin_of(host) == origin
