"""`metainf swarm` without a running node, and with one whose answers are canned."""

import io
import json
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from node.adapters import membership_file, qr
from node.cli.bundle import secrets_of
from node.cli.main import run
from node.core.membership import Members, Membership
from node.core.redaction import Redactor
from node.places import places
from protocol.ids import PeerId
from protocol.membership import open_certificate
from protocol.token import Token, parse, spell
from tests.cli.conftest import CannedNode

Metainf = Callable[..., tuple[int, str, str]]
ADDRESS = "/ip4/192.0.2.1/tcp/47470/p2p/12D3KooWAgBU7bCjmJ4yZAzGjQwPgDzPbyjSyYzP4vJTeKrXNbnj"


@pytest.fixture
def another(data_dir: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Metainf:
    """The command line of another machine."""
    del data_dir  # its environment counts here, too
    return lambda *arguments: at(tmp_path / "another", capsys, *arguments)


def at(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run([*arguments, "--data-dir", str(folder)])
    told = capsys.readouterr()
    return code, told.out, told.err


def made(metainf: Metainf, *more: str) -> dict[str, object]:
    code, out, err = metainf("swarm", "create", "team", "--json")
    assert code == 0, err
    code, out, err = metainf("swarm", "invite", "--address", ADDRESS, "--json", *more)
    assert code == 0, err
    return json.loads(out)


def test_founding_leaves_private_files_and_prints_no_secret(metainf: Metainf, data_dir: Path) -> None:
    code, out, err = metainf("swarm", "create", "team")
    assert code == 0
    assert "the private swarm team-" in out
    assert "keep a copy" in err
    where = places({}, uid=0, data_dir=data_dir)
    membership = membership_file.load(where.membership_file)
    assert membership is not None
    for file in (where.membership_file, where.administrator_file(membership.swarm), where.identity_file):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    code, shown, _ = metainf("config", "show")
    assert str(membership.swarm) in shown
    for text in (out, err, shown):
        assert membership.key.hex() not in text
        assert json.loads(where.membership_file.read_text())["key"] not in text
    assert metainf("swarm", "create", "other")[0] == 78  # a node is of one swarm


@pytest.mark.parametrize("name", ["Team", "my team", "team-", "n" * 47, "tëam"])
def test_a_name_that_will_not_do_is_told_so(metainf: Metainf, name: str) -> None:
    code, _, err = metainf("swarm", "create", name)
    assert code == 78
    assert "cannot name a swarm" in err


def test_a_token_is_drawn_where_it_fits(metainf: Metainf, monkeypatch: pytest.MonkeyPatch) -> None:
    made(metainf)
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = metainf("swarm", "invite", "--address", ADDRESS, "--qr")
    token, *lines = out.splitlines()
    assert code == 0
    assert lines == qr.drawn(token).splitlines()
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = metainf("swarm", "invite", "--address", ADDRESS, "--qr")
    assert (code, len(out.splitlines())) == (0, 1)
    assert "this terminal has 80: make it wider" in err


def test_a_stranger_joins_with_a_token_and_needs_nobody(metainf: Metainf, another: Metainf, tmp_path: Path) -> None:
    invited = made(metainf, "--role", "ask", "--expires", "2w")
    code, out, err = another("swarm", "join", str(invited["token"]), "--json")
    assert code == 0, err
    joined = json.loads(out)
    assert joined["swarm"] == invited["swarm"]
    assert joined["roles"] == ["ask"]
    assert joined["until"] == invited["until"]
    assert joined["addresses"] == [ADDRESS]
    where = places({}, uid=0, data_dir=tmp_path / "another")
    membership = membership_file.load(where.membership_file)
    assert membership is not None
    member = open_certificate(
        membership.certificate,
        swarm=membership.swarm,
        administrator=membership.administrator,
        now_us=(joined["until"] - 60) * 1_000_000,
    )
    assert str(member.peer) == joined["peer_id"]
    assert str(member.came_by) == invited["invitation"]
    code, out, _ = another("swarm", "members", "--json")
    assert [each["peer_id"] for each in json.loads(out)["members"]] == [joined["peer_id"]]
    assert another("swarm", "invite", "--address", ADDRESS)[0] == 69  # only its administrator's machine invites


def test_the_token_comes_by_standard_input_too(
    metainf: Metainf, another: Metainf, monkeypatch: pytest.MonkeyPatch
) -> None:
    invited = made(metainf)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"\n {invited['token']}\n"))
    code, out, err = another("swarm", "join", "-")
    assert code == 0, err
    assert str(invited["swarm"]) in out
    assert str(invited["token"]) not in out + err


def test_a_token_for_one_node_is_of_no_use_to_another(metainf: Metainf, another: Metainf) -> None:
    assert metainf("swarm", "create", "team")[0] == 0
    assert another("swarm", "create", "elsewhere")[0] == 0  # makes an identity
    me = json.loads(another("key", "show", "--json")[1])["peer_id"]
    assert another("swarm", "leave", "--yes")[0] == 0
    other = ADDRESS.rpartition("/")[2]
    for peer, code in ((other, 78), (me, 0)):
        token = metainf("swarm", "invite", "--peer", peer, "--address", ADDRESS)[1].strip()
        assert parse(token).secret is None
        assert another("swarm", "join", token)[0] == code


@pytest.mark.parametrize(
    "change",
    [lambda text: text[:-9], lambda text: text[:50] + "A" + text[51:], lambda _: "x"],
    ids=["cut", "changed", "word"],
)
def test_half_a_token_says_to_copy_all_of_it(metainf: Metainf, another: Metainf, change: Callable[[str], str]) -> None:
    token = str(made(metainf)["token"])
    code, _, err = another("swarm", "join", change(token))
    assert code == 78
    assert "copy all of it" in err


def test_an_invitation_without_an_address_says_what_to_do(metainf: Metainf) -> None:
    assert metainf("swarm", "create", "team")[0] == 0
    code, _, err = metainf("swarm", "invite")
    assert code == 69
    assert "--address" in err
    assert metainf("swarm", "invite", "--address", "nonsense")[0] == 78
    assert metainf("swarm", "invite", "--expires", "500d", "--address", ADDRESS)[0] == 2
    assert metainf("swarm", "invite", "--role", "king", "--address", ADDRESS)[0] == 2


def test_outside_a_swarm_each_verb_says_how_to_get_into_one(metainf: Metainf) -> None:
    for verb in (["invite"], ["members"], ["leave"], ["rotate"], ["revoke", ADDRESS.rpartition("/")[2]]):
        code, _, err = metainf("swarm", *verb)
        assert code == 69, verb
        assert "metainf swarm" in err


def test_a_revocation_goes_to_the_running_node_with_the_invitation(metainf: Metainf, canned_node: CannedNode) -> None:
    invited = made(metainf)
    alice, bob = ADDRESS.rpartition("/")[2], str(invited["invitation"])
    document = {
        "swarm": invited["swarm"],
        "members": [{"peer_id": alice, "invitation": bob, "this_node": False}],
        "revocations": None,
    }
    canned_node.answer("GET", "/swarm", document)
    canned_node.answer("POST", "/swarm/revocations", {"news": True})
    code, out, err = metainf("swarm", "revoke", alice, "--json")
    assert code == 0, err
    assert json.loads(out) == {"revoked": [alice, bob], "published": True}
    assert len(canned_node.bodies) == 1


def test_others_who_came_by_the_same_invitation_are_not_put_out_by_accident(
    metainf: Metainf, canned_node: CannedNode
) -> None:
    invited = made(metainf)
    alice, by = ADDRESS.rpartition("/")[2], str(invited["invitation"])
    swarm = str(parse(str(invited["token"])).administrator)
    members = [{"peer_id": peer, "invitation": by, "this_node": False} for peer in (alice, swarm)]
    canned_node.answer("GET", "/swarm", {"swarm": invited["swarm"], "members": members, "revocations": None})
    canned_node.answer("POST", "/swarm/revocations", {"news": True})
    code, _, err = metainf("swarm", "revoke", alice)
    assert code == 78
    assert "--with-others" in err
    assert canned_node.bodies == []
    assert json.loads(metainf("swarm", "revoke", alice, "--keep-invitation", "--json")[1])["revoked"] == [alice]
    assert json.loads(metainf("swarm", "revoke", alice, "--with-others", "--json")[1])["revoked"] == [alice, by]


def test_revocations_add_up_in_the_file_and_the_own_node_stays(metainf: Metainf, data_dir: Path) -> None:
    made(metainf)
    first, second = ADDRESS.rpartition("/")[2], "12D3KooWHdiAxVd8uMQR1hGWXccidmfCwLqcMpGwR6QcTP6QRMuD"
    for peer in (first, second):
        code, _, err = metainf("swarm", "revoke", peer)
        assert code == 0, err
    where = places({}, uid=0, data_dir=data_dir)
    membership = membership_file.load(where.membership_file)
    assert membership is not None
    team = Members(membership, revocations=membership_file.load_revocations(where.revocations_file(membership.swarm)))
    assert all(team.revoked(PeerId.from_string(peer)) for peer in (first, second))
    assert metainf("swarm", "revoke", "nobody")[0] == 78


def test_a_rotated_key_reaches_members_by_a_token_and_nobody_else(
    metainf: Metainf, another: Metainf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    invited = made(metainf)
    assert another("swarm", "join", str(invited["token"]))[0] == 0
    code, out, err = metainf("swarm", "rotate", "--address", ADDRESS)
    assert code == 0, err
    token = parse(out)
    assert token.key != parse(str(invited["token"])).key
    assert token.secret is token.invitation is None
    assert another("swarm", "join", out.strip())[0] == 0
    membership = membership_file.load(places({}, uid=0, data_dir=tmp_path / "another").membership_file)
    assert membership is not None
    assert membership.key == token.key
    code, _, err = at(tmp_path / "third", capsys, "swarm", "join", out.strip())
    assert code == 78
    assert "this node is none" in err


def test_leaving_forgets_the_key_and_keeps_the_administrators(metainf: Metainf, data_dir: Path) -> None:
    made(metainf)
    where = places({}, uid=0, data_dir=data_dir)
    code, out, err = metainf("swarm", "leave", "--yes")
    assert code == 0
    assert "left team-" in out
    assert "administrator's key stays" in err
    assert not where.membership_file.exists()
    assert "public" in metainf("config", "show")[1]


def test_a_membership_that_others_can_read_or_that_is_damaged_starts_nothing(metainf: Metainf, data_dir: Path) -> None:
    made(metainf)
    file = places({}, uid=0, data_dir=data_dir).membership_file
    file.chmod(0o644)
    code, _, err = metainf("config", "show")
    assert code == 78
    assert "chmod 600" in err
    file.chmod(0o600)
    file.write_text("{}")
    code, _, err = metainf("swarm", "members")
    assert code == 78
    assert "holds no membership" in err


def test_a_setting_that_names_another_swarm_is_told_of(metainf: Metainf, data_dir: Path) -> None:
    made(metainf)
    (data_dir / "config.toml").write_text('version = 1\n[p2p]\nswarm = "public"\n')
    code, _, err = metainf("config", "validate")
    assert code == 78
    assert "metainf swarm leave" in err


def test_doctor_dials_a_private_swarms_nodes_with_its_key(
    metainf: Metainf, another: Metainf, monkeypatch: pytest.MonkeyPatch
) -> None:
    invited = made(metainf)
    assert another("swarm", "join", str(invited["token"]))[0] == 0
    dialled: list[tuple[list[str], object]] = []

    def look_at(texts: Sequence[str], membership: Membership | None = None) -> list[dict[str, object]]:
        dialled.append((list(texts), None if membership is None else membership.swarm))
        return []

    monkeypatch.setattr("node.cli.doctor_network.look_at", look_at)
    another("doctor", "--json")
    assert [(texts, str(swarm)) for texts, swarm in dialled] == [([ADDRESS], invited["swarm"])]


def test_a_report_for_others_has_no_key_of_the_swarm(metainf: Metainf, data_dir: Path, tmp_path: Path) -> None:
    made(metainf)
    where = places({}, uid=0, data_dir=data_dir)
    membership = membership_file.load(where.membership_file)
    assert membership is not None
    secrets = secrets_of(where, None)
    kept = json.loads(where.membership_file.read_text())
    assert {kept["key"], kept["certificate"]} <= secrets
    pem = where.administrator_file(membership.swarm).read_text().splitlines()[1]
    assert pem in secrets
    shown = Redactor(secrets).text(f"it joined with {spell_of(membership)} and {kept['key']}")
    assert kept["key"] not in shown
    assert "metainf-join-" not in shown.replace("metainf-join-<hidden>", "")


def spell_of(membership: Membership) -> str:
    return spell(
        Token(
            version=1,
            swarm=membership.swarm,
            administrator=membership.administrator,
            key=membership.key,
            addresses=(ADDRESS,),
        )
    )
