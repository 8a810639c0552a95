import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import pytest

from node.adapters.system import node_lock
from node.cli.consent import Intent, obtain, words
from node.places import places

LOCAL = Intent(engine="vLLM", bind="127.0.0.1:8470", beyond_loopback=False, keys=0, downloads=False)
OPEN = replace(LOCAL, bind="0.0.0.0:8470", beyond_loopback=True, keys=2)


def test_the_first_start_says_what_happens_and_keeps_the_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "data" / "consent.json"
    obtain(file, LOCAL, yes=True, terminal=False)
    said = capsys.readouterr().err
    assert "run vLLM" in said
    assert "programs on this machine alone" in said
    assert json.loads(file.read_text())["how"] == "--yes"
    obtain(file, LOCAL, yes=False, terminal=False)
    assert capsys.readouterr().err == ""


def test_a_no_starts_nothing_and_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click, "confirm", lambda *_args, **_more: False)
    with pytest.raises(click.Abort):
        obtain(tmp_path / "consent.json", LOCAL, yes=False, terminal=True)
    assert not (tmp_path / "consent.json").exists()


def test_without_a_terminal_it_goes_on_and_notes_that_nobody_was_asked(tmp_path: Path) -> None:
    obtain(tmp_path / "consent.json", LOCAL, yes=False, terminal=False)
    assert json.loads((tmp_path / "consent.json").read_text())["how"] == "nobody to ask"


def test_reaching_further_than_agreed_is_asked_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "consent.json"
    obtain(file, LOCAL, yes=True, terminal=False)
    capsys.readouterr()
    obtain(file, OPEN, yes=True, terminal=False)
    assert "any machine that reaches 0.0.0.0:8470" in capsys.readouterr().err
    obtain(file, LOCAL, yes=False, terminal=False)
    assert capsys.readouterr().err == ""


def test_taking_part_in_a_swarm_is_said_plainly_and_asked_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "consent.json"
    obtain(file, LOCAL, yes=True, terminal=False)
    capsys.readouterr()
    among = replace(LOCAL, swarm="public", serves=True, asks=True)
    obtain(file, among, yes=True, terminal=False)
    said = capsys.readouterr().err
    assert "whose owners can read them" in said
    assert "Other nodes' prompts are answered" in said
    assert "Nothing leaves" not in said
    obtain(file, replace(among, asks=False), yes=False, terminal=False)
    assert capsys.readouterr().err == ""


def test_that_traffic_is_told_of_is_said_and_asked_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "consent.json"
    among = replace(LOCAL, swarm="public", serves=True, asks=True)
    obtain(file, among, yes=True, terminal=False)
    assert "records.traffic" not in capsys.readouterr().err
    obtain(file, replace(among, tells=True), yes=True, terminal=False)
    assert "records.traffic" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "tells"),
    [
        ([], True),
        (["--no-engine"], False),
        (["--engine-url", "http://127.0.0.1:9"], False),
        (["--set", 'engine.command=["vllm", "serve"]'], False),
        (["--set", "records.traffic=false"], False),
        (["--set", "p2p.enabled=false"], False),
    ],
)
def test_records_of_traffic_are_announced_where_the_node_makes_them_and_nowhere_else(
    data_dir: Path, metainf: Callable[..., tuple[int, str, str]], arguments: list[str], tells: bool
) -> None:
    data_dir.mkdir()
    with node_lock(places({}, uid=0, data_dir=data_dir).lock_file):  # so that it goes no further
        code, _, said = metainf("up", "--yes", *arguments)
    assert code
    assert "already" in said
    assert ("records.traffic" in said) is tells


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 9, "accepted": true}', "\x00"])
def test_a_damaged_answer_is_no_answer(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "consent.json").write_text(content)
    obtain(tmp_path / "consent.json", LOCAL, yes=True, terminal=False)
    assert "first start" in capsys.readouterr().err


def test_downloads_are_announced() -> None:
    assert "may download" in words(replace(LOCAL, downloads=True), Path("/data"))
    assert "Nothing leaves this machine" in words(LOCAL, Path("/data"))
