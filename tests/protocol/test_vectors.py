"""The committed vectors are what the code makes, and the code does with each what the vector says."""

import json
from typing import Any

import pytest

from protocol import inference_events, limits, records, wire
from protocol.errors import RemoteProtocolError
from protocol.framing import Framer
from protocol.ids import PUBLIC_SWARM, InvalidId, PeerId, SwarmId
from protocol.inference import Exchange, Role
from tests.protocol import samples
from tests.vectors.cases_ids import PARSERS
from tests.vectors.forms import from_json
from tests.vectors.make import FILES, HERE, text_of


def cases(file: str, group: str) -> list[Any]:
    return [
        pytest.param(case, id=f"{index} {case.get('name', '')}")
        for index, case in enumerate(json.loads((HERE / file).read_text())[group])
    ]


@pytest.mark.parametrize("file", FILES)
def test_the_committed_vectors_are_those_that_the_code_makes(file: str) -> None:
    assert (HERE / file).read_text() == text_of(file)


@pytest.mark.parametrize("case", cases("wire.json", "valid"))
def test_a_value_has_this_encoding_and_no_other(case: dict[str, Any]) -> None:
    value, raw = from_json(case["value"]), bytes.fromhex(case["hex"])
    assert wire.encode(value, limits.MESSAGE) == raw
    assert wire.decode(raw, limits.MESSAGE) == value


@pytest.mark.parametrize("case", cases("wire.json", "invalid"))
def test_an_encoding_is_refused_for_this_reason(case: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        wire.decode(bytes.fromhex(case["hex"]), limits.MESSAGE)
    assert caught.value.reason == case["reason"]


@pytest.mark.parametrize("case", cases("framing.json", "valid") + cases("framing.json", "invalid"))
def test_a_stream_holds_these_frames(case: dict[str, Any]) -> None:
    framer, frames, reason = Framer(), [], None
    framer.feed(bytes.fromhex(case["stream"]))
    try:
        while (payload := framer.next_frame()) is not None:
            frames.append(payload.hex())
        framer.end()
    except RemoteProtocolError as error:
        reason = error.reason.value
    assert (frames, reason) == (case["frames"], case.get("reason"))


@pytest.mark.parametrize("case", cases("ids.json", "peers"))
def test_a_key_has_this_peer_id(case: dict[str, Any]) -> None:
    peer = PeerId.from_public_key(bytes.fromhex(case["public_key"]))
    assert (str(peer), peer.to_bytes().hex()) == (case["text"], case["bytes"])


@pytest.mark.parametrize("case", cases("ids.json", "valid"))
def test_an_id_is_kept_as_it_is_spelled(case: dict[str, Any]) -> None:
    assert str(PARSERS[case["sort"]](case["text"])) == case["text"]


@pytest.mark.parametrize("case", cases("ids.json", "invalid"))
def test_a_spelling_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(InvalidId):
        PARSERS[case["sort"]](case["text"])


@pytest.mark.parametrize("case", cases("records.json", "valid"))
def test_a_record_opens_to_what_it_says(case: dict[str, Any]) -> None:
    sealed = bytes.fromhex(case["sealed"])
    record = records.verify_and_open(sealed, samples.NOTE, swarm=PUBLIC_SWARM, now_us=case["now_us"])
    assert str(record.name) == case["record"]
    assert str(record.digest) == case["digest"]
    assert record.sealed == sealed
    assert wire.decode(sealed, limits.RECORD) == from_json(case["seal"])


@pytest.mark.parametrize("case", cases("records.json", "invalid"))
def test_a_record_is_refused_for_this_reason(case: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        records.verify_and_open(
            bytes.fromhex(case["sealed"]), samples.NOTE, swarm=SwarmId(case["swarm"]), now_us=case["now_us"]
        )
    assert caught.value.reason == case["reason"]


@pytest.mark.parametrize("case", cases("inference.json", "valid"))
def test_a_message_reads_as_what_it_says(case: dict[str, Any]) -> None:
    event = inference_events.decode(bytes.fromhex(case["hex"]))
    assert event == samples.MESSAGES[case["name"]]
    assert inference_events.encode(event).hex() == case["hex"]
    assert wire.decode(bytes.fromhex(case["hex"]), limits.MESSAGE) == from_json(case["message"])


@pytest.mark.parametrize("case", cases("inference.json", "invalid"))
def test_a_message_is_refused_for_this_reason(case: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        inference_events.decode(bytes.fromhex(case["hex"]))
    assert caught.value.reason == case["reason"]


def test_headers_that_this_version_does_not_know_are_dropped() -> None:
    case = json.loads((HERE / "inference.json").read_text())["headers_dropped"]
    event = inference_events.decode(bytes.fromhex(case["hex"]))
    assert isinstance(event, inference_events.Ask)
    assert [[name.decode(), value.decode()] for name, value in event.headers] == case["kept"]


@pytest.mark.parametrize("case", cases("inference.json", "dialogues"))
def test_a_dialogue_leaves_both_ends_in_these_states(case: dict[str, Any]) -> None:
    ends = {role: Exchange(role) for role in Role}
    for step in case["steps"]:
        us = Role(step["by"])
        them = Role.SERVER if us is Role.ASKER else Role.ASKER
        if "sends" in step:
            payload = bytes.fromhex(step["sends"])
            assert ends[us].send(inference_events.decode(payload[4:])) == payload
            ends[them].feed(payload)
        else:
            taken = 0
            while ends[us].next_event() is not None:
                taken += 1
            assert taken == step["takes"]
        assert ends[us].state.value == step["state"]
