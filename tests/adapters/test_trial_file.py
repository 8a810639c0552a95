"""The book of trials: what was written is read, whatever happened to the file's end."""

from pathlib import Path

import pytest

from node.adapters.trial_file import TrialFile
from node.core.strategy import DEFAULT, Speculation, Strategy
from node.core.trial_outcome import Outcome, Spread
from node.core.trial_plan import Entry, Failure, Session
from node.errors import Unavailable

FAST = Strategy(max_num_seqs=4, speculation=Speculation(method="ngram", tokens=2), engine_extra=(("block-size", "32"),))
MADE = Outcome(requests=4, failures=0, wall_us=9, throughput=7, ttft=Spread(mean=1, p50=1, p95=2), energy_mj=3)
ENTRIES = (
    Entry(strategy=FAST, load="bursty", attempt=1, outcome=MADE, discarded="others used 31 % of the machine"),
    Entry(strategy=DEFAULT, load=None, attempt=0, failure=Failure(kind="out_of_memory", reason="no room")),
)


def test_what_was_written_is_read_and_a_torn_last_line_costs_that_line_alone(tmp_path: Path) -> None:
    file = tmp_path / "cache" / "trials.jsonl"
    book = TrialFile(file)
    assert book.read() is None
    book.begin({"run": "a"})
    book.write(ENTRIES)
    took = (Session(strategy=FAST, loads=("bursty",), attempt=1), 12.5)
    book.write_time(*took)
    book.write_marks(["x", "y"])
    book.write_time(*took)
    page = book.read()
    assert page is not None
    assert (page.header, page.entries, page.took, page.written) == (
        {"run": "a"}, ENTRIES, (took, took), {"x", "y"}
    )  # fmt: skip

    file.write_bytes(file.read_bytes()[:-5])
    torn = book.read()
    assert torn is not None
    assert (torn.entries, torn.took, torn.written) == (ENTRIES, (took,), {"x", "y"})
    book.write(ENTRIES[:1])
    again = book.read()
    assert again is not None
    assert again.entries == (*ENTRIES, ENTRIES[0])


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff\n", b"[]\n", b'{"version": 99, "header": {}}\n', b'{"version": 1}\n']
)
def test_a_file_that_is_no_book_counts_as_none_and_is_put_aside(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    file.write_bytes(content)
    book = TrialFile(file)
    assert book.read() is None
    book.begin({"run": "b"})
    assert book.read() is not None
    assert file.with_name("trials.jsonl.last").read_bytes() == content


def test_a_line_that_cannot_be_understood_costs_that_line_alone(tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    book = TrialFile(file)
    book.begin({"run": "a"})
    with file.open("a") as out:
        out.write('{"entry": {"strategy": {"warp": 9}}}\n{"session": {}}\nnoise\n{"entry": 7}\n{"written": 7}\n')
    book.write(ENTRIES)
    page = book.read()
    assert page is not None
    assert page.entries == ENTRIES


def test_a_place_that_cannot_be_written_is_said_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot write"):
        TrialFile(tmp_path / "file" / "trials.jsonl").begin({})
