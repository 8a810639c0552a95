"""A node's control socket as the command line sees it: canned answers over a real unix socket."""

import json
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from node.cli.main import run
from node.places import places


class CannedNode:
    """Answers each (method, path) with what it was told to; keeps the bodies that it was sent."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], tuple[int, bytes]] = {}
        self.bodies: list[dict[str, object]] = []

    def answer(self, method: str, path: str, content: object, status: int = 200) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.answers[method, path] = (status, raw)


class UnixServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    for variable in ("METAINF_DATA_DIR", "METAINF_CONFIG"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "data"


@pytest.fixture
def canned_node(data_dir: Path) -> Iterator[CannedNode]:
    node = CannedNode()

    class Handler(BaseHTTPRequestHandler):
        def _respond(self) -> None:
            length = int(self.headers.get("content-length", 0))
            if length:
                node.bodies.append(json.loads(self.rfile.read(length)))
            status, raw = node.answers.get((self.command, self.path), (404, b'{"error": {"message": "no such page"}}'))
            self.send_response(status)
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = do_DELETE = _respond  # noqa: N815 -- the names that http.server calls

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- http.server's own name
            pass

        def address_string(self) -> str:
            return "unix"

    where = places({"XDG_RUNTIME_DIR": str(data_dir.parent / "run")}, uid=0, data_dir=data_dir)
    where.runtime.mkdir(parents=True)
    with UnixServer(str(where.control_socket), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield node
        server.shutdown()
        thread.join()


@pytest.fixture
def metainf(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run one command line on the data folder; return its exit code, output and errors."""

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([*arguments, "--data-dir", str(data_dir)])
        captured = capsys.readouterr()
        return int(code), captured.out, captured.err

    return call
