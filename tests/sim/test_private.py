"""Private swarms of whole nodes in virtual time: who is in, who is out, and how fast."""

from base64 import b64encode
from dataclasses import replace

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.core.membership import Membership
from node.private_hands import PrivateHands
from protocol.ids import PeerId
from protocol.membership import accept
from tests.fakes.network import Weather
from tests.protocol.membership_samples import ROLES, Founder, key_of, peer_of
from tests.protocol.samples import HOUR
from tests.sim.node import BEGINNING, SimNode
from tests.sim.swarm import SimSwarm, engine, sim_swarm, until
from tests.sim.test_swarm import WHOLE, ask, serving, until_served

OUT_WITHIN = 30.0  # s from a revocation's being published: what is promised


class Kept:
    """What a node has of its membership on disk."""

    def __init__(self) -> None:
        self.lists: list[bytes] = []

    async def keep(self, sealed: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.lists.append(sealed)


def id_of(name: str) -> PeerId:
    """The id of the simulated node of a name (`SimSwarm.start`)."""
    return peer_of(Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"\0")))


def member(
    team: Founder,
    name: str,
    *,
    roles: tuple[str, ...] = ROLES,
    kept: Kept | None = None,
    revocations: bytes | None = None,
    certificate: bytes | None = None,
    **stamp: object,
) -> PrivateHands:
    sealed = certificate or team.certificate(id_of(name), by=f"for {name}", roles=roles, **stamp).sealed
    membership = Membership(swarm=team.swarm, administrator=team.me, key=team.key, certificate=sealed)
    return PrivateHands(membership=membership, revocations=revocations, keep=(kept or Kept()).keep)


def a_team(name: str = "team") -> Founder:
    return Founder(name=name, admin=key_of(f"administrator of {name}"), now=BEGINNING)


async def publish(node: SimNode, sealed: bytes) -> None:
    body = b'{"revocations": "%s"}' % b64encode(sealed)
    status, answer = await node.call("POST", "/swarm/revocations", body, on="control")
    assert (status, answer) == (200, {"news": True})


async def meshed(swarm: SimSwarm, team: Founder, names: str, *, join: str = "a") -> None:
    for name in names:
        others = [join] if name != join else []
        await swarm.start(name, engine=engine(), join=others, private=member(team, name))
    for name in names:
        await swarm.until_known(name, set(names) - {name}, within=60.0)


async def test_members_find_each_other_and_answer_each_others_prompts(autojump_clock: object) -> None:
    team = a_team()
    async with sim_swarm() as swarm:
        a = await swarm.start("a", private=member(team, "a"))
        b = await swarm.start("b", engine=engine(), join=["a"], private=member(team, "b"))
        await until_served(a, {b.peer_id})
        answer = await ask(a)
        assert (answer.status, answer.body) == (200, WHOLE)
        _, status = await a.call("GET", "/status", on="control")
        assert status["swarm"] == str(team.swarm)
        assert status["private_swarm"]["roles"] == sorted(ROLES)
        assert status["private_swarm"]["trouble"] is None
        _, document = await a.call("GET", "/swarm", on="control")
        assert {each["peer_id"] for each in document["members"]} == {a.peer_id, b.peer_id}
        assert [each["this_node"] for each in document["members"] if each["peer_id"] == a.peer_id] == [True]
        assert team.key.hex() not in str(status) + str(document)


async def test_two_private_swarms_and_a_public_one_on_one_network_never_meet(autojump_clock: object) -> None:
    red, blue = a_team("red"), a_team("blue")
    async with sim_swarm() as swarm:
        await swarm.start("r", engine=engine(), private=member(red, "r"))
        await swarm.start("s", engine=engine(), join=["r"], private=member(red, "s"))
        await swarm.start("b", engine=engine(), join=["r", "s"], private=member(blue, "b"))
        await swarm.start("c", engine=engine(), join=["b", "r"], private=member(blue, "c"))
        await swarm.start("p", engine=engine(), join=["r", "b"])
        await swarm.start("q", engine=engine(), join=["p", "s", "c"])
        await trio.sleep(300.0)
        for name, others in {"r": "s", "s": "r", "b": "c", "c": "b", "p": "q", "q": "p"}.items():
            assert await swarm.known(name) == set(others), name
        _, status = await swarm.nodes["b"].call("GET", "/status", on="control")
        assert len(status["other_swarms"]["dialled"]) == 2
        told = [facts for event, facts in swarm.nodes["b"].events if event == "other_swarm"]
        assert len(told) == 2  # once for each address, however often it is dialled
        _, status = await swarm.nodes["r"].call("GET", "/status", on="control")
        assert status["other_swarms"]["strangers"] > 0


@pytest.mark.parametrize("roles", [("ask", "observe"), ("observe",)], ids=str)
async def test_who_may_not_serve_is_not_asked(autojump_clock: object, roles: tuple[str, ...]) -> None:
    team = a_team()
    async with sim_swarm() as swarm:
        a = await swarm.start("a", private=member(team, "a"))
        await swarm.start("b", engine=engine(), join=["a"], private=member(team, "b", roles=roles))
        await swarm.until_known("a", {"b"}, within=30.0)
        await trio.sleep(60.0)
        assert await serving(a) == set()
        assert (await ask(a)).status in (404, 503)


async def test_who_may_not_ask_asks_nobody_and_is_refused_where_it_tries(autojump_clock: object) -> None:
    team = a_team()
    async with sim_swarm() as swarm:
        a = await swarm.start("a", private=member(team, "a", roles=("observe",)))
        b = await swarm.start("b", engine=engine(), join=["a"], private=member(team, "b"))
        await until_served(a, {b.peer_id})
        assert (await ask(a)).status in (403, 404, 503)
        _, status = await b.call("GET", "/status", on="control")
        assert status["requests_of_peers"]["served"] == 0


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"certificate": b"garbage"}, id="garbage"),
        pytest.param({"certificate": a_team().certificate(id_of("somebody")).sealed}, id="anothers"),
        pytest.param({"certificate": a_team("other").certificate(id_of("b")).sealed}, id="other-swarm"),
        pytest.param({"expiry": BEGINNING + 1}, id="expired"),
        pytest.param(
            {
                "certificate": accept(
                    a_team("team").invitation("x", roles=("ask",)), key_of("x"), id_of("b"), ROLES
                ).sealed
            },
            id="more-than-invited",
        ),
    ],
)
async def test_who_has_the_key_and_no_certificate_is_not_let_in(
    autojump_clock: object, wrong: dict[str, bytes]
) -> None:
    team = a_team()
    async with sim_swarm() as swarm:
        a = await swarm.start("a", engine=engine(), private=member(team, "a"))
        c = await swarm.start("c", engine=engine(), join=["a"], private=member(team, "c"))
        await swarm.start("b", engine=engine(), join=["a", "c"], private=member(team, "b", **wrong))  # type: ignore[arg-type]
        await trio.sleep(120.0)
        assert await swarm.known("a") == {"c"}
        assert await swarm.known("c") == {"a"}
        assert await swarm.known("b") <= {"a", "c"}  # it hears adverts, and is told nothing
        b = swarm.nodes["b"]
        for node in (a, c):
            _, status = await node.call("GET", "/status", on="control")
            assert status["requests_of_peers"]["served"] == 0
        assert (await ask(b)).headers.get("x-metainf-node") in (None, b.peer_id)
        _, status = await b.call("GET", "/status", on="control")
        assert status["private_swarm"]["trouble"]


async def test_a_revoked_member_is_out_everywhere_within_thirty_seconds(autojump_clock: object) -> None:
    team = a_team()
    async with sim_swarm(Weather(latency=0.1, jitter=0.1)) as swarm:
        await meshed(swarm, team, "abcdefgh")
        await publish(swarm.nodes["a"], team.revocations(id_of("h")).sealed)

        async def out() -> bool:
            here = [await swarm.known(name) for name in "abcdefg"]
            links = [id_of("h") in swarm.network.find(swarm.network_id(name)).links for name in "abcdefg"]  # type: ignore[union-attr]
            return not any("h" in known for known in here) and not any(links)

        took = await until(out, within=OUT_WITHIN)
        assert took < 5.0
        await trio.sleep(300.0)  # and it stays out, whatever it tries
        assert await out()
        for name in "abcdefg":
            assert await swarm.known(name) == set("abcdefg") - {name}
        assert (await ask(swarm.nodes["h"])).headers["x-metainf-node"] == swarm.nodes["h"].peer_id


async def test_who_was_away_hears_of_a_revocation_when_it_comes_back(autojump_clock: object) -> None:
    team, kept = a_team(), Kept()
    async with sim_swarm() as swarm:
        await meshed(swarm, team, "abc")
        await swarm.stop("b")
        revoked = team.revocations(id_of("c")).sealed
        await publish(swarm.nodes["a"], revoked)
        await trio.sleep(10.0)
        await swarm.start("b", engine=engine(), join=["c", "a"], private=member(team, "b", kept=kept))

        async def out() -> bool:
            return await swarm.known("b") == {"a"}

        await until(out, within=OUT_WITHIN)
        assert kept.lists == [revoked]
        # And one that starts with what it kept needs nobody to tell it.
        await swarm.stop("a")
        await swarm.stop("b")
        b = await swarm.start("b", engine=engine(), join=["c"], private=member(team, "b", revocations=kept.lists[-1]))
        await trio.sleep(60.0)
        assert await swarm.known("b") == set()
        _, document = await b.call("GET", "/swarm", on="control")
        assert [each["id"] for each in document["revoked"]] == [str(id_of("c"))]


async def test_a_revoked_invitation_puts_out_all_who_came_by_it(autojump_clock: object) -> None:
    team = a_team()
    async with sim_swarm() as swarm:
        await meshed(swarm, team, "ab")
        for name in "xy":
            sealed = team.certificate(id_of(name), by="leaked").sealed
            await swarm.start(name, join=["a"], private=member(team, name, certificate=sealed))
        await swarm.until_known("a", {"b", "x", "y"}, within=60.0)
        await publish(swarm.nodes["b"], team.revocations(peer_of(key_of("leaked"))).sealed)
        for name, others in {"a": {"b"}, "b": {"a"}}.items():
            await swarm.until_known(name, others, within=OUT_WITHIN)


async def test_a_certificate_that_runs_out_ends_the_connection_by_itself(autojump_clock: object) -> None:
    team = a_team()
    async with sim_swarm() as swarm:
        await swarm.start("a", engine=engine(), private=member(team, "a"))
        soon = member(team, "b", expiry=BEGINNING + HOUR // 60)
        await swarm.start("b", engine=engine(), join=["a"], private=soon)
        await swarm.until_known("a", {"b"}, within=30.0)
        await swarm.until_known("a", set(), within=60.0)


async def test_a_list_of_another_administrator_is_refused_at_the_control_socket(autojump_clock: object) -> None:
    team = a_team()
    async with sim_swarm() as swarm:
        a = await swarm.start("a", private=member(team, "a"))
        public = await swarm.start("p")
        body = b'{"revocations": "%s"}' % b64encode(a_team("other").revocations(id_of("a")).sealed)
        assert (await a.call("POST", "/swarm/revocations", body, on="control"))[0] == 400
        for garbage in (b"", b"{}", b'{"revocations": 1}', b'{"revocations": "AAAA"}'):
            assert (await a.call("POST", "/swarm/revocations", garbage, on="control"))[0] == 400
        assert (await public.call("POST", "/swarm/revocations", body, on="control"))[0] == 409
        assert (await public.call("GET", "/swarm", on="control"))[0] == 409


def test_the_memberships_of_two_teams_differ_in_all_that_counts() -> None:
    one, other = member(a_team("red"), "a").membership, member(a_team("blue"), "a").membership
    assert one.key != other.key
    assert one.swarm != other.swarm
    assert replace(one, key=other.key) != one
