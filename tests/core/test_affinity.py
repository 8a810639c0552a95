"""Who may still hold a prompt's beginning: what was sent there, in this run, not long ago, and not too much since."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.affinity import CACHE_TOKENS, FORGET_S, HOLDERS, Affinity, Marks, marks_of, of_session
from node.core.prompt import OWNER, Requester, RequesterKind
from protocol.ids import PeerId
from tests.core.routing import KEY, PEERS

ANNE, BERT = PEERS[:2]
SYSTEM = "You are a patient teacher. " * 100


def body(*turns: str, model: str = "m", **fields: float) -> bytes:
    roles = ("system", "user", "assistant")
    messages = [{"role": roles[min(at, 1 + at % 2)], "content": text} for at, text in enumerate(turns)]
    return json.dumps({"model": model, **fields, "messages": messages}).encode()


def marks(*turns: str, key: bytes = KEY, **fields: float) -> Marks:
    return marks_of(body(*turns, model="m", **fields), "m", key)


def always(_: PeerId) -> int:
    return 1


def test_the_next_turn_is_known_to_whoever_had_the_last() -> None:
    affinity = Affinity()
    affinity.sent(ANNE, marks(SYSTEM, "hello"), 700.0, run=1, now=0.0)
    turn = marks(SYSTEM, "hello", "how may I help?", "what is a mark?")
    assert 500 < affinity.cached(turn, 730.0, run=always, now=1.0)[ANNE] < 730
    assert BERT not in affinity.cached(turn, 730.0, run=always, now=1.0)


def test_instructions_that_are_shared_are_known_and_other_ones_are_not() -> None:
    affinity = Affinity()
    affinity.sent(ANNE, marks(SYSTEM, "one question"), 700.0, run=1, now=0.0)
    assert affinity.cached(marks(SYSTEM, "quite another"), 700.0, run=always, now=0.0)[ANNE] > 500
    assert not affinity.cached(marks("Other rules. " * 200, "one question"), 700.0, run=always, now=0.0)


def test_fields_before_the_messages_may_differ() -> None:
    affinity = Affinity()
    affinity.sent(ANNE, marks(SYSTEM, "x", temperature=0.1, max_tokens=5), 700.0, run=1, now=0.0)
    assert affinity.cached(marks(SYSTEM, "x", temperature=0.25), 700.0, run=always, now=0.0)


def test_another_model_or_another_key_gives_other_marks() -> None:
    mine = {mark for _, mark in marks(SYSTEM, "x").marks}
    assert not mine & {mark for _, mark in marks(SYSTEM, "x", key=bytes(32)).marks}
    assert not mine & {mark for _, mark in marks_of(body(SYSTEM, "x"), "other", KEY).marks}


def test_a_short_prompt_has_no_marks() -> None:
    assert marks("hi").marks == ()
    assert marks_of(b"", "m", KEY).marks == ()


def test_what_another_run_was_sent_is_gone() -> None:
    affinity = Affinity()
    one = marks(SYSTEM, "x")
    affinity.sent(ANNE, one, 700.0, run=1, now=0.0)
    assert not affinity.cached(one, 700.0, run=lambda _: 2, now=0.0)


def test_what_is_cached_shrinks_with_time_and_with_what_was_sent_since() -> None:
    affinity = Affinity()
    one = marks(SYSTEM, "x")
    affinity.sent(ANNE, one, 700.0, run=1, now=0.0)
    fresh = affinity.cached(one, 700.0, run=always, now=0.0)[ANNE]
    assert affinity.cached(one, 700.0, run=always, now=FORGET_S)[ANNE] == pytest.approx(fresh / 2.718, rel=0.01)
    affinity.sent(ANNE, marks("Something else. " * 300, "y"), CACHE_TOKENS, run=1, now=0.0)
    assert affinity.cached(one, 700.0, run=always, now=0.0)[ANNE] == pytest.approx(fresh / 2.718, rel=0.01)


def test_the_latest_holders_of_a_mark_are_remembered_and_marks_are_bounded() -> None:
    affinity = Affinity(marks=30)
    one = marks(SYSTEM, "x")
    for peer in PEERS[: HOLDERS + 3]:
        affinity.sent(peer, one, 700.0, run=1, now=0.0)
    assert set(affinity.cached(one, 700.0, run=always, now=0.0)) == set(PEERS[3 : HOLDERS + 3])
    for number in range(20):
        affinity.sent(ANNE, marks(f"{number} " * 500, "x"), 700.0, run=1, now=0.0)
    assert len(affinity) == 30


@given(st.binary(max_size=5000), st.binary(max_size=5000), st.binary(max_size=500))
def test_no_more_is_taken_for_common_than_is(start: bytes, mine: bytes, yours: bytes) -> None:
    one, other = start + b"a" + mine, start + b"b" + yours
    common = set(marks_of(one, "m", KEY).marks) & set(marks_of(other, "m", KEY).marks)
    assert all(length <= len(start) for length, _ in common)


def named(of: Marks, name: bytes, requester: Requester = OWNER, model: str = "m") -> Marks:
    return of_session(of, requester, name, model, KEY)


def test_a_named_conversation_is_known_to_whoever_had_its_last_prompt_though_its_beginning_changed() -> None:
    affinity = Affinity()
    affinity.sent(ANNE, named(marks("It is noon. " + SYSTEM, "hello"), b"chat-1"), 700.0, run=1, now=0.0)
    turn = marks("It is one o'clock. " + SYSTEM, "hello", "yes?", "go on")
    assert not affinity.cached(turn, 730.0, run=always, now=0.0)
    assert affinity.cached(named(turn, b"chat-1"), 730.0, run=always, now=0.0) == {ANNE: 700.0}
    assert affinity.cached(named(turn, b"chat-1"), 300.0, run=always, now=0.0) == {ANNE: 300.0}
    assert affinity.cached(named(turn, b"chat-1"), 730.0, run=always, now=FORGET_S)[ANNE] == pytest.approx(
        257.5, rel=0.01
    )
    assert not affinity.cached(named(turn, b"chat-1"), 730.0, run=lambda _: 2, now=0.0)


def test_a_conversations_name_is_its_clients_alone_and_says_nothing() -> None:
    one = named(marks("hi"), b"chat-1").session
    others = (
        named(marks("hi"), b"chat-2").session,
        named(marks("hi"), b"chat-1", Requester(RequesterKind.KEY, "owner")).session,
        named(marks("hi"), b"chat-1", Requester(RequesterKind.KEY, "somebody")).session,
        named(marks("hi"), b"chat-1", model="other").session,
        of_session(marks("hi"), OWNER, b"chat-1", "m", bytes(32)).session,
    )
    assert one is not None
    assert len({one, *others}) == 1 + len(others)
    assert b"chat" not in one


def test_what_is_known_by_name_and_by_beginning_counts_once_and_at_its_most() -> None:
    affinity = Affinity()
    first = named(marks(SYSTEM, "hello"), b"chat-1")
    affinity.sent(ANNE, first, 700.0, run=1, now=0.0)
    again = named(marks(SYSTEM, "hello", "yes?", "go on"), b"chat-1")
    by_beginning = affinity.cached(marks(SYSTEM, "hello", "yes?", "go on"), 730.0, run=always, now=0.0)[ANNE]
    assert affinity.cached(again, 730.0, run=always, now=0.0) == {ANNE: max(by_beginning, 700.0)}
