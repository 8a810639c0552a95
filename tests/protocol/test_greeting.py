"""The greeting and the question of load as exchanges: both ends agree, and garbage only ever blames the peer."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import hello, load, reach
from protocol.dialogue import Dialogue, Role, Script
from protocol.errors import LocalProtocolError, Reason, RemoteProtocolError
from protocol.hello import Greeting, Hello, Part, Parted, Settled, settle
from protocol.ids import SwarmId
from protocol.load import Load, Serving, read_figures
from tests.protocol import samples, swarm_samples
from tests.protocol.strategies import FOREIGN, VALUES, mutated

NOW = samples.NOW
THEIRS = swarm_samples.hello(sender=swarm_samples.OTHER)
NAMES = st.sampled_from(["infer", "load", "advert", "history", "telepathy"])
VERSIONS = st.dictionaries(NAMES, st.lists(st.integers(1, 4), max_size=4).map(tuple), max_size=5)
FEATURES = st.lists(st.sampled_from(["resume", "stickiness", "levitation"]), max_size=3).map(tuple)
SWARMS = st.sampled_from([SwarmId("public"), SwarmId("mine")])


def hellos(sender: object) -> st.SearchStrategy[Hello]:
    return st.builds(
        swarm_samples.hello,
        sender=st.just(sender),
        swarm=SWARMS,
        versions=VERSIONS,
        features=FEATURES,
        time=st.integers(NOW - 10**9, NOW + 10**9),
        unknown=st.dictionaries(st.from_regex(r"x_[a-z]{1,6}", fullmatch=True), st.integers(0, 9), max_size=2),
    )


def greet(ours: Hello, theirs: Hello, judge: hello.Judge = hello.welcome_all) -> tuple[Greeting, Greeting]:
    opener = Greeting(Role.OPENER, ours, theirs.sender, judge=judge)
    answerer = Greeting(Role.ANSWERER, theirs, ours.sender)
    second = answerer.take(opener.begin(ours.time), theirs.time)
    assert second is not None
    third = opener.take(second, ours.time)
    if third is not None:
        assert answerer.take(third, theirs.time) is None
    opener.end()
    answerer.end()
    return opener, answerer


@given(hellos(samples.AUTHOR), hellos(swarm_samples.OTHER))
def test_both_ends_come_to_the_same(ours: Hello, theirs: Hello) -> None:
    opener, answerer = greet(ours, theirs)
    one, other = opener.outcome, answerer.outcome
    if isinstance(one, Settled):
        assert isinstance(other, Settled)
        assert (one.versions, one.features) == (other.versions, other.features)
        assert one.versions
        assert all(
            version in ours.versions[name] and version in theirs.versions[name]
            for name, version in one.versions.items()
        )
        assert one.skew_us == -other.skew_us
    else:
        assert isinstance(one, Parted)
        assert isinstance(other, Parted)
        assert (one.code, one.message) == (other.code, other.message)
        assert (one.by_us, other.by_us) == (False, True)


def test_nodes_of_unlike_versions_speak_what_both_speak() -> None:
    newer = swarm_samples.HELLOS["hello of a newer node"]
    assert isinstance(newer, Hello)
    settled = greet(swarm_samples.hello(), newer)[0].outcome
    assert isinstance(settled, Settled)
    assert settled.versions == {"infer": 1, "advert": 1}
    assert settled.features == {"resume"}


def test_parting_tells_no_stranger_the_name_of_our_swarm() -> None:
    mine = swarm_samples.hello(swarm=SwarmId("my-secret-circle"))
    verdict = settle(mine, THEIRS)
    assert isinstance(verdict, Part)
    assert "secret" not in verdict.message


def test_whoever_greets_in_anothers_name_is_blamed() -> None:
    answerer = Greeting(Role.ANSWERER, THEIRS, swarm_samples.OTHER)
    opener = Greeting(Role.OPENER, swarm_samples.hello(), swarm_samples.OTHER)
    with pytest.raises(RemoteProtocolError) as caught:
        answerer.take(opener.begin(NOW), NOW)
    assert caught.value.reason is Reason.WRONG_SENDER
    assert answerer.outcome is None


def test_who_is_not_wanted_is_told_so_from_either_end() -> None:
    def full(_: Settled) -> Part:
        return Part(code="full", message="Come back later.")

    opener, answerer = greet(swarm_samples.hello(), THEIRS, judge=full)
    assert opener.outcome == Parted(by_us=True, code="full", message="Come back later.")
    assert answerer.outcome == Parted(by_us=False, code="full", message="Come back later.")
    answerer = Greeting(Role.ANSWERER, THEIRS, samples.AUTHOR, judge=full)
    opener = Greeting(Role.OPENER, swarm_samples.hello(), swarm_samples.OTHER)
    answer = answerer.take(opener.begin(NOW), NOW)
    assert answer is not None
    opener.take(answer, NOW)
    assert opener.outcome == Parted(by_us=False, code="full", message="Come back later.")


def test_the_skew_is_that_of_the_clocks_and_not_of_the_way() -> None:
    ahead = 7_000_000
    opener = Greeting(Role.OPENER, swarm_samples.hello(), swarm_samples.OTHER)
    answerer = Greeting(Role.ANSWERER, THEIRS, samples.AUTHOR)
    first = opener.begin(NOW)
    answer = answerer.take(first, NOW + 200_000 + ahead)
    assert answer is not None
    opener.take(answer, NOW + 400_000)
    assert isinstance(opener.outcome, Settled)
    assert opener.outcome.skew_us == ahead
    assert opener.outcome.clocks_agree


SCRIPTS: list[tuple[Script[Any, Any], dict[str, Any]]] = [
    (hello.SCRIPT, {"hello": THEIRS, "part": Part(code="full", message="")}),
    (reach.SCRIPT, {"ask": reach.Ask(ports=(1,)), "seen": reach.Seen(tried=(1,), reached=())}),
    (load.SCRIPT, {"poll": load.Poll(), "report": load.Report(load={"running": 0, "waiting": 0})}),
]


@pytest.mark.parametrize(("script", "messages"), SCRIPTS, ids=["hello", "reach", "load"])
def test_what_the_table_does_not_allow_is_refused_and_never_sent(
    script: Script[Any, Any], messages: dict[str, Any]
) -> None:
    for state, (kind, cls), role in product(script.table, script.vocabulary.kinds.items(), Role):
        turn = script.table[state].get(cls)
        end: Dialogue[Any, Any] = Dialogue(replace(script, start=state), role)
        payload = script.vocabulary.encode(messages[kind])
        if turn is not None and turn.by is role:
            assert end.say(messages[kind]) == payload
            assert end.state is turn.to
            continue
        with pytest.raises(LocalProtocolError):
            end.say(messages[kind])
        assert end.state is state
        if turn is not None:
            end.hear(payload)
            assert end.state is turn.to
            continue
        with pytest.raises(RemoteProtocolError) as caught:
            end.hear(payload)
        assert caught.value.reason is Reason.OUT_OF_TURN
        with pytest.raises(LocalProtocolError):
            end.say(messages[kind])


@pytest.mark.parametrize("state", [hello.State.FRESH, hello.State.GREETED])
def test_a_greeting_that_ends_early_is_the_peers_fault(state: hello.State) -> None:
    end: Dialogue[hello.State, hello.Message] = Dialogue(replace(hello.SCRIPT, start=state), Role.ANSWERER)
    with pytest.raises(RemoteProtocolError):
        end.end()


GARBAGE = (
    st.binary(max_size=300)
    | FOREIGN
    | VALUES.flatmap(lambda value: mutated(b"\x82\xa4kind\xa5hello"))
    | mutated(hello.SCRIPT.vocabulary.encode(THEIRS))
    | mutated(load.SCRIPT.vocabulary.encode(swarm_samples.LOADS["report"]))
)


@given(GARBAGE)
def test_no_garbage_makes_anything_but_the_peers_fault(raw: bytes) -> None:
    greeting = Greeting(Role.ANSWERER, swarm_samples.hello(), swarm_samples.OTHER)
    question: Dialogue[load.State, load.Message] = Dialogue(load.SCRIPT, Role.OPENER)
    question.say(load.Poll())
    try:
        greeting.take(raw, NOW)
    except RemoteProtocolError:
        pass
    else:
        assert greeting.outcome is not None
    try:
        report = question.hear(raw)
        assert isinstance(report, load.Report)
        read_figures(report.load)
    except RemoteProtocolError:
        pass


@given(
    st.builds(
        Load,
        running=st.integers(0, 2**40),
        waiting=st.integers(0, 2**40),
        queued_tokens=st.integers(0, 2**40),
        slots=st.integers(0, 2**20),
        accepting=st.booleans(),
        serving=st.sampled_from(Serving),
    )
)
def test_a_reading_survives_its_figures(reading: Load) -> None:
    assert read_figures(reading.to_figures()) == reading
    assert read_figures({**reading.to_figures(), "humidity": 3}) == reading


def test_a_load_below_zero_is_our_own_fault() -> None:
    with pytest.raises(LocalProtocolError):
        Load(running=-1, waiting=0).to_figures()
