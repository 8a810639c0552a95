import json
from pathlib import Path

import pytest

from node.adapters import profile_file
from tests.core.test_capabilities import VLLM_032
from tests.core.test_profile import PROFILE


def test_what_was_saved_comes_back_equal_and_private(tmp_path: Path) -> None:
    file = tmp_path / "cache" / profile_file.NAME
    profile_file.save(file, PROFILE)
    assert profile_file.load(file) == PROFILE
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_field_of_a_later_version_is_ignored(tmp_path: Path) -> None:
    file = tmp_path / profile_file.NAME
    profile_file.save(file, PROFILE)
    content = json.loads(file.read_bytes())
    content["hardware"]["cpu"]["smell"] = "warm dust"
    file.write_text(json.dumps(content))
    assert profile_file.load(file) == PROFILE


@pytest.mark.parametrize("damage", ["cut", "wrong type", "garbage", "another version", "too large", "a folder", "none"])
def test_a_damaged_file_is_as_good_as_none(damage: str, tmp_path: Path) -> None:
    file = tmp_path / profile_file.NAME
    profile_file.save(file, PROFILE)
    raw = file.read_bytes()
    content = {
        "cut": raw[: len(raw) // 2],
        "wrong type": raw.replace(b'"gemv"', b'"gemm v"'),
        "garbage": b"\xff" * 64,
        "another version": raw.replace(b'"version": 1', b'"version": 99'),
        "too large": raw + b" " * profile_file.FILE_BYTES,
    }.get(damage)
    file.unlink()
    if content is not None:
        assert content != raw
        file.write_bytes(content)
    elif damage == "a folder":
        file.mkdir()
    assert profile_file.load(file) is None


def test_a_folder_that_cannot_be_written_costs_the_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    profile_file.save(tmp_path / "cache" / profile_file.NAME, PROFILE)


ASKED = profile_file.Asked(python="/env/bin/python", vllm="0.32.0", torch="2.13.0+cpu", driver="")


def test_capabilities_come_back_with_whom_they_are_of(tmp_path: Path) -> None:
    file = tmp_path / "cache" / profile_file.CAPABILITIES_NAME
    profile_file.save_capabilities(file, ASKED, VLLM_032)
    assert profile_file.load_capabilities(file) == (ASKED, VLLM_032)


@pytest.mark.parametrize("change", [(b'"version": 1', b'"version": 9'), (b'"--max-num-seqs="', b'"max num seqs"')])
def test_capabilities_of_another_version_or_damaged_are_as_good_as_none(
    change: tuple[bytes, bytes], tmp_path: Path
) -> None:
    file = tmp_path / profile_file.CAPABILITIES_NAME
    profile_file.save_capabilities(file, ASKED, VLLM_032)
    raw = file.read_bytes()
    assert change[0] in raw
    file.write_bytes(raw.replace(*change))
    assert profile_file.load_capabilities(file) is None
