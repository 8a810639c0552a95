"""The learner's process: reads requests and records, trains in the background at low priority, answers at once.

The one module of the learner that knows files, threads and the clock; knows no daemon. Its daemon speaks JSON Lines on
stdin and hears them on stdout; stderr is for whoever debugs. One thread learns while the other answers from what is
known so far: from nothing, physics. The end of stdin ends the process, whatever it is doing.

    {"id": 1, "do": "train", "path": FILE.jsonl, "goals": ["latency"], "ranks": {AUTHOR: "own"}, "engine": "vllm",
     "seed": 0, "lesson": 1}
    {"id": 2, "do": "choose", "rows": [ROW, ...], "goal": "latency", "default": 0, "promises": {...}, "lossy": false}
    {"id": 3, "do": "curves", "cells": [ROW, ...]}          {"id": 4, "do": "state"}
    -> {"id": 1, "ok": {...}} or {"id": 1, "error": "words"}; unasked: {"event": "ready" | "trained" | "failed", ...}

`train` is answered when it begins; `trained` or `failed` says how it ended, with its `lesson`. A second one while one
runs replaces what waits.

Each lesson is learnt from the beginning. Growing the trees on would spare little and cost what it is about: on 10,000
rows of the simulated table, after nine growths by a tenth each, trees grown anew (0.41 s) missed unseen hardware
families by 13 % and unseen contexts by 8.8 % (medians; mean of three seeds and families); grown on with all rows (0.26
s) by 13 % and 9.6 %, with the new rows (0.04 s) by 16 % and 12 %; leaves refitted to the new rows (0.02 s) by 14 % and
10 %. And the fits that are kept are one in a dozen: the others, of which intervals and weights come, must not have seen
what they are asked about.
"""

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import IO, Any, Final

NICENESS: Final = 19
LINE_BYTES: Final = 4 << 20  # of a request or an answer: 256 cells, or 4096 candidates, fit
RECORDS: Final = 200_000  # read from a file, from its beginning: who writes it puts first what counts
RECORD_BYTES: Final = 64 * 1024
GOALS: Final = 8
NETWORK_ROWS: Final = 25_000  # beyond it networks are not trained: a stack fits each head a dozen times
PAUSE_MOST: Final = 600.0  # s that a pause lasts at most: who wants it longer says so again, and may die instead
PREDICTIONS: Final = frozenset({"choose", "curves"})
UNAVAILABLE, BUG = 69, 70  # exit codes, as sysexits has them
WORDS_CHARS: Final = 300  # of an error
RUSAGE_UNIT: Final = 1024  # bytes in ru_maxrss, on Linux
ENGINE: Final = "strategy.engine"
OOM_SCORE: Final = Path("/proc/self/oom_score_adj")
OOM_FIRST: Final = "1000"  # where memory ends, Linux ends this process before the node and its engine

# What a question or a record that nobody thought of comes to in numpy and in what stands on it.
UNFIT: Final = (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError)

Message = Mapping[str, Any]


class Refused(Exception):
    """The request cannot be answered; the words say why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What is to be learnt from; of engines of another name nothing. None: of all."""

    path: Path
    engine: str | None
    goals: tuple[str, ...]
    ranks: Mapping[str, str]
    seed: int
    number: int | None  # by which whoever gave it knows it again


class Gate:
    """Where learning waits while it would disturb: before each fit of a head, of which a lesson has dozens.

    A fit takes tenths of a second, or ten seconds of a large table; what is under way is done first. Signals that stop
    the process would be quicker and leave it stopped for ever when whoever sent them is killed.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._until = 0.0
        self._changed = threading.Condition()
        self.waited_s = 0.0

    def close(self, seconds: float) -> None:
        """Keep it closed for so long from now on."""
        with self._changed:
            self._until = self._now() + seconds
            self._changed.notify_all()

    def open(self) -> None:
        """Open it now."""
        with self._changed:
            self._until = 0.0
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait until it is open."""
        begin = self._now()
        with self._changed:
            while (left := self._until - self._now()) > 0:
                self._changed.wait(left)
        self.waited_s += max(self._now() - begin, 0.0)


class Worker:
    """Answers requests from the brain of now, and lets another grow beside it.

    Args:
        say: writes one message; called from two threads, one message at a time.
        now: seconds of a clock that only rises.
    """

    def __init__(self, say: Callable[[Message], None], now: Callable[[], float]) -> None:
        from node.learner.brain import Brain  # noqa: PLC0415 -- numpy, scipy: told apart from other failures

        heads, self.heads = available_heads()
        self._gate = Gate(now)
        self._brain = Brain(make_heads=heads, breathe=self._gate.wait)
        self._say = say
        self._now = now
        self._lock = threading.Lock()
        self._waiting: Lesson | None = None
        self._wake = threading.Condition(self._lock)
        self._train_s: float | None = None
        self._answered, self._answering_s = 0, 0.0
        self._predictions, self._predict_s = 0, 0.0  # of those, the ones that foretell

    def answer(self, request: Message) -> Message:
        """Answer one request.

        Raises:
            Refused: it is none, or asks for what cannot be.
        """
        begin = self._now()
        ways = {
            "train": self._train,
            "choose": self._choose,
            "curves": self._curves,
            "state": self._state,
            "pause": self._pause,
            "resume": self._resume,
        }
        way = ways.get(str(request.get("do")))
        if way is None:
            raise Refused(f"do is one of {', '.join(ways)}")
        try:
            found = finite(way(request))
        except (*UNFIT, *foreign_errors()) as error:
            raise Refused(f"{request['do']}: {type(error).__name__}: {error}") from error
        took = self._now() - begin
        self._answered += 1
        self._answering_s += took
        if request["do"] in PREDICTIONS:
            self._predictions += 1
            self._predict_s += took
        return found

    def learn_forever(self) -> None:
        """Learn whatever is asked, one lesson after the other; in a thread of its own."""
        while True:
            with self._wake:
                while (lesson := self._waiting) is None:
                    self._wake.wait()
                self._waiting = None
            try:
                self._learn(lesson)
            except MemoryError:
                self._failed(lesson, "out of memory while learning")
            except (OSError, ValueError, ArithmeticError, ImportError, *foreign_errors()) as error:
                self._failed(lesson, f"{type(error).__name__}: {error}")

    def _failed(self, lesson: Lesson, reason: str) -> None:
        self._say({"event": "failed", "lesson": lesson.number, "reason": reason[:WORDS_CHARS]})

    def _learn(self, lesson: Lesson) -> None:
        import numpy as np  # noqa: PLC0415 -- its absence is said by `main`

        from node.learner import objective  # noqa: PLC0415
        from node.learner.table import Table  # noqa: PLC0415

        begin = self._now()
        table = Table.of_rows(read_records(lesson.path, lesson.engine), merged=False)
        ranks: Any = lesson.ranks
        brain = self._brain.taught(
            table, ranks, [objective.parse(goal) for goal in lesson.goals], np.random.default_rng(lesson.seed)
        )
        self._brain, self._train_s = brain, self._now() - begin
        self._say({"event": "trained", "lesson": lesson.number, **finite(self._state({}))})

    def _train(self, request: Message) -> Message:
        from node.learner import objective  # noqa: PLC0415

        lesson = Lesson(
            path=Path(str(request["path"])),
            goals=tuple(str(goal) for goal in request.get("goals", ["latency"]))[:GOALS],
            ranks={str(author): str(rank) for author, rank in dict(request.get("ranks", {})).items()},
            seed=int(request.get("seed", 0)),
            engine=None if request.get("engine") is None else str(request["engine"]),
            number=_whole(request.get("lesson")),
        )
        for goal in lesson.goals:
            objective.parse(goal)
        with self._wake:
            self._waiting = lesson
            self._wake.notify()
        return {"begun": True}

    def _choose(self, request: Message) -> Message:
        from node.learner.asked import choose  # noqa: PLC0415

        return choose(self._brain, request)

    def _curves(self, request: Message) -> Message:
        cells = request["cells"]
        if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
            raise Refused("cells: a list of rows belongs there")
        return {"curves": [curve.to_plain() for curve in self._brain.curves(cells)]}

    def _pause(self, request: Message) -> Message:
        self._gate.close(min(max(float(request.get("seconds", PAUSE_MOST)), 0.0), PAUSE_MOST))
        return {"paused": True}

    def _resume(self, _: Message) -> Message:
        self._gate.open()
        return {"paused": False}

    def _state(self, _: Message) -> Message:
        learnt = {
            name: {"rows": each.rows, "error_median": each.error_median, "coverage_90": each.coverage_90}
            for name, each in self._brain.learnt.items()
        }
        return {
            "heads": self.heads,
            "rows": self._brain.rows,
            "learnt": learnt,
            "authors": len(self._brain.credibility),
            "doubted": sorted(author for author, worth in self._brain.credibility.items() if worth < 0.5)[:GOALS],
            "train_s": self._train_s,
            "paused_s": self._gate.waited_s,
            "answer_s": self._answering_s / self._answered if self._answered else None,
            "predictions": self._predictions,
            "predict_s": self._predict_s,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RUSAGE_UNIT,
        }


def available_heads() -> tuple[Callable[[Any, int], Sequence[Any]], list[str]]:
    """Return what makes the heads that this installation can have, and what they stand on."""
    if find_spec("lightgbm") is None:
        from node.learner.prior import PhysicsHead  # noqa: PLC0415

        return lambda prior, _rows: (PhysicsHead(prior=prior),), ["physics"]
    from node.learner.methods import our_heads  # noqa: PLC0415

    networks = find_spec("torch") is not None

    def all_heads(prior: Any, rows: int) -> Sequence[Any]:  # noqa: ANN401 -- a Prior, of a module that may not be there
        return our_heads(prior, networks=networks and rows <= NETWORK_ROWS)

    return all_heads, ["physics", "trees", "neighbours", *(["mlp"] if networks else [])]


def read_records(path: Path, engine: str | None = None) -> Iterator[Mapping[str, object]]:
    """Yield the rows of a file of JSON Lines, as `metainf records export` writes them; what is no row is skipped.

    Of a row that carries its sealed record, that record counts and not what stands beside it. Whoever wrote the file
    has verified it.

    Args:
        engine: records of other engines are skipped.
    """
    from node.core.observation import InvalidRow, from_line, sealed_of, to_row  # noqa: PLC0415
    from protocol.errors import LocalProtocolError, RemoteProtocolError  # noqa: PLC0415
    from protocol.performance import PERFORMANCE  # noqa: PLC0415
    from protocol.records import open_unverified  # noqa: PLC0415

    with path.open("rb") as file:
        for _ in range(RECORDS):
            if not (line := file.readline(RECORD_BYTES)):
                return
            try:
                row = from_line(line)
                if (sealed := sealed_of(row)) is not None:
                    row = to_row(open_unverified(sealed, PERFORMANCE))
            except (InvalidRow, RemoteProtocolError, LocalProtocolError):
                continue
            if engine is None or row.get(ENGINE, engine) == engine:
                yield row


def foreign_errors() -> tuple[type[Exception], ...]:
    """Return what foreign code raises where memory or sense ends: torch RuntimeError, LightGBM one of its own."""
    lightgbm: Any = sys.modules.get("lightgbm.basic")  # what was never imported raises nothing
    return RuntimeError, getattr(lightgbm, "LightGBMError", RuntimeError)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


def finite(said: Any) -> Any:  # noqa: ANN401 -- plain values, however they are nested
    """Return what is said with None for each number that JSON has not."""
    match said:
        case float():
            return said if isfinite(said) else None
        case Mapping():
            return {name: finite(value) for name, value in said.items()}
        case list() | tuple():
            return [finite(value) for value in said]
        case _:
            return said


# --- the process


def requests(stdin: IO[bytes]) -> Iterator[Message]:
    """Yield the messages of a stream until it ends; a line that is none is yielded as one without an id.

    Raises:
        Refused: a line longer than LINE_BYTES; where the next begins nobody knows.
    """
    while line := stdin.readline(LINE_BYTES + 1):
        if len(line) > LINE_BYTES:
            raise Refused(f"a request of more than {LINE_BYTES >> 20} MiB")
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        yield found if isinstance(found, dict) else {}


def serve(worker: Worker, stdin: IO[bytes], say: Callable[[Message], None]) -> None:
    """Answer until the stream ends."""
    for request in requests(stdin):
        number = _whole(request.get("id"))
        try:
            say({"id": number, "ok": worker.answer(request)})
        except (Refused, *UNFIT) as error:  # of the latter: the answer is none that JSON has, and nothing of it is said
            say({"id": number, "error": str(error)[:WORDS_CHARS]})


def speaker(stdout: IO[bytes]) -> Callable[[Message], None]:
    """Return what writes a message whole, whichever thread it comes from."""
    lock = threading.Lock()

    def say(message: Message) -> None:
        line = json.dumps(message, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        if len(line) > LINE_BYTES:
            line = json.dumps({"id": message.get("id"), "error": "the answer is too long"}).encode() + b"\n"
        with lock:
            stdout.write(line)
            stdout.flush()

    return say


def _die(arguments: threading.ExceptHookArgs) -> None:
    """End the process by a bug in the learning thread: a worker that looks alive and learns nothing helps nobody."""
    threading.__excepthook__(arguments)
    sys.stderr.flush()
    os._exit(BUG)


def main() -> int:
    """Run until stdin ends."""
    os.nice(NICENESS)
    with suppress(OSError):  # another system, or a container that forbids it
        OOM_SCORE.write_text(OOM_FIRST)
    stdout = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no message
    say = speaker(stdout)
    try:
        worker = Worker(say, time.monotonic)
    except ImportError as error:
        say({"event": "failed", "reason": f"the extra `learner` is not installed: {error}"[:WORDS_CHARS]})
        return UNAVAILABLE
    threading.excepthook = _die
    threading.Thread(target=worker.learn_forever, daemon=True).start()
    say({"event": "ready", "heads": worker.heads})
    try:
        serve(worker, sys.stdin.buffer, say)
    except (Refused, BrokenPipeError):
        return 1
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # the learning thread is in foreign code, and need not be waited for
