"""The golden vectors of private swarms: the code does with each what the vector says."""

import json
from typing import Any

import pytest

from protocol import membership, schema, token
from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId, SwarmId
from protocol.membership import SCRIPT, open_certificate, open_invitation, open_revocations
from protocol.token import Token
from tests.protocol.pages import PAGES
from tests.protocol.test_vectors import cases
from tests.vectors.forms import from_json
from tests.vectors.make import HERE

ALL = json.loads((HERE / "membership.json").read_text())
ADMINISTRATOR = PeerId.from_string(ALL["administrator"]["peer_id"])
SWARM = SwarmId(ALL["swarms"][0]["swarm"])


@pytest.mark.parametrize("case", cases("membership.json", "swarms"))
def test_a_swarm_is_called_this(case: dict[str, Any]) -> None:
    administrator = PeerId.from_string(case["administrator"])
    assert str(membership.swarm_of(case["name"], administrator)) == case["swarm"]
    assert membership.is_administrator(SwarmId(case["swarm"]), administrator)


@pytest.mark.parametrize("case", cases("membership.json", "invitations"))
def test_an_invitation_opens(case: dict[str, Any]) -> None:
    sealed = bytes.fromhex(case["sealed"])
    opened = open_invitation(sealed, swarm=SWARM, administrator=ADMINISTRATOR, now_us=ALL["now_us"])
    assert schema.write(opened.body) == from_json(case["body"])
    assert str(opened.digest) == case["digest"]


@pytest.mark.parametrize("case", cases("membership.json", "certificates"))
def test_a_certificate_makes_this_member(case: dict[str, Any]) -> None:
    sealed = bytes.fromhex(case["sealed"])
    member = open_certificate(sealed, swarm=SWARM, administrator=ADMINISTRATOR, now_us=ALL["now_us"])
    assert str(member.peer) == ALL["member"]
    assert sorted(member.roles) == case["roles"]
    assert (None if member.came_by is None else str(member.came_by)) == case["came_by"]
    assert member.until == case["until"]


@pytest.mark.parametrize("case", cases("membership.json", "not_certificates"))
def test_a_certificate_is_refused_for_this_reason(case: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        open_certificate(bytes.fromhex(case["sealed"]), swarm=SWARM, administrator=ADMINISTRATOR, now_us=case["now_us"])
    assert caught.value.reason == case["reason"]


@pytest.mark.parametrize("case", cases("membership.json", "revocations"))
def test_a_list_of_revocations_opens(case: dict[str, Any]) -> None:
    opened = open_revocations(bytes.fromhex(case["sealed"]), swarm=SWARM, administrator=ADMINISTRATOR)
    assert schema.write(opened.body) == from_json(case["body"])


@pytest.mark.parametrize("case", cases("membership.json", "messages"))
def test_a_message_is_written_so(case: dict[str, Any]) -> None:
    raw = bytes.fromhex(case["hex"])
    assert SCRIPT.vocabulary.encode(SCRIPT.vocabulary.decode(raw)) == raw


@pytest.mark.parametrize("case", cases("membership.json", "tokens"))
def test_a_token_is_spelt_so(case: dict[str, Any]) -> None:
    made = schema.read(Token, from_json(case["token"]))
    assert token.spell(made) == case["text"]
    assert token.parse(case["text"]) == made


def test_the_page_names_every_role_and_protocol() -> None:
    page = (PAGES / "membership.md").read_text()
    for word in (*membership.MemberRole, membership.PROTOCOL_ID, token.PREFIX, "Noise_XXpsk0_25519_ChaChaPoly_SHA256"):
        assert f"`{word}`" in page
