"""The inference exchange: two ends that agree whatever is said and however it is cut; strangers who say anything."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import inference_events as say
from protocol import limits, wire
from protocol.errors import LocalProtocolError, Reason, RemoteProtocolError
from protocol.framing import frame
from protocol.inference import FREE, SENDER, TABLE, Exchange, Move, Role, State
from tests.protocol import samples
from tests.protocol.strategies import ASKS, EVENTS, HEADS, REFUSALS, VALUES, cuts, mutated


def taken(end: Exchange) -> list[say.Event]:
    out: list[say.Event] = []
    while (event := end.next_event()) is not None:
        out.append(event)
    return out


@given(EVENTS)
def test_a_message_says_on_arrival_what_it_said_on_leaving(event: say.Event) -> None:
    assert say.decode(say.encode(event)) == event


@given(EVENTS.flatmap(lambda event: mutated(say.encode(event))) | st.binary(max_size=100))
def test_a_mutated_message_is_another_message_or_the_peers_fault(payload: bytes) -> None:
    try:
        event = say.decode(payload)
    except RemoteProtocolError:
        return
    # Headers that this version does not know are dropped, so the bytes may differ; the meaning may not.
    assert say.decode(say.encode(event)) == event


FIELDS = st.text(max_size=6) | st.sampled_from(["status", "headers", "data", "load", "code", "message", "data_size"])


@given(st.dictionaries(FIELDS, VALUES, max_size=6), st.sampled_from([*say.KINDS]))
def test_any_map_under_any_kind_is_a_message_or_the_peers_fault(fields: dict[str, wire.Value], kind: str) -> None:
    payload = wire.encode({**fields, "kind": kind}, limits.MESSAGE)
    try:
        event = say.decode(payload)
    except RemoteProtocolError:
        return
    assert isinstance(event, say.KINDS[kind])


@given(st.binary(max_size=300), st.sampled_from(Role), st.data())
def test_a_stream_of_garbage_means_the_same_however_it_is_cut(raw: bytes, us: Role, data: st.DataObject) -> None:
    assert heard(us, data.draw(cuts(raw))) == heard(us, [raw])


@given(st.lists(EVENTS.map(say.encode), max_size=5), st.data())
def test_messages_in_any_order_give_events_or_the_peers_fault(payloads: list[bytes], data: st.DataObject) -> None:
    raw = b"".join(map(frame, payloads))
    damaged = data.draw(st.just(raw) | mutated(raw))
    for us in Role:
        assert heard(us, data.draw(cuts(damaged))) == heard(us, [damaged])


def heard(us: Role, pieces: list[bytes]) -> tuple[list[say.Event], Reason | None, State]:
    end, events = Exchange(us), list[say.Event]()
    try:
        for piece in pieces:
            end.feed(piece)
            while (event := end.next_event()) is not None:
                events.append(event)
        end.end()
    except RemoteProtocolError as error:
        return events, error.reason, end.state
    return events, None, end.state


PLAIN: dict[Move, st.SearchStrategy[say.Event]] = {
    Move.HEAD: HEADS,
    Move.REFUSE: REFUSALS,
    Move.CANCEL: st.just(samples.CANCEL),
    Move.FAIL: st.just(samples.FAIL),
    Move.CANCELLED: st.just(samples.CANCELLED),
}


class Talk:
    """Two honest ends and the bytes under way between them, driven by luck."""

    def __init__(self, luck: Random, draw: Callable[[st.SearchStrategy[say.Event]], say.Event]) -> None:
        self.luck = luck
        self.draw = draw
        self.ends = {role: Exchange(role) for role in Role}
        self.under_way = {role: bytearray() for role in Role}
        self.said: dict[Role, list[say.Event]] = {role: [] for role in Role}
        self.heard: dict[Role, list[say.Event]] = {role: [] for role in Role}
        self.body_left = 0
        self.data_size = 0

    def sayable(self, role: Role) -> list[Move]:
        """What this end may say now; the size of the body decides between the two sorts of Body."""
        return [
            move
            for move, step in TABLE[self.ends[role].state].items()
            if SENDER[move] is role and not step.crossing and not (move is Move.BODY and self.body_left < 2)
        ]

    def utter(self, role: Role, move: Move) -> None:
        event = self._event(move)
        self.under_way[role] += self.ends[role].send(event)
        self.said[role].append(event)

    def _event(self, move: Move) -> say.Event:
        if move in {Move.ASK, Move.ASK_WHOLE}:
            drawn = self.draw(ASKS)
            assert isinstance(drawn, say.Ask)
            ask = replace(drawn, body_size=max(drawn.body_size, 1) if move is Move.ASK else 0)
            self.body_left, self.data_size = ask.body_size, 0
            return ask
        if move in {Move.BODY, Move.BODY_LAST}:
            size = self.body_left if move is Move.BODY_LAST else self.luck.randrange(1, self.body_left)
            self.body_left -= size
            return say.Body(data=self.luck.randbytes(size))
        if move is Move.DATA:
            data = self.luck.randbytes(self.luck.randrange(1, 30))
            self.data_size += len(data)
            return say.Data(data=data)
        if move is Move.END:
            return say.End(data_size=self.data_size)
        return self.draw(PLAIN[move])

    def deliver(self, role: Role, size: int) -> None:
        """Bring some of what `role` said to the other end."""
        other = Role.SERVER if role is Role.ASKER else Role.ASKER
        piece = bytes(self.under_way[role][:size])
        del self.under_way[role][:size]
        self.ends[other].feed(piece)
        self.heard[role] += taken(self.ends[other])

    def step(self) -> None:
        role = self.luck.choice(list(Role))
        moves = self.sayable(role)
        if moves and self.luck.random() < 0.5:
            self.utter(role, self.luck.choice(moves))
        elif self.under_way[role]:
            self.deliver(role, self.luck.randrange(1, len(self.under_way[role]) + 1))


@settings(max_examples=60)
@given(st.randoms(use_true_random=False), st.data())
def test_two_ends_agree_whatever_they_say_and_however_it_travels(luck: Random, data: st.DataObject) -> None:
    talk = Talk(luck, data.draw)
    for _ in range(60):
        talk.step()
    for role in Role:
        talk.deliver(role, len(talk.under_way[role]))
    assert talk.heard == talk.said
    assert talk.ends[Role.ASKER].state is talk.ends[Role.SERVER].state
    for role in Role:
        if talk.ends[role].state in FREE:
            talk.ends[role].end()


def answering() -> tuple[Exchange, Exchange]:
    """Two ends, the answer's head said and heard."""
    asker, server = Exchange(Role.ASKER), Exchange(Role.SERVER)
    server.feed(asker.send(samples.ASK_WHOLE))
    taken(server)
    asker.feed(server.send(samples.HEAD))
    taken(asker)
    return asker, server


def test_when_end_and_cancel_cross_the_stream_is_free_at_cancelled_and_not_before() -> None:
    asker, server = answering()
    end = server.send(say.End(data_size=0))
    assert server.is_free
    cancel = asker.send(samples.CANCEL)
    asker.feed(end)
    assert taken(asker) == [say.End(data_size=0)]
    assert not asker.is_free
    with pytest.raises(LocalProtocolError):
        asker.send(samples.ASK_WHOLE)
    server.feed(cancel)
    assert taken(server) == [samples.CANCEL]
    assert not server.is_free
    asker.feed(server.send(samples.CANCELLED))
    taken(asker)
    assert asker.is_free
    assert server.is_free
    server.feed(asker.send(samples.ASK_WHOLE))
    assert taken(server) == [samples.ASK_WHOLE]


def test_a_server_that_heard_cancel_can_only_acknowledge_it() -> None:
    asker, server = answering()
    server.feed(asker.send(samples.CANCEL))
    taken(server)
    for event in (samples.DATA, samples.FAIL, say.End(data_size=0), samples.HEAD):
        with pytest.raises(LocalProtocolError):
            server.send(event)
    server.send(samples.CANCELLED)


def test_a_body_of_the_largest_size_passes_in_parts() -> None:
    asker, server = Exchange(Role.ASKER), Exchange(Role.SERVER)
    ask = say.Ask(request_id="r", method="POST", target="/v1/x", headers=(), body_size=limits.BODY_BYTES, attempt=1)
    server.feed(asker.send(ask))
    taken(server)
    left, got = limits.BODY_BYTES, 0
    while left:
        size = min(left, limits.PART_BYTES)
        server.feed(asker.send(say.Body(data=bytes(size))))
        for event in taken(server):
            assert isinstance(event, say.Body)
            got += len(event.data)
        left -= size
    assert got == limits.BODY_BYTES
    assert server.state is State.ASKED


def test_more_body_than_was_announced_is_refused_at_both_ends() -> None:
    asker, server = Exchange(Role.ASKER), Exchange(Role.SERVER)
    server.feed(asker.send(samples.ASK))
    taken(server)
    too_much = say.Body(data=b"x" * (samples.ASK.body_size + 1))
    with pytest.raises(LocalProtocolError):
        asker.send(too_much)
    server.feed(frame(say.encode(too_much)))
    with pytest.raises(RemoteProtocolError) as caught:
        server.next_event()
    assert caught.value.reason is Reason.SIZE_MISMATCH


def test_an_answer_that_is_not_as_long_as_its_end_says_is_refused_at_both_ends() -> None:
    asker, server = answering()
    asker.feed(server.send(samples.DATA))
    with pytest.raises(LocalProtocolError):
        server.send(say.End(data_size=1))
    asker.feed(frame(say.encode(say.End(data_size=1))))
    assert asker.next_event() == samples.DATA
    with pytest.raises(RemoteProtocolError) as caught:
        asker.next_event()
    assert caught.value.reason is Reason.SIZE_MISMATCH


def test_an_answer_without_end_is_refused_at_its_bound() -> None:
    asker, _ = answering()
    part = frame(say.encode(say.Data(data=bytes(limits.PART_BYTES))))
    for _ in range(limits.ANSWER_BYTES // limits.PART_BYTES):
        asker.feed(part)
        assert len(taken(asker)) == 1
    asker.feed(part)
    with pytest.raises(RemoteProtocolError) as caught:
        asker.next_event()
    assert caught.value.reason is Reason.TOO_LARGE


def test_what_we_may_not_say_leaves_the_state_as_it_was() -> None:
    asker = Exchange(Role.ASKER)
    with pytest.raises(LocalProtocolError):
        asker.send(say.Ask(request_id="a b", method="GET", target="/", headers=(), body_size=0, attempt=1))
    assert asker.state is State.IDLE
    asker.send(samples.ASK_WHOLE)


def test_a_broken_stream_stays_broken() -> None:
    server = Exchange(Role.SERVER)
    server.feed(frame(b"\xc0") + frame(say.encode(samples.ASK_WHOLE)))
    for _ in range(3):
        with pytest.raises(RemoteProtocolError):
            server.next_event()
    with pytest.raises(RemoteProtocolError):
        server.end()
    with pytest.raises(LocalProtocolError):
        server.send(samples.REFUSE)
    assert not server.is_free


def test_a_stream_that_ends_between_prompts_ends_well_and_otherwise_not() -> None:
    asker, server = answering()
    with pytest.raises(RemoteProtocolError) as caught:
        server.end()
    assert caught.value.reason is Reason.TRUNCATED
    asker.feed(server.send(say.End(data_size=0)))
    taken(asker)
    asker.end()
    server.end()


@given(st.lists(EVENTS.map(say.encode), max_size=6), st.sampled_from(Role))
def test_payloads_from_a_stream_with_frames_of_its_own_mean_the_same_as_framed_ones(
    payloads: list[bytes], us: Role
) -> None:
    bare, events, reason = Exchange(us), list[say.Event](), None
    try:
        for payload in payloads:
            events.append(bare.hear(payload))
        bare.end()
    except RemoteProtocolError as error:
        reason = error.reason
    assert (events, reason, bare.state) == heard(us, list(map(frame, payloads)))


def test_what_is_said_bare_is_what_is_sent_but_for_the_frame() -> None:
    bare, framed = Exchange(Role.ASKER), Exchange(Role.ASKER)
    for event in (samples.ASK, samples.BODY, samples.BODY_LAST, samples.CANCEL):
        assert frame(bare.say(event)) == framed.send(event)
        assert bare.state is framed.state
