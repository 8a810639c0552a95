import hashlib
import json
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from node.adapters.keystore import load, load_or_create
from node.cli.main import run
from node.cli.options import SOURCE_VERSION

Metainf = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parent.parent.parent


def test_no_arguments_print_help_and_start_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    assert "metainf up" in capsys.readouterr().out


def test_an_unknown_verb_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["fly"]) == 2
    assert "fly" in capsys.readouterr().err


def test_the_version_is_that_of_the_project(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version", "--json"]) == 0
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert json.loads(capsys.readouterr().out) == {"version": project}
    assert project == SOURCE_VERSION


def test_the_module_runs_as_a_command() -> None:
    command = [sys.executable, "-m", "node", "version"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert result.stdout.startswith("metainf ")


def test_a_reader_that_leaves_early_causes_no_traceback() -> None:
    command = f"{sys.executable} -m node config show | true"
    result = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert result.stderr == ""


def test_without_an_identity_key_show_says_how_to_get_one(metainf: Metainf) -> None:
    code, _, err = metainf("key", "show")
    assert code == 69
    assert "metainf up" in err


def test_key_show_prints_the_peer_id_and_nothing_secret(metainf: Metainf, data_dir: Path) -> None:
    identity, _ = load_or_create(data_dir / "identity.pem")
    code, out, _ = metainf("key", "show", "--json")
    shown = json.loads(out)
    assert code == 0
    assert shown["peer_id"].startswith("12D3KooW")
    assert shown["public_key"] == identity.public_key.hex()
    assert identity.secret_seed().hex() not in out


def test_a_backup_holds_the_key_privately_and_replaces_nothing(
    metainf: Metainf, data_dir: Path, tmp_path: Path
) -> None:
    identity, _ = load_or_create(data_dir / "identity.pem")
    copy = tmp_path / "copy.pem"
    assert metainf("key", "backup", str(copy))[0] == 0
    assert load(copy).public_key == identity.public_key
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    other = tmp_path / "other.pem"
    assert json.loads(metainf("key", "backup", str(other), "--json")[1])["file"] == str(other)
    code, _, err = metainf("key", "backup", str(copy))
    assert code == 69
    assert "left as it is" in err


def test_an_api_key_is_shown_once_and_kept_as_a_hash(metainf: Metainf, data_dir: Path) -> None:
    code, out, _ = metainf("api-key", "add", "phone", "--concurrent", "2")
    secret = out.strip()
    kept = (data_dir / "api-keys.json").read_text()
    assert code == 0
    assert secret not in kept
    assert hashlib.sha256(secret.encode()).hexdigest() in kept
    assert "concurrent 2" in metainf("api-key", "list")[1]


def test_a_name_is_given_to_one_api_key_alone(metainf: Metainf, data_dir: Path) -> None:
    metainf("api-key", "add", "phone")
    before = (data_dir / "api-keys.json").read_bytes()
    assert metainf("api-key", "add", "phone")[0] == 1
    assert (data_dir / "api-keys.json").read_bytes() == before


def test_a_revoked_api_key_is_gone(metainf: Metainf) -> None:
    metainf("api-key", "add", "phone")
    metainf("api-key", "add", "laptop")
    assert json.loads(metainf("api-key", "revoke", "phone", "--json")[1]) == {"revoked": "phone"}
    assert [key["name"] for key in json.loads(metainf("api-key", "list", "--json")[1])] == ["laptop"]
    assert metainf("api-key", "revoke", "phone")[0] == 1


def test_config_show_names_each_value_s_source(
    metainf: Metainf, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir.mkdir()
    (data_dir / "config.toml").write_text('version = 1\n[node]\nname = "attic"\n')
    monkeypatch.setenv("METAINF_LOG_LEVEL", "debug")
    settings = json.loads(metainf("config", "show", "--json")[1])["settings"]
    assert settings["node.name"] == {"value": "attic", "source": str(data_dir / "config.toml")}
    assert settings["log.level"] == {"value": "debug", "source": "METAINF_LOG_LEVEL"}
    assert "# METAINF_LOG_LEVEL" in metainf("config", "show")[1]


def test_a_wrong_configuration_is_exit_code_78_with_the_right_key(metainf: Metainf, data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "config.toml").write_text("version = 1\n[api]\nbnd = 'x'\n")
    code, _, err = metainf("config", "validate")
    assert code == 78
    assert "api.bind" in err
    assert metainf("up")[0] == 78


def test_a_named_configuration_that_is_missing_is_an_error(metainf: Metainf, tmp_path: Path) -> None:
    assert metainf("config", "validate", "--config", str(tmp_path / "none.toml"))[0] == 78


def test_doctor_names_planted_causes(metainf: Metainf, data_dir: Path) -> None:
    load_or_create(data_dir / "identity.pem")
    (data_dir / "identity.pem").chmod(0o644)
    (data_dir / "config.toml").write_text(
        'version = 1\n[api]\nbind = "192.0.2.1:8470"\n[engine]\nmodel = "/no/such/model"\n'
    )
    code, out, _ = metainf("doctor", "--json")
    findings = {finding["subject"]: finding for finding in json.loads(out)["findings"]}
    assert code == 1
    assert findings["identity"]["verdict"] == "failure"
    assert "chmod 600" in findings["identity"]["remedy"]
    assert findings["engine"]["verdict"] == "failure"
    assert "/no/such/model" in findings["engine"]["finding"]
    assert findings["port"]["verdict"] == "failure"


def test_doctor_names_a_missing_engine(metainf: Metainf, data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "config.toml").write_text('version = 1\n[engine]\npython = "/usr/bin/false"\n')
    findings = {finding["subject"]: finding for finding in json.loads(metainf("doctor", "--json")[1])["findings"]}
    assert "not installed" in findings["engine"]["finding"]


def test_doctor_for_a_person_says_what_to_do(metainf: Metainf, data_dir: Path) -> None:
    data_dir.mkdir()
    (data_dir / "config.toml").write_text("version = 1\n[api]\nbnd = 'x'\n")
    out = metainf("doctor")[1]
    assert "FAIL" in out
    assert "do: did you mean `api.bind`?" in out
    assert "1 failures, " in out.splitlines()[-1]
