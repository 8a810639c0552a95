"""A real vLLM on CPU with the tiny model, started by the suite itself: the measure that a node is held to.

Knows vLLM's flags, no node. One is shared by all tests that need none of their own.
"""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from tests.e2e.children import Child, eventually, started
from tests.e2e.entry import Entry
from tests.e2e.tiny_model import CONTEXT, tiny_model

START_S = 150.0  # 17 s on two idle cores; a busy CI machine takes several times as long
PROBE_S = 30.0  # for the answer of a starting or busy engine
MODEL_NAME = "tiny"
KEY = "key-of-the-engine"
# Tools and JSON as vLLM offers them; compact JSON, or a random model fills its answer with white space.
OFFERS = (
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
    *("--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}'),
    "--enable-prompt-tokens-details",
)
SIZES = (
    "--enforce-eager",
    *("--kv-cache-memory-bytes", "256M"),
    *("--max-model-len", str(CONTEXT)),
    # A step of at most 512 tokens: a long prefill takes many steps, so that a test can be in the middle of one.
    *("--max-num-batched-tokens", "512"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """The running engine and where it listens."""

    child: Child
    entry: Entry

    def running_requests(self) -> float:
        """Requests in its running batch, by its own metrics."""
        return gauge(self.metrics(), "vllm:num_requests_running")

    def waiting_requests(self) -> float:
        """Requests that wait for the batch."""
        return gauge(self.metrics(), "vllm:num_requests_waiting")

    def metrics(self) -> str:
        """Its metrics page."""
        return httpx2.get(f"{self.entry.url}/metrics", timeout=PROBE_S).text


def gauge(page: str, name: str) -> float:
    """Add up a metric over its labels; 0 where the page does not have it."""
    rows = (line for line in page.splitlines() if line.startswith((f"{name}{{", f"{name} ")))
    return sum(float(row.rpartition(" ")[2]) for row in rows)


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_engine(folder: Path) -> Iterator[Engine]:
    """Start vLLM; enter once it is healthy."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(tiny_model()), "--served-model-name", MODEL_NAME),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--distributed-executor-backend", "uni"),
        *SIZES,
        *OFFERS,
    ]
    # `python -m` puts its working folder first on the path: an empty one hides no module.
    empty = folder / "empty"
    empty.mkdir()
    with started("engine", command, folder=folder, environment=engine_environment(), cwd=empty) as child:
        entry = Entry(url=f"http://127.0.0.1:{port}", model=MODEL_NAME, api_key=KEY)
        eventually(lambda: healthy(entry.url), within=START_S, what="a healthy engine", children=[child])
        yield Engine(child=child, entry=entry)


def engine_environment() -> dict[str, str]:
    """Return the environment of the engine."""
    own = {
        "VLLM_API_KEY": KEY,
        "VLLM_ENABLE_RESPONSES_API_STORE": "1",  # Responses can be read again by their id
        "OMP_NUM_THREADS": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    openmp = Path(sys.prefix) / "lib" / "libiomp5.so"
    if openmp.exists():
        own["LD_PRELOAD"] = str(openmp)
    return {**os.environ, **own}


def healthy(url: str) -> bool:
    """Whether a server answers 200 to /health."""
    try:
        return httpx2.get(f"{url}/health", timeout=PROBE_S).status_code == 200
    except httpx2.TransportError:
        return False
