"""`metainf records import`: records from files, each judged as if a peer had brought it.

Beside a running node they are handed to that node, which keeps the history; without one they go to the file itself,
under the lock that keeps a node from starting meanwhile. Both ways are safe to repeat: what is known stays known.
"""

import json
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final

import click
import structlog
import trio

from node.adapters.parquet import read_table
from node.adapters.store.history import open_history
from node.adapters.system import node_lock
from node.cli import control_client
from node.cli.counting import counting
from node.cli.record_export import PARQUET, STANDARD, format_of
from node.clock import wall_us
from node.core.observation import LINE_BYTES, Row, from_line, sealed_of
from node.core.observation_columns import InvalidRow
from node.errors import ExitCode, NodeError, Unavailable
from node.history import record_rules
from node.places import Places
from node.record_ports import Admitted, Standing
from protocol import limits
from protocol.ids import RecordName, SwarmId

BATCH_BYTES: Final = 640 * limits.KIB  # of sealed records in one request: in base64, and with its JSON, below 1 MiB
ANSWER_S: Final = 60.0  # for a node whose disk is slow and whose peers bring records too
TOLD: Final = 10  # rejections and forks that are told one by one
BENIGN: Final = frozenset({"expired", "not_retained"})  # nobody's fault: honest records grow old

Admit = Callable[[Sequence[bytes]], Awaitable[Sequence[Admitted]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One row of a file: where it stood, and the sealed record in it, or why there is none."""

    place: str
    sealed: bytes = b""
    reason: str = ""


@dataclass(slots=True, kw_only=True)
class Fates:
    """What became of the records so far. `told` has the first rejections and forks in words."""

    new: int = 0
    known: int = 0
    forks: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)

    def note(self, found: Found, verdict: Admitted) -> None:
        """Count one."""
        match verdict.standing:
            case Standing.NEW:
                self.new += 1
            case Standing.KNOWN:
                self.known += 1
            case Standing.FORK:
                self.forks += 1
                self._tell(f"{found.place}: another record is here as {verdict.name}: its author is quarantined")
            case Standing.REJECTED:
                self.reject(found, verdict.reason)

    def reject(self, found: Found, reason: str) -> None:
        """Count one that was turned away."""
        self.rejected[reason] += 1
        if reason not in BENIGN:
            self._tell(f"{found.place}: {reason}")

    def _tell(self, words: str) -> None:
        if len(self.told) < TOLD:
            self.told.append(words)

    @property
    def counted(self) -> int:
        """How many rows were looked at."""
        return self.new + self.known + self.forks + self.rejected.total()

    @property
    def clean(self) -> bool:
        """Whether everything was taken in but what had grown old."""
        return not self.forks and set(self.rejected) <= BENIGN


def import_files(where: Places, swarm: SwarmId, files: Sequence[Path], *, as_json: bool) -> int:
    """Take in the records of these files; return the exit code.

    Raises:
        NodeError: a file cannot be read, or the history cannot be had; what was taken in before is kept.
    """
    fates = Fates()
    try:
        with ExitStack() as held:
            if _nobody_has(where, held):
                held.enter_context(_log_to_stderr())
                trio.run(_alone, where, swarm, files, fates)
            else:
                trio.run(_beside, where, files, fates)
    except (NodeError, KeyboardInterrupt):
        if fates.counted:
            _report(fates, as_json=as_json)
            click.echo("broken off; what was taken in is kept, and the same command goes on from there", err=True)
        raise
    _report(fates, as_json=as_json)
    return ExitCode.OK if fates.clean else ExitCode.FAILURE


def _nobody_has(where: Places, held: ExitStack) -> bool:
    """Take the data folder for ourselves until `held` is left; return whether that went. Else a node answers here.

    Raises:
        Unavailable: another command has the folder, or a node that does not answer.
    """
    try:
        held.enter_context(node_lock(where.lock_file))
    except Unavailable as taken:
        try:
            control_client.get_json(where.control_socket, "/status")
        except NodeError as error:
            raise Unavailable(
                f"{taken.message}, and does not answer",
                remedy="it may be starting, or be another command: try again when it is up or gone",
            ) from error
        return False
    except OSError as error:
        raise Unavailable(
            f"cannot make or read {where.lock_file}: {error.strerror or error}", remedy="choose another --data-dir"
        ) from error
    return True


async def _alone(where: Places, swarm: SwarmId, files: Sequence[Path], fates: Fates) -> None:
    async with open_history(where.history_file(swarm), record_rules(swarm), now_us=wall_us) as history:
        await _take_in(files, partial(history.admit, via=None), fates)


async def _beside(where: Places, files: Sequence[Path], fates: Fates) -> None:
    async def admit(sealed: Sequence[bytes]) -> Sequence[Admitted]:
        return hand_over(where.control_socket, sealed)

    await _take_in(files, admit, fates)


async def _take_in(files: Sequence[Path], admit: Admit, fates: Fates) -> None:
    with counting("importing") as tick:
        for file in files:
            for batch in _batches(found_in(file), fates, tick):
                verdicts = await admit([found.sealed for found in batch])
                for found, verdict in zip(batch, verdicts, strict=True):
                    fates.note(found, verdict)


def _batches(source: Iterator[Found], fates: Fates, tick: Callable[[], None]) -> Iterator[list[Found]]:
    """Yield what can be judged, in bounded batches; count what is no record at once."""
    batch: list[Found] = []
    size = 0
    for found in source:
        tick()
        if found.reason:
            fates.reject(found, found.reason)
            continue
        if batch and (len(batch) == limits.BATCH_RECORDS or size + len(found.sealed) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(found)
        size += len(found.sealed)
    if batch:
        yield batch


# --- what is in a file


def found_in(file: Path) -> Iterator[Found]:
    """Yield the rows of a file, by its suffix Parquet or JSON Lines; nothing is verified.

    Raises:
        NodeError: it cannot be read.
    """
    if format_of(file, None) == PARQUET:
        try:
            for number, row in enumerate(read_table(file), start=1):
                yield _in_row(f"{file}, row {number}", row)
        except InvalidRow as error:
            raise NodeError(f"{file}: {error}", remedy="is it a table of observations?") from error
        return
    try:
        with nullcontext(sys.stdin.buffer) if file == STANDARD else file.open("rb") as lines:
            yield from _in_lines(str(file), lines)
    except OSError as error:
        raise Unavailable(
            f"{file} cannot be read: {error.strerror or error}", remedy="check its permissions"
        ) from error


def _in_lines(name: str, lines: BinaryIO) -> Iterator[Found]:
    number = 0
    while line := lines.readline(LINE_BYTES + 1):
        number += 1
        place = f"{name}, line {number}"
        if len(line) > LINE_BYTES and not line.endswith(b"\n"):
            while (more := lines.readline(LINE_BYTES)) and not more.endswith(b"\n"):
                pass
            yield Found(place=place, reason="line_too_long")
            continue
        if line.strip():
            try:
                row = from_line(line.rstrip())
            except InvalidRow:
                yield Found(place=place, reason="malformed_line")
            else:
                yield _in_row(place, row)


def _in_row(place: str, row: Row) -> Found:
    try:
        sealed = sealed_of(row)
    except InvalidRow:
        return Found(place=place, reason="malformed_line")
    if sealed is None:
        return Found(place=place, reason="unsigned")  # an observation: nobody answers for it
    if len(sealed) > limits.RECORD_BYTES:
        return Found(place=place, reason="too_large")
    return Found(place=place, sealed=sealed)


# --- a node that runs


def hand_over(socket_path: Path, sealed: Sequence[bytes]) -> list[Admitted]:
    """Hand a batch to the running node; return its verdicts, in order. Blocks.

    Raises:
        NodeError: it did not answer, or with something else.
    """
    body = {"records": [b64encode(each).decode() for each in sealed]}
    with control_client.request(socket_path, "POST", "/records", body, timeout=ANSWER_S) as response:
        raw, status = response.read(), response.status
    try:
        answer = json.loads(raw)
        if status >= 400:
            raise control_client.error_in(answer, status)
        verdicts = [_verdict(each) for each in answer["verdicts"]]
    except (ValueError, TypeError, KeyError) as error:
        raise NodeError(f"the node answered {status} with something that is no verdict") from error
    if len(verdicts) != len(sealed):
        raise NodeError(f"the node judged {len(verdicts)} records where it was given {len(sealed)}")
    return verdicts


def _verdict(plain: Mapping[str, str | None]) -> Admitted:
    name = plain["name"]
    return Admitted(
        standing=Standing(plain["standing"]),
        name=None if name is None else RecordName.from_string(name),
        reason=plain["reason"] or "",
    )


# --- words


@contextmanager
def _log_to_stderr() -> Iterator[None]:
    """Keep the store's warnings out of the output, which may be for a machine."""
    before: dict[str, Any] = structlog.get_config()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        yield
    finally:
        structlog.configure(**before)


def _report(fates: Fates, *, as_json: bool) -> None:
    if as_json:
        counts = {"new": fates.new, "known": fates.known, "forks": fates.forks, "rejected": dict(fates.rejected)}
        click.echo(json.dumps(counts | {"told": fates.told}, indent=2))
        return
    click.echo(f"{fates.new} new, {fates.known} known already, {fates.rejected.total()} rejected")
    for reason, count in fates.rejected.most_common():
        click.echo(f"  {count} x {reason}")
    if fates.forks:
        click.echo(f"  {fates.forks} x fork: kept as evidence, the author is heard no more")
    for words in fates.told:
        click.echo(words, err=True)
