"""The two ends of `bench_p2p` in lattica's terms; knows nothing of the node, and runs in lattica's own environment.

    PYTHON lattica_pair.py serve PORT FOLDER             # prints its address; ends with standard input
    PYTHON lattica_pair.py measure ADDRESS FOLDER SIZES  # prints one row of figures as JSON

Lattica is a libp2p in Rust with calls in Python, arguments and results pickled. `SIZES`: `bench_p2p.Size` as JSON.
"""

import importlib
import json
import statistics
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

lattica: Any = importlib.import_module("lattica")  # not in the environment that types are checked in

CHUNK, ASK, BULK = 100, 1024, 256 * 1024  # bytes, as in bench_p2p
PART_FRAMES, PART_BYTES = 1000, 8 * 1024 * 1024  # of one stream
MOST_CUT = 20
PATIENCE = 60
WARM_UP = 50


class Bench(lattica.ConnectionHandler):
    """What can be asked; both ends make one."""

    @lattica.rpc_method
    def echo(self, data: bytes) -> bytes:
        return data

    @lattica.rpc_method
    def spent(self, _: int) -> int:
        return time.process_time_ns()

    @lattica.rpc_stream_iter
    def pump(self, ask: list[int]) -> Any:
        count, size = ask
        payload = bytes(size)
        for _ in range(count):
            yield payload


def node(port: int, key: Path, bootstraps: list[str]) -> Any:
    builder = lattica.Lattica.builder().with_listen_addrs([f"/ip4/127.0.0.1/tcp/{port}"]).with_key_path(str(key))
    return builder.with_mdns(False).with_upnp(False).with_bootstraps(bootstraps).build()


def serve(port: int, folder: Path) -> None:
    here = node(port, folder / "server", [])
    Bench(here)
    print(f"/ip4/127.0.0.1/tcp/{port}/p2p/{here.peer_id()}", flush=True)
    sys.stdin.read()


def round_trips(stub: Any, size: int, count: int) -> list[float]:
    times = []
    for _ in range(count):
        began = time.perf_counter()
        assert len(stub.echo(b"x" * size).result(PATIENCE)) == size
        times.append(time.perf_counter() - began)
    return times


def concurrently(stub: Any, concurrent: int, rounds: int) -> float:
    """As many calls on their way at any time; one thread, as lattica's calls return before they are answered."""
    count = max(1, rounds // concurrent) * concurrent
    began = time.perf_counter()
    asked = deque(stub.echo(b"x" * CHUNK) for _ in range(concurrent))
    for _ in range(count - concurrent):
        asked.popleft().result(PATIENCE)
        asked.append(stub.echo(b"x" * CHUNK))
    for each in asked:
        each.result(PATIENCE)
    return count / (time.perf_counter() - began)


def pumped(stub: Any, count: int, size: int) -> tuple[float, float, float]:
    """Return seconds, and CPU seconds here and there.

    In parts: version 1.0.21 ends longer streams early now and then, without an error. A part that was cut is repeated.
    """
    there = stub.spent(0).result(PATIENCE)
    here, began = time.process_time(), time.perf_counter()
    part = max(1, min(PART_FRAMES, PART_BYTES // size))
    left, cut = count, 0
    while left:
        asked = min(part, left)
        if sum(1 for _ in stub.pump([asked, size])) == asked:
            left -= asked
            continue
        cut += 1
        print(f"a stream of {asked} frames of {size} bytes ended early", file=sys.stderr)
        if cut > MOST_CUT:
            raise RuntimeError("most streams end early")
    seconds, spent = time.perf_counter() - began, time.process_time() - here
    return seconds, spent, (stub.spent(0).result(PATIENCE) - there) / 1e9


def measure(address: str, folder: Path, sizes: dict[str, int]) -> dict[str, float]:
    here = node(0, folder / "client", [address])
    stub = Bench(here).get_stub(address.rpartition("/")[2])
    connected(stub)
    row: dict[str, float] = {}
    for name, size in (("100 B", CHUNK), ("1 KiB", ASK)):
        round_trips(stub, size, WARM_UP)
        times = round_trips(stub, size, sizes["rounds"])
        row[f"round trip {name} p50 ms"] = 1e3 * statistics.median(times)
        row[f"round trip {name} p99 ms"] = 1e3 * sorted(times)[int(0.99 * len(times))]
    pumped(stub, WARM_UP, CHUNK)
    seconds, spent, there = pumped(stub, sizes["chunks"], CHUNK)
    row["chunk CPU server us"] = 1e6 * there / sizes["chunks"]
    row["chunk CPU client us"] = 1e6 * spent / sizes["chunks"]
    row["chunks per s"] = sizes["chunks"] / seconds
    seconds, spent, there = pumped(stub, sizes["bulk"], BULK)
    row["bulk MB per s"] = sizes["bulk"] * BULK / seconds / 1e6
    row["bulk CPU s per GB"] = 1e9 * (spent + there) / (sizes["bulk"] * BULK)
    row["concurrent round trips per s"] = concurrently(stub, sizes["concurrent"], sizes["rounds"])
    return row


def connected(stub: Any) -> None:
    """Wait until the bootstrap is connected: a call before that fails at once."""
    for _ in range(100):
        try:
            stub.echo(b"x").result(PATIENCE)
        except Exception:  # noqa: BLE001 -- lattica raises no narrower one
            time.sleep(0.1)
        else:
            return
    raise TimeoutError("the two ends found no connection")


if __name__ == "__main__":
    verb, where, place, *more = sys.argv[1:]
    if verb == "serve":
        serve(int(where), Path(place))
    else:
        print(json.dumps(measure(where, Path(place), json.loads(more[0]))), flush=True)
