import io
import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from node.telemetry import OFFENCE_LOG_INTERVAL_S, Events, OffenceLog, configure_log


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers[:]:
        if handler not in handlers:
            root.removeHandler(handler)
            handler.close()
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    structlog.reset_defaults()


def configured(
    tmp_path: Path, *, level: str = "info", form: str = "json", max_bytes: int = 1 << 20, requests: bool = False
) -> io.StringIO:
    stream = io.StringIO()
    file = tmp_path / "node.log"
    configure_log(
        level=level,
        file_level="info",
        form=form,
        stream=stream,
        file=file,
        max_bytes=max_bytes,
        keep=2,
        requests=requests,
    )
    return stream


def test_an_event_goes_to_the_stream_and_to_the_file(tmp_path: Path) -> None:
    stream = configured(tmp_path)
    structlog.get_logger().info("engine.ready", seconds=3)
    for line in (stream.getvalue(), (tmp_path / "node.log").read_text()):
        event = json.loads(line)
        assert (event["event"], event["seconds"], event["level"]) == ("engine.ready", 3, "info")


def test_a_quiet_stream_does_not_quieten_the_file(tmp_path: Path) -> None:
    stream = configured(tmp_path, level="warning")
    structlog.get_logger().info("engine.ready")
    assert stream.getvalue() == ""
    assert "engine.ready" in (tmp_path / "node.log").read_text()


def test_text_is_for_people(tmp_path: Path) -> None:
    stream = configured(tmp_path, form="text")
    structlog.get_logger().info("engine.ready", seconds=3)
    assert "engine.ready" in stream.getvalue()
    assert "seconds=3" in stream.getvalue()


@pytest.mark.parametrize(("requests", "lines"), [(False, 1), (True, 2)])
def test_answered_requests_are_logged_where_wanted_and_broken_ones_always(
    tmp_path: Path, requests: bool, lines: int
) -> None:
    stream = configured(tmp_path, requests=requests)
    log = structlog.get_logger("http")
    log.info("http.request", outcome="answered")
    log.warning("http.request", outcome="broken")
    assert len(stream.getvalue().splitlines()) == lines


def test_what_libraries_log_comes_out_as_events_too(tmp_path: Path) -> None:
    stream = configured(tmp_path)
    logging.getLogger("library").warning("something %s", "odd")
    assert json.loads(stream.getvalue())["event"] == "something odd"


def test_the_log_s_size_is_bounded(tmp_path: Path) -> None:
    configured(tmp_path, max_bytes=10_000)
    for number in range(2_000):
        structlog.get_logger().info("again", number=number)
    sizes = [file.stat().st_size for file in tmp_path.glob("node.log*")]
    assert len(sizes) == 3
    assert sum(sizes) <= 31_000


def test_every_offence_is_counted_and_few_are_logged(tmp_path: Path) -> None:
    stream = configured(tmp_path)
    counter: Counter[str] = Counter()
    now = [0.0]
    offence = OffenceLog(now=lambda: now[0], count=lambda kind: counter.update([kind]))
    for _ in range(1000):
        offence("bad_head")
    now[0] += OFFENCE_LOG_INTERVAL_S
    offence("bad_head")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert counter["bad_head"] == 1001
    assert [line["passed_over"] for line in lines] == [0, 999]


def test_kinds_of_offence_do_not_hide_each_other(tmp_path: Path) -> None:
    stream = configured(tmp_path)
    offence = OffenceLog(now=lambda: 0.0, count=lambda kind: None)
    offence("bad_head")
    offence("bad_key")
    assert len(stream.getvalue().splitlines()) == 2


def test_lifecycle_events_are_json_lines_with_a_time() -> None:
    stream = io.StringIO()
    Events(stream).emit("ready", {"api_url": "http://127.0.0.1:1/v1"})
    line = json.loads(stream.getvalue())
    assert line["event"] == "ready"
    assert line["api_url"] == "http://127.0.0.1:1/v1"
    assert line["time"].endswith("+00:00")


def test_a_reader_that_went_away_does_not_stop_the_node() -> None:
    stream = io.StringIO()
    events = Events(stream)
    stream.close()
    events.emit("ready")
    events.emit("stopped")
