"""The book of trials: what was written is read, whatever happened to the file's end."""

import threading
from pathlib import Path
from typing import Any

import pytest
import trio

from node.adapters.trial_file import SIZE_LIMIT, TrialFile
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


async def test_what_was_written_is_read_and_a_torn_last_line_costs_that_line_alone(tmp_path: Path) -> None:
    file = tmp_path / "cache" / "trials.jsonl"
    book = TrialFile(file)
    assert await book.read() is None
    await book.begin({"run": "a"})
    await book.write(ENTRIES)
    took = (Session(strategy=FAST, loads=("bursty",), attempt=1), 12.5)
    await book.write_time(*took)
    await book.write_marks(["x", "y"])
    await book.write_time(*took)
    page = await book.read()
    assert page is not None
    assert (page.header, page.entries, page.took, page.written) == (
        {"run": "a"}, ENTRIES, (took, took), {"x", "y"}
    )  # fmt: skip

    file.write_bytes(file.read_bytes()[:-5])
    torn = await book.read()
    assert torn is not None
    assert (torn.entries, torn.took, torn.written) == (ENTRIES, (took,), {"x", "y"})
    await book.write(ENTRIES[:1])
    again = await book.read()
    assert again is not None
    assert again.entries == (*ENTRIES, ENTRIES[0])


async def test_the_disk_is_waited_for_in_a_thread_and_who_is_cancelled_leaves_no_hole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    opened = Path.open

    def seen(self: Path, *rest: Any, **more: Any) -> Any:
        threads.append(threading.current_thread())
        return opened(self, *rest, **more)

    monkeypatch.setattr(Path, "open", seen)
    book = TrialFile(tmp_path / "trials.jsonl")
    with trio.CancelScope() as scope:
        scope.cancel()
        await book.begin({"run": "a"})
        await book.write(ENTRIES)
        await book.write_marks(["x"])
    page = await book.read()
    assert page is not None
    assert (page.entries, page.written) == (ENTRIES, {"x"})
    assert threads
    assert threading.main_thread() not in threads


async def test_a_book_that_has_grown_too_large_is_put_aside_rather_than_read_in_part(tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    book = TrialFile(file)
    await book.begin({"run": "a"})
    with file.open("a") as out:
        out.write(" " * SIZE_LIMIT + "\n")
    assert await book.read() is None
    await book.begin({"run": "b"})
    assert await book.read() is not None


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff\n", b"[]\n", b'{"version": 99, "header": {}}\n', b'{"version": 1}\n']
)
async def test_a_file_that_is_no_book_counts_as_none_and_is_put_aside(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    file.write_bytes(content)
    book = TrialFile(file)
    assert await book.read() is None
    await book.begin({"run": "b"})
    assert await book.read() is not None
    assert file.with_name("trials.jsonl.last").read_bytes() == content


async def test_a_line_that_cannot_be_understood_costs_that_line_alone(tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    book = TrialFile(file)
    await book.begin({"run": "a"})
    with file.open("a") as out:
        out.write('{"entry": {"strategy": {"warp": 9}}}\n{"session": {}}\nnoise\n{"entry": 7}\n{"written": 7}\n')
    await book.write(ENTRIES)
    page = await book.read()
    assert page is not None
    assert page.entries == ENTRIES


async def test_a_place_that_cannot_be_written_is_said_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot write"):
        await TrialFile(tmp_path / "file" / "trials.jsonl").begin({})
