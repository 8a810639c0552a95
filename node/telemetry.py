"""What the node tells about itself: its log as events, bounded in rate and size; lifecycle lines for scripts.

Knows no service. Prompts, answers and keys are never logged; the caller passes facts, not sentences.
"""

import json
import logging
import logging.handlers
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import structlog

REQUEST_LOGGERS = ("http", "peers")  # whom those speak as that answer clients and peers
FOREIGN_LOGGERS = ("libp2p", "multiaddr", "zeroconf", "aioquic")  # talkative, about what strangers do to them
OFFENCE_LOG_INTERVAL_S = 10.0  # one line per kind: a flood of bad input must not become a flood of log


def configure_log(  # noqa: PLR0913 -- each is one setting
    *, level: str, file_level: str, form: str, stream: TextIO, file: Path, max_bytes: int, keep: int, requests: bool
) -> None:
    """Send events from `level` up to `stream` and, from `file_level` up, as JSON lines to a rotated `file`.

    Without `requests`, those of the request loggers begin at warnings: answered requests are in the metrics. Of
    libraries that speak to strangers nothing short of critical is told: what strangers do is ours to count.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    as_json = structlog.processors.JSONRenderer(default=str)
    as_text = structlog.dev.ConsoleRenderer(colors=stream.isatty(), pad_event_to=28)
    console = logging.StreamHandler(stream)
    console.setFormatter(_formatter(as_json if form == "json" else as_text, shared))
    file.parent.mkdir(parents=True, exist_ok=True)
    rotated = logging.handlers.RotatingFileHandler(file, maxBytes=max_bytes, backupCount=keep, encoding="utf-8")
    rotated.setFormatter(_formatter(as_json, shared))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(console)
    root.addHandler(rotated)
    console.setLevel(level.upper())
    rotated.setLevel(file_level.upper())
    root.setLevel(min(console.level, rotated.level))
    for name in REQUEST_LOGGERS:
        logging.getLogger(name).setLevel(logging.NOTSET if requests else logging.WARNING)
    hush_libraries()


def hush_libraries() -> None:
    """Keep talkative libraries quiet; again after importing one that sets its own level."""
    for name in FOREIGN_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _formatter(
    renderer: structlog.typing.Processor, shared: list[structlog.typing.Processor]
) -> structlog.stdlib.ProcessorFormatter:
    return structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        foreign_pre_chain=shared,
    )


@dataclass(slots=True)
class OffenceLog:
    """Counts every offence and logs the first of each kind per interval, with how many were passed over.

    Args:
        now: the loop's clock, seconds.
        count: called once per offence, for the counter that must equal the offences.
    """

    now: Callable[[], float]
    count: Callable[[str], None]
    _last: dict[str, float] = field(default_factory=dict)
    _unsaid: dict[str, int] = field(default_factory=dict)

    def __call__(self, kind: str, **facts: object) -> None:
        """Record one offence of `kind` (a short constant, never text of the offender's)."""
        self.count(kind)
        now = self.now()
        if now - self._last.get(kind, float("-inf")) < OFFENCE_LOG_INTERVAL_S:
            self._unsaid[kind] = self._unsaid.get(kind, 0) + 1
            return
        self._last[kind] = now
        unsaid = self._unsaid.pop(kind, 0)
        structlog.get_logger().warning("http.offence", kind=kind, passed_over=unsaid, **facts)


class Events:
    """Lifecycle lines for scripts (`--json-events`): one JSON object a line, flushed at once."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def emit(self, event: str, facts: Mapping[str, Any] | None = None) -> None:
        """Write one line; without a stream, nothing. A reader that went away is no reason to stop serving."""
        if self._stream is None:
            return
        line = {"event": event, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **(facts or {})}
        try:
            self._stream.write(json.dumps(line) + "\n")
            self._stream.flush()
        except (BrokenPipeError, ValueError):
            self._stream = None


def stdout_events() -> Events:
    """Events on standard output."""
    return Events(sys.stdout)
