"""The golden vectors of what nodes say to each other about themselves: the code does with each what the vector says."""

import json
from typing import Any

import pytest

from protocol import dht, gossip, hello, history, limits, load, reach, records, schema, wire
from protocol.addresses import parse_address, parse_circuit
from protocol.advert import ADVERT, Advert
from protocol.dialogue import Role
from protocol.errors import Reason, RemoteProtocolError
from protocol.gossip import Verdict
from protocol.hello import Greeting, Hello, Part, PartCode, Settled
from protocol.ids import PUBLIC_SWARM, Epoch, RecordName, SwarmId
from tests.protocol import history_samples, samples, swarm_samples
from tests.protocol.pages import PAGES, filled
from tests.protocol.test_vectors import cases
from tests.vectors.cases_greeting import no_room
from tests.vectors.forms import from_json
from tests.vectors.make import HERE

SPOKEN: dict[str, tuple[Any, Any]] = {
    "hello.json": (hello.SCRIPT, swarm_samples.HELLOS),
    "load.json": (load.SCRIPT, swarm_samples.LOADS),
    "reach.json": (reach.SCRIPT, swarm_samples.REACHES),
    "history.json": (history.SCRIPT, history_samples.MESSAGES),
}


def tagged(group: str) -> list[Any]:
    return [pytest.param(file, *case.values, id=f"{file} {case.id}") for file in SPOKEN for case in cases(file, group)]


@pytest.mark.parametrize(("file", "case"), tagged("valid"))
def test_a_message_reads_as_what_it_says(file: str, case: dict[str, Any]) -> None:
    script, messages = SPOKEN[file]
    message = script.vocabulary.decode(bytes.fromhex(case["hex"]))
    assert message == messages[case["name"]]
    assert script.vocabulary.encode(message).hex() == case["hex"]
    assert wire.decode(bytes.fromhex(case["hex"]), limits.MESSAGE) == from_json(case["message"])


@pytest.mark.parametrize(("file", "case"), tagged("invalid"))
def test_a_message_is_refused_for_this_reason(file: str, case: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        SPOKEN[file][0].vocabulary.decode(bytes.fromhex(case["hex"]))
    assert caught.value.reason == case["reason"]


@pytest.mark.parametrize("case", cases("hello.json", "settlements"))
def test_two_hellos_come_to_this(case: dict[str, Any]) -> None:
    ours, theirs = (schema.read(Hello, from_json(case[side])) for side in ("ours", "theirs"))
    verdict = hello.settle(ours, theirs)
    if isinstance(verdict, Part):
        assert verdict.code == case["part"]
    else:
        assert (verdict.versions, sorted(verdict.features)) == (case["versions"], case["features"])
        assert verdict.skew_us == case["skew_us"]


@pytest.mark.parametrize("case", cases("hello.json", "dialogues"))
def test_a_greeting_goes_like_this(case: dict[str, Any]) -> None:
    first, second = bytes.fromhex(case["opener_sends"]), bytes.fromhex(case["answerer_sends"])
    ours = hello.SCRIPT.vocabulary.decode(first)
    assert isinstance(ours, Hello)
    judge = no_room if case["opener"] == "parted: full" else hello.welcome_all
    opener = Greeting(Role.OPENER, ours, swarm_samples.OTHER, judge=judge)
    assert opener.begin(ours.time) == first
    third = opener.take(second, ours.time)
    assert (third.hex() if third else None) == case["opener_adds"]
    outcome = opener.outcome
    assert outcome is not None
    assert ("met" if isinstance(outcome, Settled) else f"parted: {outcome.code}") == case["opener"]


@pytest.mark.parametrize("case", cases("load.json", "figures"))
def test_figures_mean_this(case: dict[str, Any]) -> None:
    if "reason" in case:
        with pytest.raises(RemoteProtocolError) as caught:
            load.read_figures(case["figures"])
        assert caught.value.reason == case["reason"]
        return
    reading = load.read_figures(case["figures"])
    assert (reading.to_figures(), reading.open) == (case["reading"], case["open"])


def test_holdings_have_these_digests() -> None:
    known = vectors("history.json")["digests"]
    digests = []
    for index in range(limits.HISTORY_BUCKETS):
        inside = [case for case in known["authors"] if case["bucket"] == index]
        authors = []
        for case in inside:
            held = [schema.read(history.Held, from_json(one)) for one in case["held"]]
            assert history.author_digest(held).hex() == case["digest"]
            assert history.bucket_of(held[0].author) == index
            authors.append((held[0].author, bytes.fromhex(case["digest"])))
        digests.append(history.bucket_digest(authors))
        if inside:
            assert digests[-1].hex() == known["buckets"][str(index)]
    assert digests[0].hex() == known["empty_bucket"]
    assert history.root(b"".join(digests)).hex() == known["root"]


@pytest.mark.parametrize("case", cases("history.json", "exchanges"))
def test_an_answer_to_its_question_is_taken_or_refused_for_this_reason(case: dict[str, Any]) -> None:
    asked = history.SCRIPT.vocabulary.decode(bytes.fromhex(case["question"]))
    said = history.SCRIPT.vocabulary.decode(bytes.fromhex(case["answer"]))
    if "reason" in case:
        with pytest.raises(RemoteProtocolError) as caught:
            history_samples.hold(asked, said)
        assert caught.value.reason == case["reason"]
        return
    assert [schema.write(want) for want in history_samples.hold(asked, said)] == from_json(case["rest"])


@pytest.mark.parametrize("case", cases("advert.json", "valid"))
def test_an_advert_opens_to_what_it_says(case: dict[str, Any]) -> None:
    sealed = bytes.fromhex(case["sealed"])
    advert = gossip.open_advert(sealed, swarm=PUBLIC_SWARM, now_us=samples.NOW)
    assert str(advert.digest) == case["digest"]
    assert schema.write(advert.body) == from_json(case["body"])
    assert records.sign(ADVERT, schema.read(Advert, from_json(case["body"])), samples.KEY).digest == advert.digest


@pytest.mark.parametrize("case", cases("advert.json", "invalid"))
def test_an_advert_is_refused_for_this_reason(case: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        gossip.open_advert(bytes.fromhex(case["sealed"]), swarm=PUBLIC_SWARM, now_us=samples.NOW)
    assert caught.value.reason == case["reason"]


@pytest.mark.parametrize("case", cases("advert.json", "addresses"))
def test_an_address_is_one_and_reaches_this_far(case: dict[str, Any]) -> None:
    address = parse_address(case["text"])
    assert (None if address is None else address.reach.name.lower()) == case["reach"]
    if address is not None:
        assert str(address) == case["spelled"]
        assert parse_address(str(address)) == address


@pytest.mark.parametrize("case", cases("advert.json", "circuits"))
def test_a_way_through_a_relay_is_one_and_names_it(case: dict[str, Any]) -> None:
    address = parse_circuit(case["text"])
    assert (None if address is None else str(address.relay)) == case["relay"]
    assert parse_address(case["text"]) is None or "/p2p-circuit" not in case["text"]
    if address is not None:
        assert str(address) == case["text"]
        assert parse_address(str(address.direct())) == address.direct()


def test_of_an_adverts_ways_those_count_that_lead_to_its_author() -> None:
    ways = swarm_samples.BEHIND.relayed()
    assert [str(way) for way in ways] == [f"{swarm_samples.RELAY_AT}/p2p-circuit/p2p/{samples.AUTHOR}"]


def vectors(file: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((HERE / file).read_text())
    return found


def test_topics_and_message_ids_are_spelled_like_this() -> None:
    known = vectors("gossip.json")
    for text in known["topics"]:
        assert str(gossip.parse_topic(text)) == text
    assert [gossip.parse_topic(text) for text in known["strange_topics"]] == [None] * len(known["strange_topics"])
    for case in known["ids"]:
        assert gossip.message_id(case["topic"], bytes.fromhex(case["data"])).hex() == case["id"]
    batch = known["batch"]
    assert [one.hex() for one in gossip.unpack_records(bytes.fromhex(batch["hex"]))] == batch["records"]


@pytest.mark.parametrize("case", cases("gossip.json", "invalid"))
def test_a_batch_is_refused_for_this_reason(case: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        gossip.unpack_records(bytes.fromhex(case["hex"]))
    assert caught.value.reason == case["reason"]


@pytest.mark.parametrize("case", vectors("gossip.json")["batch_verdicts"])
def test_what_becomes_of_a_batch_follows_from_what_is_new_in_it(case: dict[str, Any]) -> None:
    assert gossip.verdict_of_batch(map(Verdict, case["new"])).value == case["batch"]


def test_only_faults_that_a_clock_or_a_version_explains_are_nobodys() -> None:
    verdicts = vectors("gossip.json")["verdicts"]
    assert {reason.value: gossip.verdict_of(reason).value for reason in Reason} == verdicts
    ignored = {reason for reason, verdict in verdicts.items() if verdict == Verdict.IGNORE.value}
    assert ignored == {"expired", "from_the_future", "wrong_version"}


@pytest.mark.parametrize("case", cases("dht.json", "valid"))
def test_a_value_belongs_under_its_key(case: dict[str, Any]) -> None:
    value = bytes.fromhex(case["value"])
    signed = dht.validate(case["key"], value, swarm=PUBLIC_SWARM, now_us=samples.NOW)
    assert signed.sealed == value
    assert str(dht.parse_key(case["key"])) == case["key"]


@pytest.mark.parametrize("case", cases("dht.json", "invalid"))
def test_a_value_does_not_belong_there_for_this_reason(case: dict[str, Any]) -> None:
    value = bytes.fromhex(case["value"])
    with pytest.raises(RemoteProtocolError) as caught:
        dht.validate(case["key"], value, swarm=PUBLIC_SWARM, now_us=samples.NOW)
    assert caught.value.reason == case["reason"]
    with pytest.raises(RemoteProtocolError):
        dht.select(case["key"], [value], swarm=PUBLIC_SWARM, now_us=samples.NOW)


@pytest.mark.parametrize("case", cases("dht.json", "selections"))
def test_this_value_counts(case: dict[str, Any]) -> None:
    values = [bytes.fromhex(value) for value in case["values"]]
    assert dht.select(case["key"], values, swarm=PUBLIC_SWARM, now_us=samples.NOW) == case["selected"]


def test_the_longest_key_fits() -> None:
    swarm = SwarmId("s" * limits.SWARM_ID_CHARS)
    name = RecordName(author=samples.AUTHOR, epoch=Epoch(limits.TIME_MAX_US), seq=limits.SEQ_MAX)
    key = str(dht.batch_key(swarm, name))
    assert str(dht.parse_key(key)) == key
    assert f"the longest has {len(key)} |" in (PAGES / "dht.md").read_text()


@pytest.mark.parametrize("page", ["hello.md", "history.md", "load.md"])
def test_the_page_has_the_table_that_the_code_has(page: str) -> None:
    text = (PAGES / page).read_text()
    assert filled(text, page) == text


def test_each_reason_to_part_is_explained() -> None:
    page = (PAGES / "hello.md").read_text()
    for code in PartCode:
        assert f"| `{code.value}` |" in page
