"""Malformed requests by the thousand against the real server, with honest ones beside them.

`METAINF_FUZZ_REQUESTS` sets how many (10,000 for the record; by default what a few seconds allow).
"""

import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable

import pytest
import trio

from node.adapters.http_server.connection import ServerLimits
from tests.adapters.test_http_server import open_descriptors
from tests.fakes.raw_http import PATIENCE, Served, connected, eventually, serving
from tests.fakes.upstream import EVENTS, Script
from tests.http.test_app import Stage

pytestmark = pytest.mark.slow

REQUESTS = int(os.environ.get("METAINF_FUZZ_REQUESTS", "600"))
AT_ONCE = 40
SILENT = frozenset({"pipelining", "write_stall"})  # offences that end a connection without a word
LIMITS = ServerLimits(
    head_seconds=0.4, body_idle_seconds=0.4, idle_seconds=0.4, linger_seconds=0.4, abandon_seconds=0.4
)
EVENT_COUNT = 5
ANSWER = b"".join(b"data: %d\n\n" % number for number in range(EVENT_COUNT)) + b"data: [DONE]\n\n"
BODY = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]}'
CHUNKED_BODY = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
VALID = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY),
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED_BODY,
    b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n",
    b"GET /health HTTP/1.0\r\n\r\n",
)

Mutation = Callable[[bytes, random.Random], bytes]


def flip_a_byte(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :]


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def insert(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    what = rng.choice(
        [b"\0", b"\r", b"\n", b"\r\n", b" ", b"\t", b"\xff", b":", b"%2e%2e/", b"a" * 300, b"GET / HTTP/1.1"]
    )
    return data[:place] + what + data[place:]


def drop(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + data[place + rng.randrange(1, 20) :]


def add_header(data: bytes, rng: random.Random) -> bytes:
    line = rng.choice(
        [
            b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding : chunked",
            b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 99999999999", b"Content-Length: 1e3",
            b"Content-Length: 40000000", b"Host: evil.example", b"Connection: close",
            b"Connection: upgrade\r\nUpgrade: h2c",
            b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x", b"Expect: 100-continue",
            b" folded: yes", b"X: " + b"a" * 40_000, b"\r\n".join([b"X: a"] * 200), b"Origin: http://evil.example",
            b"Expect: nonsense", b": empty",
        ]
    )  # fmt: skip
    return data.replace(b"\r\n", b"\r\n" + line + b"\r\n", 1)


def change_the_method(data: bytes, rng: random.Random) -> bytes:
    methods = [b"PUT", b"DELETE", b"TRACE", b"CONNECT", b"OPTIONS", b"HEAD", b"FOO", b"get", b"", b"PRI"]
    return rng.choice(methods) + data[data.index(b" ") :]


def change_the_target(data: bytes, rng: random.Random) -> bytes:
    targets = [
        b"http://evil.example/v1/models", b"*", b"//", b"/v1/models/../../load", b"/v1/%6dodels", b"/" + b"a" * 5000,
        b"/" + b"a" * 50_000, b"localhost:80", b"/v1/models?" + b"&" * 100, b"http://", b"/\xc3\xa9", b"/load",
    ]  # fmt: skip
    start = data.index(b" ") + 1
    return data[:start] + rng.choice(targets) + data[data.index(b" ", start) :]


def change_the_version(data: bytes, rng: random.Random) -> bytes:
    version = rng.choice([b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.2", b"HTP/1.1", b"", b"HTTP/11"])
    return re.sub(rb"HTTP/1\.\d", version, data)


def spoil_the_chunks(data: bytes, rng: random.Random) -> bytes:
    size = b"%x\r\n" % len(BODY)
    spoilt = [b"zz\r\n", b"-1\r\n", b"f" * 20 + b"\r\n", b"1\r\n", b"\r\n", size[:-2] + b";\0\r\n"]
    return data.replace(size, rng.choice(spoilt))


def pipeline(data: bytes, rng: random.Random) -> bytes:
    return b"".join(rng.choice(VALID) for _ in range(rng.randrange(1, 6))) + data


def speak_something_else(data: bytes, rng: random.Random) -> bytes:
    del data
    tls, http2 = b"\x16\x03\x01\x02\x00\x01\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    return rng.choice([tls, http2, b"SSH-2.0-x\r\n", rng.randbytes(200), b"\r\n" * 50])


MUTATIONS: tuple[Mutation, ...] = (
    flip_a_byte, cut, insert, drop, add_header, change_the_method, change_the_target, change_the_version,
    spoil_the_chunks, pipeline, speak_something_else,
)  # fmt: skip


def malformed(rng: random.Random) -> bytes:
    data = rng.choice(VALID)
    for _ in range(rng.randrange(1, 4)):
        if data.count(b" ") > 1:
            data = rng.choice(MUTATIONS)(data, rng)
    return data


async def read_to_the_end(stream: trio.SocketStream) -> bytes:
    data = b""
    with trio.fail_after(PATIENCE):
        try:
            while piece := await stream.receive_some(65536):
                data += piece
        except trio.BrokenResourceError:
            pass
    return data


class Run:
    """Counts what the attackers were told, and lets honest clients ask beside them."""

    def __init__(self, served: Served, seed: int) -> None:
        self.served = served
        self.rng = random.Random(seed)  # noqa: S311  # to be repeatable
        self.told: Counter[int] = Counter()
        self.left = REQUESTS
        self.honest = 0
        self.slowest = 0.0

    async def attack(self) -> None:
        while self.left > 0:
            self.left -= 1
            data = malformed(self.rng)
            async with connected(self.served.bind) as client:
                try:
                    for piece in self.pieces(data):
                        await client.stream.send_all(piece)
                        await trio.lowlevel.checkpoint()
                except trio.BrokenResourceError:
                    pass
                answer = await read_to_the_end(client.stream)
            for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer):
                self.told[int(status)] += 1

    def pieces(self, data: bytes) -> list[bytes]:
        cuts = sorted(self.rng.randrange(len(data) + 1) for _ in range(self.rng.randrange(3)))
        return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]

    async def hit_and_run(self) -> None:
        while self.left > 0:
            self.left -= 1
            async with connected(self.served.bind) as client:
                try:
                    await client.stream.send_all(malformed(self.rng))
                    if self.rng.random() < 0.3:
                        await client.stream.receive_some(10)
                except trio.BrokenResourceError:
                    pass

    async def ask_honestly(self) -> None:
        while self.left > 0:
            began = time.perf_counter()
            async with connected(self.served.bind) as client:
                for _ in range(3):
                    await client.send(VALID[0])
                    response = await client.response()
                    assert (response.status, response.body, response.complete) == (200, ANSWER, True)
                    self.honest += 1
            self.slowest = max(self.slowest, time.perf_counter() - began)


def stage() -> Stage:
    pieces: list[bytes | Callable[[], object]] = []
    for event in ANSWER.split(b"\n\n")[:-1]:
        pieces += [event + b"\n\n", trio.lowlevel.checkpoint]
    return Stage(Script(pieces, headers=EVENTS))  # pyright: ignore[reportArgumentType]


async def settle(served: Served, before: int) -> None:
    """Every connection is gone, and so is its descriptor."""
    await eventually(lambda: open_descriptors() <= before)
    assert served.reports.defects == []


async def test_malformed_requests_are_each_told_and_counted_once_while_honest_ones_are_answered() -> None:
    one = stage()
    async with serving(one.app, LIMITS) as served:
        tasks = trio.lowlevel.current_statistics().tasks_living
        before = open_descriptors()
        run = Run(served, seed=2024)
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(run.attack)
            nursery.start_soon(run.ask_honestly)
        await settle(served, before)
        assert trio.lowlevel.current_statistics().tasks_living == tasks
    counted: Counter[str] = Counter(served.reports.offences)
    for kind, value in one.offences().items():
        counted[kind] += int(value)
    told = sum(count for status, count in run.told.items() if status >= 400)
    print(f"\n{REQUESTS} malformed: {dict(sorted(run.told.items()))}, counted {dict(counted)}, honest {run.honest}")
    assert told == sum(count for kind, count in counted.items() if kind not in SILENT)
    assert run.honest > 0
    assert run.told[400] > 0
    assert one.replica.upstream.at_work == 0


async def test_clients_that_hit_and_run_leave_nothing_behind() -> None:
    one = stage()
    async with serving(one.app, LIMITS) as served:
        tasks = trio.lowlevel.current_statistics().tasks_living
        before = open_descriptors()
        run = Run(served, seed=2025)
        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(run.hit_and_run)
            nursery.start_soon(run.ask_honestly)
        await settle(served, before)
        assert trio.lowlevel.current_statistics().tasks_living == tasks
    assert run.honest > 0
    assert one.replica.upstream.at_work == 0


async def test_sixty_four_streams_at_once_are_whole_and_in_order() -> None:
    count, streams = 100, 64
    pieces: list[bytes | Callable[[], object]] = []
    for number in range(count):
        pieces += [b"data: %d\n\n" % number, trio.lowlevel.checkpoint]
    one = Stage(Script(pieces, headers=EVENTS))  # pyright: ignore[reportArgumentType]
    whole = 0

    async def read_one(served: Served) -> None:
        nonlocal whole
        async with connected(served.bind) as client:
            await client.send(VALID[0])
            response = await client.response()
            assert response.body == b"".join(b"data: %d\n\n" % number for number in range(count))
            whole += response.complete

    async with serving(one.app) as served, trio.open_nursery() as nursery:
        for _ in range(streams):
            nursery.start_soon(read_one, served)
        await eventually(lambda: whole == streams)
