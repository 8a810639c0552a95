from pathlib import Path

import pytest
import trio

from node.adapters import tuning_file
from node.core.strategy import Speculation, Strategy
from node.core.tuning_ledger import Entry, Foretold, Ledger, Trust, banned, noted
from tests.core.test_tuning_rules import BUSY

STRATEGY = Strategy(
    max_num_seqs=4, speculation=Speculation(method="ngram", tokens=5), engine_extra=(("scheduling-policy", "priority"),)
)
LEDGER = noted(
    banned(
        Ledger(
            key="k",
            present=STRATEGY,
            good=Strategy(),
            since=5.0,
            baseline=BUSY,
            trust=Trust(
                strategy=STRATEGY, before=Strategy(), since=5.0, foretold=Foretold(gain=0.2, low=0.1, high=0.3)
            ),
        ),
        STRATEGY,
        reason="it is slow",
        now=7.0,
    ),
    Entry(at=1.0, before="steady", event="question", after="deciding", strategy="default", reason="why not"),
)


def test_what_was_saved_comes_back_equal_and_private(tmp_path: Path) -> None:
    file = tmp_path / "data" / tuning_file.NAME

    async def both() -> Ledger | None:
        keeper = tuning_file.TuningFile(file)
        await keeper.save(LEDGER)
        return await keeper.load()

    assert trio.run(both) == LEDGER
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", ["cut", "not a strategy", "garbage", "another version", "too large"])
def test_a_damaged_file_is_put_aside_and_begun_anew(damage: str, tmp_path: Path) -> None:
    file = tmp_path / tuning_file.NAME
    tuning_file.save(file, LEDGER)
    raw = file.read_bytes()
    content = {
        "cut": raw[: len(raw) // 2],
        "not a strategy": raw.replace(b'"max_num_seqs":4', b'"max_num_seqs":-4'),
        "garbage": b"\xff" * 64,
        "another version": raw.replace(b'"version":1', b'"version":99'),
        "too large": raw + b" " * tuning_file.FILE_BYTES,
    }[damage]
    assert content != raw
    file.write_bytes(content)
    assert tuning_file.load(file) is None
    assert not file.exists()
    assert file.with_name(file.name + tuning_file.ASIDE).read_bytes() == content


def test_a_missing_file_is_no_ledger_and_a_disk_that_refuses_costs_the_file_and_nothing_else(tmp_path: Path) -> None:
    assert tuning_file.load(tmp_path / tuning_file.NAME) is None
    (tmp_path / "data").write_text("in the way")
    tuning_file.save(tmp_path / "data" / tuning_file.NAME, LEDGER)
