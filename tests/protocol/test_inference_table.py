"""The transition table: walked whole, by both ends, and searched for races that it would not survive."""

from collections import deque
from functools import cache

import pytest

from protocol import inference_events as say
from protocol.errors import LocalProtocolError, Reason, RemoteProtocolError
from protocol.framing import frame
from protocol.inference import FREE, SENDER, TABLE, Exchange, Move, Role, State
from tests.protocol import samples
from tests.protocol.pages import PAGES, filled

EVENTS: dict[Move, say.Event] = {
    Move.ASK: samples.ASK,
    Move.ASK_WHOLE: samples.ASK_WHOLE,
    Move.BODY: say.Body(data=b"x"),
    Move.CANCEL: samples.CANCEL,
    Move.REFUSE: samples.REFUSE,
    Move.HEAD: samples.HEAD,
    Move.DATA: samples.DATA,
    Move.FAIL: samples.FAIL,
    Move.CANCELLED: samples.CANCELLED,
}


class Script:
    """One end of an exchange, and as much memory as it takes to say the next move with the right sizes."""

    def __init__(self, us: Role) -> None:
        self.exchange = Exchange(us)
        self.us = us
        self.body_left = 0
        self.data_size = 0

    def event(self, move: Move) -> say.Event:
        if move is Move.BODY_LAST:
            return say.Body(data=b"x" * max(1, self.body_left))
        if move is Move.END:
            return say.End(data_size=self.data_size)
        return EVENTS[move]

    def make(self, move: Move) -> None:
        """Say or hear the move, whichever is this end's part in it."""
        event = self.event(move)
        if SENDER[move] is self.us:
            self.exchange.send(event)
        else:
            self.exchange.feed(frame(say.encode(event)))
            assert self.exchange.next_event() == event
        if isinstance(event, say.Ask):
            self.body_left, self.data_size = event.body_size, 0
        elif isinstance(event, say.Body):
            self.body_left -= len(event.data)
        elif isinstance(event, say.Data):
            self.data_size += len(event.data)


@cache
def way_to(us: Role, goal: State) -> tuple[Move, ...] | None:
    """Return the shortest sequence of moves by which this end comes to be in that state."""
    ways: dict[State, tuple[Move, ...]] = {State.IDLE: ()}
    queue = deque([State.IDLE])
    while queue:
        state = queue.popleft()
        for move, step in TABLE[state].items():
            if step.to not in ways and not (step.crossing and SENDER[move] is us):
                ways[step.to] = (*ways[state], move)
                queue.append(step.to)
    return ways.get(goal)


@pytest.mark.parametrize("us", Role)
@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("move", Move)
def test_every_move_in_every_state_by_either_end_does_what_the_table_says(us: Role, state: State, move: Move) -> None:
    way = way_to(us, state)
    assert way is not None, f"the {us.value} can never be {state.value}"
    script = Script(us)
    for step in way:
        script.make(step)
    assert script.exchange.state is state

    allowed = TABLE[state].get(move)
    sends = SENDER[move] is us
    if allowed is not None and not (sends and allowed.crossing):
        script.make(move)
        assert script.exchange.state is allowed.to
        assert script.exchange.is_free == (allowed.to in FREE)
    elif sends:
        with pytest.raises(LocalProtocolError):
            script.exchange.send(script.event(move))
        assert script.exchange.state is state
    else:
        script.exchange.feed(frame(say.encode(script.event(move))))
        with pytest.raises(RemoteProtocolError) as caught:
            script.exchange.next_event()
        assert caught.value.reason is Reason.OUT_OF_TURN
        assert not script.exchange.is_free


@pytest.mark.parametrize("us", Role)
@pytest.mark.parametrize("move", Move)
def test_an_end_that_is_sent_its_own_messages_refuses_them(us: Role, move: Move) -> None:
    if SENDER[move] is not us:
        return
    for state in State:
        script = Script(us)
        for step in way_to(us, state) or ():
            script.make(step)
        script.exchange.feed(frame(say.encode(script.event(move))))
        with pytest.raises(RemoteProtocolError):
            script.exchange.next_event()


Whole = tuple[State, State, tuple[Move, ...], tuple[Move, ...]]  # asker, server, under way to server, to asker
UNDER_WAY = 5  # messages in flight in one direction: more repeat what these show (data after data)


def nexts(whole: Whole) -> list[Whole]:
    """Return what can happen next: an end says something it may say, or hears what is under way to it."""
    asker, server, to_server, to_asker = whole
    found: list[Whole] = []
    for move, step in TABLE[asker].items():
        if SENDER[move] is Role.ASKER and not step.crossing and len(to_server) < UNDER_WAY:
            found.append((step.to, server, (*to_server, move), to_asker))
    for move, step in TABLE[server].items():
        if SENDER[move] is Role.SERVER and not step.crossing and len(to_asker) < UNDER_WAY:
            found.append((asker, step.to, to_server, (*to_asker, move)))
    if to_server:
        step = TABLE[server].get(to_server[0])
        assert step is not None, f"the server is {server.value} and hears {to_server[0].value}: {whole}"
        found.append((asker, step.to, to_server[1:], to_asker))
    if to_asker:
        step = TABLE[asker].get(to_asker[0])
        assert step is not None, f"the asker is {asker.value} and hears {to_asker[0].value}: {whole}"
        found.append((step.to, server, to_server, to_asker[1:]))
    return found


@cache
def reachable() -> frozenset[Whole]:
    """Return every situation that two honest ends can come into."""
    start: Whole = (State.IDLE, State.IDLE, (), ())
    seen: set[Whole] = {start}
    queue: deque[Whole] = deque([start])
    while queue:
        for whole in nexts(queue.popleft()):
            if whole not in seen:
                seen.add(whole)
                queue.append(whole)
    return frozenset(seen)


def test_two_honest_ends_never_refuse_each_other_whatever_crosses() -> None:
    # `nexts` asserts that each message under way is one its receiver can take; here, that the search went everywhere.
    for end in (0, 1):
        assert {whole[end] for whole in reachable()} == set(State)


def test_when_nothing_is_under_way_both_ends_agree() -> None:
    for asker, server, to_server, to_asker in reachable():
        if not to_server and not to_asker:
            assert asker is server


def test_a_cancel_never_reaches_the_next_prompt() -> None:
    for _, _, to_server, _ in reachable():
        assert Move.CANCEL not in to_server[:-1]  # nothing is said behind a Cancel until Cancelled was heard


def test_every_crossing_step_does_occur() -> None:
    heard = {(server, to_server[0]) for _, server, to_server, _ in reachable() if to_server}
    heard |= {(asker, to_asker[0]) for asker, _, _, to_asker in reachable() if to_asker}
    crossing = {(state, move) for state, steps in TABLE.items() for move, step in steps.items() if step.crossing}
    assert crossing <= heard


def test_from_everywhere_the_stream_can_become_free_again() -> None:
    situations = reachable()
    before: dict[Whole, list[Whole]] = {whole: [] for whole in situations}
    for whole in situations:
        for following in nexts(whole):
            before[following].append(whole)
    free = [whole for whole in situations if whole[0] in FREE and whole[1] in FREE and not whole[2] and not whole[3]]
    seen, queue = set(free), deque(free)
    while queue:
        for earlier in before[queue.popleft()]:
            if earlier not in seen:
                seen.add(earlier)
                queue.append(earlier)
    assert seen == situations


def test_the_page_shows_this_table_and_no_other() -> None:
    page = (PAGES / "inference.md").read_text()
    assert filled(page) == page
