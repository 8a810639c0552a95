"""What does the learner cost: seconds to start and to learn 25,000 records, to decide once, and memory?

    python -m tests.benchmarks.bench_learner_cost --table strategies_simulated.parquet [--rows 25000] [--authors 40]
        [--asks 200] [--goals latency] [--seed 0]

The real worker in its process, at its own low priority, asked as the daemon asks it. Records are contexts of the table,
drawn with replacement and told apart by their prompts' lengths, of so many authors, one of whom is the node. Times of
decisions are round trips of the daemon; on a machine that is busy otherwise they are those of that, which the
process's own CPU seconds beside them hardly are. Memory is resident, by the kernel's books.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import trio

from node.adapters.learner_child import ChildSetup, LearnerChild, open_learner
from node.cli import learning
from node.core.observation import Row
from node.learner.table import Table

CANDIDATES: Final = (18, 256)
LEARNING_DEADLINE: Final = 4 * 3600.0  # s: at the lowest priority beside other work it may take long
APART: Final = 0.05  # of a prompt's length, by which contexts that were drawn twice differ

Figures = dict[str, float]


def rows_of(table: Table, which: Sequence[int]) -> Iterator[Row]:
    """Yield rows as a lesson has them; the unknown is left out."""
    columns = {name: table.columns[name] for name in table.columns}
    for at in which:
        row = {name: column[at] for name, column in columns.items()}
        known = {name: value for name, value in row.items() if value is not None and value == value}
        yield {name: value if isinstance(value, str) else float(value) for name, value in known.items()}


def records(table: Table, rows: int, authors: int, rng: np.random.Generator) -> Iterator[Row]:
    """Yield so many rows: contexts drawn with replacement, each an author's own."""
    groups = table.context_groups()
    number = 0
    while rows > 0:
        chosen = groups[int(rng.integers(len(groups)))][:rows]
        longer = float(np.exp(APART * rng.standard_normal()))
        author = f"author {rng.integers(authors)}"
        for row in rows_of(table, chosen.tolist()):
            prompt = row.get("workload.prompt_tokens")
            moved = {"workload.prompt_tokens": prompt * longer} if isinstance(prompt, float) else {}
            yield {**row, **moved, "context": number, "record.author": author}
        number, rows = number + 1, rows - len(chosen)


def candidates(table: Table, count: int) -> Sequence[Row]:
    """Return so many strategies of one context: measured ones first, then with other budgets of tokens."""
    rows = list(rows_of(table, table.context_groups()[0].tolist()))
    more = [
        {**rows[at % len(rows)], "strategy.max_num_batched_tokens": float(256 + 16 * at)}
        for at in range(max(count - len(rows), 0))
    ]
    named = [{name: value for name, value in row.items() if not name.startswith("outcome.")} for row in rows + more]
    return named[:count]


class Process:
    """The worker's process as the kernel sees it: this process has no other child."""

    def __init__(self) -> None:
        lists = Path("/proc/self/task").glob("*/children")  # by thread, and any may have started it
        (child,) = {child for each in lists for child in each.read_text().split()}
        self._place = Path("/proc") / child

    def cpu_s(self) -> float:
        """Return seconds of user and system time."""
        user, system = self._place.joinpath("stat").read_text().rsplit(")", 1)[1].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def mib(self, what: str) -> float:
        """Return resident memory: `VmRSS` now, `VmHWM` at most. (ru_maxrss would count what its parent had.)"""
        lines = self._place.joinpath("status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))


class Measuring:
    """One worker from its start to its end."""

    def __init__(self, table: Table, options: argparse.Namespace) -> None:
        self._table, self._options = table, options
        self._ready, self._over = trio.Event(), trio.Event()
        self._last: dict[str, Any] = {}

    async def run(self, lesson: Path) -> Figures:
        """Return seconds and MiB by what they are of; the worker learns and decides by turns.

        Raises:
            RuntimeError: it failed to learn, with its reason.
        """
        found: Figures = {}
        begin = time.monotonic()
        async with open_learner(ChildSetup(hear=self._hear)) as child:
            with trio.fail_after(LEARNING_DEADLINE):
                await self._ready.wait()
                found["start, s"] = time.monotonic() - begin
                self._process = process = Process()
                found["start, CPU s"], found["start, MiB"] = process.cpu_s(), process.mib("VmRSS")
                found |= await self._decide(child, "by physics", self._options.asks)
                goals = self._options.goals.split(",")
                used = process.cpu_s()
                await child.ask("train", path=str(lesson), goals=goals, ranks={"author 0": "own"}, seed=0)
                await self._over.wait()
                if self._last.get("event") != "trained":
                    raise RuntimeError(str(self._last.get("reason", "the worker ended")))
                found["records"] = self._last["rows"]
                found["learn, s"], found["learn, CPU s"] = self._last["train_s"], process.cpu_s() - used
                found |= await self._decide(child, "learnt", self._options.asks)
                found["MiB then"], found["MiB at most"] = process.mib("VmRSS"), process.mib("VmHWM")
        return found

    async def _decide(self, child: LearnerChild, when: str, asks: int) -> Figures:
        found: Figures = {}
        for count in CANDIDATES:
            rows, spent, used = candidates(self._table, count), [], self._process.cpu_s()
            for _ in range(asks):
                begin = time.monotonic()
                await child.ask("choose", rows=rows, goal="latency", default=0)
                spent.append(1000 * (time.monotonic() - begin))
            found[f"one of {count} {when}, ms median"] = float(np.median(spent))
            found[f"one of {count} {when}, ms p95"] = float(np.quantile(spent, 0.95))
            found[f"one of {count} {when}, CPU ms"] = 1000 * (self._process.cpu_s() - used) / asks
        return found

    def _hear(self, message: Any) -> None:
        event = message.get("event")
        if event == "ready":
            self._ready.set()
        elif event in ("trained", "failed", "ended"):
            self._last = dict(message)
            self._over.set()


def run(table: Table, options: argparse.Namespace) -> Figures:
    """Measure once."""
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        lesson = Path(folder) / "records.jsonl"
        with lesson.open("w") as file:
            for row in records(table, options.rows, options.authors, rng):
                file.write(json.dumps(row) + "\n")
        return trio.run(Measuring(table, options).run, lesson)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=25_000)
    parser.add_argument("--authors", type=int, default=40)
    parser.add_argument("--asks", type=int, default=200)
    parser.add_argument("--goals", default="latency")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    for name, value in run(learning.read(options.table), options).items():
        print(f"{name:42} {value:10.2f}", flush=True)


if __name__ == "__main__":
    main()
