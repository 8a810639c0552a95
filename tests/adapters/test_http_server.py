"""The server on real sockets: what it serves, what it bounds, how it ends."""

import gc
import json
import os
import socket
import stat
import warnings
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from node.adapters.http_server.connection import ServerLimits
from node.adapters.http_server.exchange import CANCEL_WHEN_GONE, Message, Receive, Send
from node.adapters.http_server.server import TcpBind, UnixBind, serve
from node.adapters.system import port_owner
from node.errors import Unavailable
from node.http import asgi
from tests.fakes.raw_http import PATIENCE, RawClient, Reports, connected, eventually, serving

pytestmark = pytest.mark.slow

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
QUICK = 0.3  # seconds: a limit short enough for a test to wait it out


def post(body: bytes = b"hello") -> bytes:
    return b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def read_all(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return body
        body += message["body"]
        if not message["more_body"]:
            return body


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    """Answers with the request's body, or its path where there is none."""
    body = await read_all(receive) or scope["raw_path"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})


class Streamer:
    """Sends a piece each time it is told, and notes how it ended."""

    def __init__(self) -> None:
        self.go, self.going = trio.open_memory_channel[bytes | None](100)
        self.gone = trio.Event()
        self.started = trio.Event()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        del scope
        await read_all(receive)
        self.started.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.watch, receive, nursery.cancel_scope)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while (piece := await self.going.receive()) is not None:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            nursery.cancel_scope.cancel()

    async def watch(self, receive: Receive, work: trio.CancelScope) -> None:
        assert (await receive())["type"] == "http.disconnect"
        self.gone.set()
        work.cancel()


async def test_requests_follow_each_other_on_one_connection() -> None:
    async with serving(echo) as served, connected(served.bind) as client:
        for body in (b"one", b"", b"x" * 300_000):
            await client.send(post(body))
            response = await client.response()
            assert (response.status, response.body) == (200, body or b"/")
            assert response.header(b"server") == b"metainf"
            assert response.header(b"date") is not None
    assert served.reports.offences == []


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with serving(echo) as served, connected(served.bind) as client:
        await client.send(b"".join(post(b"%d" % number) for number in range(10)) + GET)
        assert [(await client.response()).body for _ in range(11)] == [*(b"%d" % n for n in range(10)), b"/"]


async def test_bytes_of_the_next_request_wait_for_the_answer_before() -> None:
    streamer = Streamer()
    async with serving(streamer) as served, connected(served.bind) as client:
        await client.send(GET)
        await streamer.started.wait()
        for piece in (GET[:10], GET[10:]):
            await client.send(piece)
        await streamer.go.send(b"first")
        await streamer.go.send(None)
        assert (await client.response()).body == b"first"
        await streamer.go.send(b"second")
        await streamer.go.send(None)
        assert (await client.response()).body == b"second"


async def test_the_first_piece_is_sent_before_the_second_exists() -> None:
    streamer = Streamer()
    async with serving(streamer) as served, connected(served.bind) as client:
        await client.send(GET)
        for piece in (b"a", b"b", b"c"):
            await streamer.go.send(piece)
            assert await client.next_piece() == piece


async def test_a_client_that_leaves_is_noticed_mid_answer() -> None:
    streamer = Streamer()
    async with serving(streamer) as served, connected(served.bind) as client:
        await client.send(GET)
        await streamer.go.send(b"a")
        await client.next_piece()
        await client.aclose()
        with trio.fail_after(PATIENCE):
            await streamer.gone.wait()


async def test_a_client_that_leaves_is_noticed_behind_the_requests_it_has_pipelined() -> None:
    streamer = Streamer()
    async with serving(streamer) as served, connected(served.bind) as client:
        await client.send(GET * 5 + GET[:9])
        await streamer.started.wait()
        await client.send(b"more")
        await client.aclose()
        with trio.fail_after(PATIENCE):
            await streamer.gone.wait()


async def test_an_application_that_does_not_look_is_ended_after_its_client() -> None:
    started, ended = trio.Event(), trio.Event()

    async def deaf(scope: Message, receive: Receive, send: Send) -> None:
        del scope, receive, send
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with serving(deaf, ServerLimits(abandon_seconds=QUICK)) as served:
        async with connected(served.bind) as client:
            await client.send(GET)
            await started.wait()
        with trio.fail_after(PATIENCE):
            await ended.wait()


async def test_an_application_that_asks_for_it_is_cancelled_where_it_stands_at_once() -> None:
    started, ended = trio.Event(), trio.Event()

    async def yielding(scope: Message, receive: Receive, send: Send) -> None:
        del send
        await read_all(receive)
        scope["extensions"][CANCEL_WHEN_GONE]()
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with serving(yielding, ServerLimits(abandon_seconds=1000.0)) as served:
        async with connected(served.bind) as client:
            await client.send(post() + GET[:9])  # behind bytes that nobody reads, too
            await started.wait()
        with trio.fail_after(PATIENCE):
            await ended.wait()
    assert (served.reports.offences, served.reports.defects) == ([], [])


async def test_a_client_that_left_before_the_application_asks_is_noticed_then() -> None:
    left, ended = trio.Event(), trio.Event()

    async def late(scope: Message, receive: Receive, send: Send) -> None:
        del send
        await read_all(receive)
        await left.wait()
        scope["extensions"][CANCEL_WHEN_GONE]()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with serving(late, ServerLimits(abandon_seconds=1000.0)) as served:
        async with connected(served.bind) as client:
            await client.send(GET)
        await trio.sleep(QUICK)  # for the kernel to tell of it, or not
        left.set()
        with trio.fail_after(PATIENCE):
            await ended.wait()


async def test_one_answer_s_wish_to_be_cancelled_is_not_the_next_one_s() -> None:
    async def once(scope: Message, receive: Receive, send: Send) -> None:
        if scope["raw_path"] == b"/first":
            scope["extensions"][CANCEL_WHEN_GONE]()
            await echo(scope, receive, send)
            return
        await read_all(receive)
        started.set()
        told.append((await receive())["type"])
        await trio.lowlevel.checkpoint()
        told.append("still here")
        ended.set()

    told: list[str] = []
    started, ended = trio.Event(), trio.Event()
    async with serving(once) as served:
        async with connected(served.bind) as client:
            await client.send(GET.replace(b"/", b"/first", 1))
            assert (await client.response()).body == b"/first"
            await client.send(GET)
            await started.wait()
        with trio.fail_after(PATIENCE):
            await ended.wait()
    assert told == ["http.disconnect", "still here"]


async def test_an_upload_goes_on_after_the_node_was_asked_to_stop() -> None:
    async with serving(echo) as served, connected(served.bind) as client:
        whole = post(b"x" * 100)
        await client.send(whole[:-50])
        await trio.sleep(QUICK)
        served.stop.set()
        await trio.sleep(QUICK)
        await client.send(whole[-50:])
        response = await client.response()
        assert (response.body, response.header(b"connection")) == (b"x" * 100, b"close")
        assert await client.at_end()


async def failing(scope: Message, receive: Receive, send: Send) -> None:
    del scope, receive, send
    raise ZeroDivisionError


async def test_a_defect_of_the_application_ends_one_request_and_is_told() -> None:
    async with serving(failing) as served, connected(served.bind) as client:
        for _ in range(2):
            await client.send(GET)
            response = await client.response()
            assert response.status == 500
            assert "error" in json.loads(response.body)
        assert [type(error) for error in served.reports.defects] == [ZeroDivisionError] * 2


async def breaking_off(scope: Message, receive: Receive, send: Send) -> None:
    """Promises more than it sends."""
    await read_all(receive)
    headers = [(b"content-length", b"10")] if scope["raw_path"] == b"/length" else []
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})


@pytest.mark.parametrize("path", [b"/length", b"/chunks"])
async def test_an_answer_that_is_broken_off_is_seen_to_be(path: bytes) -> None:
    async with serving(breaking_off) as served, connected(served.bind) as client:
        await client.send(GET.replace(b"/ ", path + b" "))
        response = await client.response()
        assert response.body == b"half"
        assert not response.complete


async def read_whole(stream: trio.SocketStream) -> None:
    while await stream.receive_some():
        pass


async def test_to_an_http_1_0_client_a_broken_answer_is_reset_and_a_whole_one_closed() -> None:
    async with serving(breaking_off) as served:
        stream = await trio.open_tcp_stream(served.bind.host, served.bind.port)
        await stream.send_all(b"GET /old HTTP/1.0\r\n\r\n")
        with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
            await read_whole(stream)
        await stream.aclose()
    async with serving(echo) as served, connected(served.bind) as client:
        await client.send(b"GET /old HTTP/1.0\r\n\r\n")
        response = await client.response()
        assert (response.body, response.complete) == (b"/old", True)
        assert await client.at_end()


async def test_head_and_no_content_have_no_body() -> None:
    async def empty(scope: Message, receive: Receive, send: Send) -> None:
        del receive
        status = 204 if scope["raw_path"] == b"/204" else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"" if status == 204 else b"not for HEAD"})

    async with serving(empty) as served:
        stream = await trio.open_tcp_stream(served.bind.host, served.bind.port)
        await stream.send_all(GET.replace(b"GET", b"HEAD") + GET.replace(b"/ ", b"/204 ") + GET)
        data = b""
        with trio.fail_after(PATIENCE):
            while not data.endswith(b"not for HEAD"):
                data += await stream.receive_some()
        await stream.aclose()
    heads = data.removesuffix(b"not for HEAD").split(b"\r\n\r\n")
    assert [head.split(b" ")[1] for head in heads[:-1]] == [b"200", b"204", b"200"]
    assert b"content-length: 12" in heads[0]
    assert b"content-length" not in heads[1]


async def test_an_upload_waits_for_the_word_when_it_asks_for_it() -> None:
    async with serving(echo) as served, connected(served.bind) as client:
        await client.send(post(b"hello").replace(b"\r\n\r\nhello", b"\r\nExpect: 100-continue\r\n\r\n"))
        assert (await client.response()).status == 100
        await client.send(b"hello")
        assert (await client.response()).body == b"hello"


async def test_values_that_would_write_headers_are_left_out() -> None:
    async def split(scope: Message, receive: Receive, send: Send) -> None:
        del scope, receive
        headers = [(b"x-a", b"1\r\nx-evil: 1"), (b"x-b", b"2\nx-evil: 2"), (b"x-c", b"3"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async with serving(split) as served, connected(served.bind) as client:
        await client.send(GET)
        names = [name for name, _ in (await client.response()).headers]
        assert b"x-evil" not in names
        assert b"x-c" in names
        assert b"connection" not in names


Misbehave = Callable[[RawClient], Awaitable[None]]


async def say_nothing(client: RawClient) -> None:
    del client


async def dribble_a_head(client: RawClient) -> None:
    await client.send(GET[:20])
    for byte in b"X-A: " + b"a" * 5:
        await trio.sleep(QUICK / 5)
        try:
            await client.send(bytes([byte]))
        except trio.BrokenResourceError:
            return


async def dribble_a_second_head(client: RawClient) -> None:
    await client.send(GET)
    assert (await client.response()).status == 200
    await dribble_a_head(client)


async def stop_in_the_body(client: RawClient) -> None:
    await client.send(post(b"x" * 100)[:-50])


async def send_a_huge_head(client: RawClient) -> None:
    await client.send(GET[:-2] + b"X: " + b"a" * 70_000)


async def send_many_headers(client: RawClient) -> None:
    await client.send(GET[:-2] + b"X: a\r\n" * 200 + b"\r\n")


async def send_garbage(client: RawClient) -> None:
    await client.send(b"\x16\x03\x01\x00garbage\r\n\r\n")


async def send_a_bad_chunk(client: RawClient) -> None:
    await client.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nheZZ")


@pytest.mark.parametrize(
    ("misbehave", "status", "offences"),
    [
        (say_nothing, None, []),
        (dribble_a_head, 408, ["head_timeout"]),
        (dribble_a_second_head, 408, ["head_timeout"]),
        (stop_in_the_body, 408, ["body_timeout"]),
        (send_a_huge_head, 431, ["head_too_large"]),
        (send_many_headers, 431, ["head_too_large"]),
        (send_garbage, 400, ["bad_request"]),
        (send_a_bad_chunk, 400, ["bad_request"]),
    ],
)
async def test_misbehaviour_is_answered_counted_once_and_ends_the_connection(
    misbehave: Misbehave, status: int | None, offences: list[str]
) -> None:
    limits = ServerLimits(head_seconds=QUICK, idle_seconds=QUICK, body_idle_seconds=QUICK, linger_seconds=QUICK)
    async with serving(echo, limits) as served, connected(served.bind) as client:
        await misbehave(client)
        if status is not None:
            response = await client.response()
            assert response.status == status
            assert response.header(b"connection") == b"close"
            assert json.loads(response.body)["error"]["message"]
        assert await client.at_end()
        assert served.reports.offences == offences
        assert served.reports.defects == []


async def test_an_error_waits_behind_the_answers_before_it() -> None:
    async with serving(echo) as served, connected(served.bind) as client:
        await client.send(post(b"good") + b"BAD\r\n\r\n")
        assert (await client.response()).body == b"good"
        assert (await client.response()).status == 400
        assert await client.at_end()
        assert served.reports.offences == ["bad_request"]


async def test_a_flood_of_pipelined_requests_ends_the_connection() -> None:
    streamer = Streamer()
    async with serving(streamer) as served:
        async with connected(served.bind) as client:
            await client.send(GET * 100)
            assert await client.at_end()
        streamer.started = trio.Event()
        async with connected(served.bind) as client:
            await client.send(GET)
            await streamer.started.wait()
            with suppress(trio.BrokenResourceError):
                await client.send(b"x" * 200_000)
            assert await client.at_end()
        assert served.reports.offences == ["pipelining"] * 2


async def test_a_refused_upload_is_read_far_enough_for_the_refusal_to_arrive() -> None:
    async def refuse(scope: Message, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 413, "headers": []})
        await send({"type": "http.response.body", "body": b"too large"})

    async with serving(refuse) as served, connected(served.bind) as client:
        await client.send(post(b"x" * 2_000_000)[:600_000])
        response = await client.response()
        assert (response.status, response.body) == (413, b"too large")
        assert response.header(b"connection") == b"close"


async def test_a_client_that_takes_nothing_is_cut_off() -> None:
    ended = trio.Event()

    async def endless(scope: Message, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(10_000):
            await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
            if served.reports.offences:
                break
        ended.set()

    async with serving(endless, ServerLimits(write_stall=QUICK)) as served, connected(served.bind) as client:
        await client.send(GET)
        with trio.fail_after(PATIENCE):
            await ended.wait()
        assert served.reports.offences == ["write_stall"]


async def test_an_upload_that_nobody_takes_is_left_in_the_kernel() -> None:
    sent = 0
    taken = trio.Event()

    async def slow(scope: Message, receive: Receive, send: Send) -> None:
        await taken.wait()
        await echo(scope, receive, send)

    async with serving(slow) as served, connected(served.bind) as client:
        body = b"x" * 30_000_000
        with trio.move_on_after(1.0) as patience:
            await client.send(post(body))
            sent = 1
        assert patience.cancelled_caught
        assert sent == 0
        taken.set()


async def test_connections_beyond_the_cap_are_told_so() -> None:
    async with serving(echo, ServerLimits(connections=2)) as served:
        async with connected(served.bind) as one, connected(served.bind) as two, connected(served.bind) as three:
            for client in (one, two):
                await client.send(GET)
                assert (await client.response()).status == 200
            response = await three.response()
            assert response.status == 503
            assert response.header(b"retry-after") is not None
            assert await three.at_end()
        assert served.reports.offences == ["connection_limit"]


async def test_a_place_is_free_again_when_its_client_has_left() -> None:
    streamer = Streamer()
    async with serving(streamer, ServerLimits(connections=1)) as served:
        for _ in range(3):
            streamer.gone = trio.Event()
            async with connected(served.bind) as client:
                await client.send(GET)
                await streamer.go.send(b"a")
                assert await client.next_piece() == b"a"
            before = open_descriptors()
            await streamer.gone.wait()
            await eventually(lambda before=before: open_descriptors() < before)
        assert served.reports.offences == []


async def test_shutdown_lets_answers_finish_and_idle_connections_go() -> None:
    streamer = Streamer()
    async with serving(streamer) as served, connected(served.bind) as busy, connected(served.bind) as idle:
        await busy.send(GET)
        await streamer.go.send(b"a")
        assert await busy.next_piece() == b"a"
        served.stop.set()
        assert await idle.at_end()
        with pytest.raises(OSError):  # noqa: PT011  # refused or reset, as the kernel likes
            await trio.open_tcp_stream(served.bind.host, served.bind.port)
        await streamer.go.send(b"b")
        await streamer.go.send(None)
        response = await busy.response()
        assert (response.body, response.complete) == (b"b", True)
        assert await busy.at_end()
        with trio.fail_after(PATIENCE):
            await served.ended.wait()


async def test_shutdown_cuts_what_outlasts_the_grace() -> None:
    streamer = Streamer()
    async with serving(streamer, ServerLimits(grace_seconds=QUICK)) as served, connected(served.bind) as client:
        await client.send(GET)
        await streamer.started.wait()
        served.stop.set()
        with trio.fail_after(PATIENCE):
            await served.ended.wait()
        assert not await client.more()


async def test_a_port_that_is_taken_is_refused_with_its_holder_and_the_way_out() -> None:
    async with serving(echo) as served:
        with pytest.raises(Unavailable) as caught:
            await serve(
                echo,
                bind=served.bind,
                reports=Reports(),
                stop=trio.sleep_forever,
                owner_of=port_owner,
            )
    assert str(served.bind.port) in caught.value.message
    assert str(os.getpid()) in caught.value.message
    assert caught.value.remedy
    assert caught.value.exit_code == 69


@pytest.mark.parametrize("host", ["203.0.113.1", "no.such.host.invalid"])
async def test_an_address_that_this_machine_has_not_is_refused(host: str) -> None:
    with pytest.raises(Unavailable) as caught:
        await serve(echo, bind=TcpBind(host=host, port=0), reports=Reports(), stop=trio.sleep_forever)
    assert caught.value.remedy


async def serve_unix(path: Path, task_status: trio.TaskStatus[Any]) -> None:
    await serve(
        echo,
        bind=UnixBind(path=str(path)),
        reports=Reports(),
        stop=trio.sleep_forever,
        task_status=task_status,
    )


async def test_a_unix_socket_is_private_replaces_a_dead_one_and_respects_a_live_one(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_unix, path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        stream = await trio.open_unix_socket(path)
        await stream.send_all(GET)
        with trio.fail_after(PATIENCE):
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
        await stream.aclose()
        with pytest.raises(Unavailable):
            await serve(echo, bind=UnixBind(path=str(path)), reports=Reports(), stop=trio.sleep_forever)
        assert path.exists()
        nursery.cancel_scope.cancel()
    assert not path.exists()


async def test_a_file_that_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(Unavailable):
        await serve(echo, bind=UnixBind(path=str(path)), reports=Reports(), stop=trio.sleep_forever)
    assert path.read_text() == "data"


async def test_the_next_request_may_be_long_and_come_before_the_last_one_is_tidied_up() -> None:
    async def tidies_up_slowly(scope: Message, receive: Receive, send: Send) -> None:
        await echo(scope, receive, send)
        await trio.sleep(0.05)

    async with serving(tidies_up_slowly) as served, connected(served.bind) as client:
        for number in range(5):
            body = b"%d" % number * 500_000
            await client.send(post(body))
            assert (await client.response()).body == body
    assert served.reports.offences == []


async def test_neither_descriptors_nor_tasks_are_left_behind() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # what other tests left is not this one's
    async with serving(echo) as served:
        async with connected(served.bind) as client:
            await client.send(GET)
            await client.response()
        gc.collect()
        before = open_descriptors()
        for number in range(100):
            async with connected(served.bind) as client:
                await client.send((GET, GET[:9], post()[:-2], b"junk\r\n\r\n")[number % 4])
        await eventually(lambda: open_descriptors() <= before)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_server_and_application_mean_the_same_offer() -> None:
    """Neither may import the other; the word is all that they share."""
    assert CANCEL_WHEN_GONE == asgi.CANCEL_WHEN_GONE
