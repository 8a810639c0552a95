"""What metainf ships with, on the disk: the real file, and broken ones."""

import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from node.adapters.snapshot_file import SHIPPED, read_shipped
from node.core.record_checks import doubts
from node.core.snapshot import RECORDS, digest_of, write_snapshot
from protocol.performance import TRIAL
from tests.protocol.performance_samples import performance
from tests.protocol.samples import KEY

PAYS = 60  # records of which something is learnt
SECONDS = 2.0  # s for a thousand records: it is done once, at the start


def test_what_is_shipped_is_the_text_that_the_code_knows_and_enough_to_learn_from() -> None:
    with capture_logs() as logged:
        snapshot = read_shipped()
    assert logged == []
    assert snapshot is not None
    assert PAYS <= snapshot.summary.records <= RECORDS
    for signed in snapshot.records:
        assert signed.body.origin == TRIAL
        assert doubts(signed.body, now_us=signed.body.stamp.time) == ()
    assert snapshot.summary.dummy == 0
    assert snapshot.summary.platforms == ("cpu",)  # docs/decisions/warm-start.md says so; change both


def test_one_changed_byte_or_no_file_means_none_of_it_and_a_line_that_says_what_to_do(tmp_path: Path) -> None:
    raw = bytearray(SHIPPED.read_bytes())
    raw[len(raw) // 2] ^= 1
    changed = tmp_path / "snapshot.jsonl"
    changed.write_bytes(raw)
    for file, why in ((changed, "SHA-256"), (tmp_path / "nothing.jsonl", "No such file")):
        with capture_logs() as logged:
            assert read_shipped(file) is None
        (line,) = logged
        assert (line["event"], line["log_level"]) == ("snapshot.not_used", "warning")
        assert why in line["reason"]
        assert "install metainf again" in line["remedy"]
        assert line["file"] == str(file)


@pytest.mark.slow
def test_a_thousand_records_are_opened_in_a_moment(tmp_path: Path) -> None:
    raw = write_snapshot(performance(KEY, seq=seq).sealed for seq in range(1000))
    file = tmp_path / "snapshot.jsonl"
    file.write_bytes(raw)
    begun = time.process_time()
    snapshot = read_shipped(file, digest_of(raw))
    assert snapshot is not None
    assert len(snapshot.records) == 1000
    assert time.process_time() - begun < SECONDS
