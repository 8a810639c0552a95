"""The pool beyond the port's contract: reuse, the keep-alive race, hostile servers, bounds, TLS."""

import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from node.adapters.upstream.connection import UpstreamLimits
from node.adapters.upstream.pool import ENDPOINTS_REMEMBERED, UpstreamPool
from node.adapters.upstream.timekeeper import LOOK_EVERY
from node.errors import Broken, Unreached
from node.ports import Endpoint
from tests.fakes.raw_http import PATIENCE, eventually, playing, read_request

pytestmark = pytest.mark.slow

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
QUICK = 0.3  # seconds: a limit short enough for a test to wait it out


async def ask(pool: UpstreamPool, port: int, body: bytes = b"", *, leave: bool = False) -> tuple[int, bytes]:
    endpoint = Endpoint(host="127.0.0.1", port=port)
    with trio.fail_after(PATIENCE):
        async with pool.send(endpoint, method="POST", target="/v1/x", headers=(), body=body) as answer:
            received = b""
            while not leave and (piece := await answer.receive()):
                received += piece
            return answer.status, received


@asynccontextmanager
async def open_pool(
    limits: UpstreamLimits | None = None, tls: Callable[[], ssl.SSLContext] = ssl.create_default_context
) -> AsyncIterator[UpstreamPool]:
    pool = UpstreamPool(limits=limits, tls=tls)
    try:
        yield pool
    finally:
        await pool.aclose()


class Server:
    """Answers each request of connection n with what `replies(n, m)` gives for its m-th request; None closes."""

    def __init__(self, replies: Callable[[int, int], bytes | None]) -> None:
        self.connections = 0
        self.requests: list[tuple[bytes, bytes]] = []
        self._replies = replies

    async def play(self, stream: trio.SocketStream, number: int) -> None:
        self.connections += 1
        for count in range(1_000):
            head, body = await read_request(stream)
            if not head:
                return
            self.requests.append((head, body))
            reply = self._replies(number, count)
            if reply is None:
                return
            await stream.send_all(reply)


async def test_a_connection_is_used_again_after_a_clean_end() -> None:
    server = Server(lambda n, m: OK)
    async with open_pool() as pool, playing(server.play) as port:
        for _ in range(5):
            assert await ask(pool, port, b"{}") == (200, b"ok")
        assert server.connections == 1


@pytest.mark.parametrize(
    "reply",
    [
        OK + b"HTTP/1.1 200",
        OK + b"junk",
        OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"),
        OK.replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
async def test_a_connection_that_did_not_end_cleanly_is_not_used_again(reply: bytes) -> None:
    server = Server(lambda n, m: reply)
    async with open_pool() as pool, playing(server.play) as port:
        for _ in range(2):
            assert await ask(pool, port) == (200, b"ok")
        assert server.connections == 2


async def test_a_connection_that_was_left_early_is_not_used_again() -> None:
    server = Server(lambda n, m: OK.replace(b": 2", b": 3"))
    async with open_pool() as pool, playing(server.play) as port:
        for _ in range(2):
            assert (await ask(pool, port, leave=True))[0] == 200
        assert server.connections == 2


async def test_an_idle_connection_is_let_go_before_the_server_does() -> None:
    server = Server(lambda n, m: OK)
    async with open_pool(UpstreamLimits(idle_seconds=0.0)) as pool, playing(server.play) as port:
        for _ in range(2):
            assert await ask(pool, port) == (200, b"ok")
        assert server.connections == 2


async def test_a_request_lost_to_the_keep_alive_race_is_sent_once_more() -> None:
    server = Server(lambda n, m: OK if m == 0 else None)
    async with open_pool() as pool, playing(server.play) as port:
        for number in range(3):
            assert await ask(pool, port, b"%d" % number) == (200, b"ok")
    assert [body for _, body in server.requests] == [b"0", b"1", b"1", b"2", b"2"]


async def test_a_fresh_connection_that_is_closed_is_not_tried_again() -> None:
    server = Server(lambda n, m: None)
    async with open_pool() as pool, playing(server.play) as port:
        with pytest.raises(Broken):
            await ask(pool, port)
        assert len(server.requests) == 1


async def test_a_request_is_not_repeated_once_a_byte_of_its_answer_has_come() -> None:
    requests: list[bytes] = []

    async def play(stream: trio.SocketStream, number: int) -> None:
        for reply in (OK, b"HTTP/1.1 2"):
            requests.append((await read_request(stream))[1])
            await stream.send_all(reply)

    async with open_pool() as pool, playing(play) as port:
        await ask(pool, port, b"first")
        with pytest.raises(Broken):
            await ask(pool, port, b"second")
    assert requests == [b"first", b"second"]


async def test_a_server_that_dies_over_a_prompt_is_not_given_it_again() -> None:
    bodies: list[bytes] = []

    async def play(stream: trio.SocketStream, number: int) -> None:
        bodies.append((await read_request(stream))[1])
        await stream.send_all(OK)
        bodies.append((await read_request(stream))[1])
        await trio.sleep(1.2)  # longer than RACE_SECONDS

    async with open_pool() as pool, playing(play) as port:
        await ask(pool, port, b"first")
        with pytest.raises(Broken):
            await ask(pool, port, b"deadly")
    assert bodies == [b"first", b"deadly"]


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"junk\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000,
        b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 40_000,
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
    ],
)
async def test_whatever_a_server_does_wrong_is_broken(reply: bytes) -> None:
    async def play(stream: trio.SocketStream, number: int) -> None:
        await read_request(stream)
        await stream.send_all(reply)

    async with playing(play) as port, open_pool() as pool:
        with pytest.raises(Broken):
            await ask(pool, port)


async def test_informational_answers_are_passed_over_and_a_body_may_end_with_its_connection() -> None:
    async def play(stream: trio.SocketStream, number: int) -> None:
        await read_request(stream)
        await stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nX: y\r\n\r\nto the end")

    async with playing(play) as port, open_pool() as pool:
        assert await ask(pool, port) == (200, b"to the end")


async def test_a_refusal_sent_before_the_upload_was_whole_is_read() -> None:
    async def play(stream: trio.SocketStream, number: int) -> None:
        await stream.receive_some(100)
        await stream.send_all(OK.replace(b"200 OK", b"413 Large"))
        await stream.send_eof()
        await trio.sleep(0.2)

    async with playing(play) as port, open_pool() as pool:
        assert (await ask(pool, port, b"x" * 5_000_000))[0] == 413


@pytest.mark.parametrize("kept", [True, False], ids=["by the timekeeper", "by a timer of its own"])
async def test_silence_is_broken_by_each_deadline(kept: bool, nursery: trio.Nursery) -> None:
    limits = UpstreamLimits(head_seconds=QUICK, body_idle_seconds=QUICK, send_stall=QUICK)

    async def play(stream: trio.SocketStream, number: int) -> None:
        if number == 2:
            await trio.sleep_forever()  # reads nothing
        await read_request(stream)
        if number == 1:
            await stream.send_all(OK[:-1])
        await trio.sleep_forever()

    async with open_pool(limits) as pool, playing(play) as port:
        if kept:
            nursery.start_soon(pool.keep_time)
            await wait_all_tasks_blocked()
        for body in (b"", b"", b"x" * 30_000_000):
            with pytest.raises(Broken, match=r"gave no answer|fell silent|does not read"):
                await ask(pool, port, body)
        nursery.cancel_scope.cancel()


async def test_a_head_comes_together_in_good_time_however_long_it_was_waited_for() -> None:
    """Byte by byte it would come for minutes, and look like a long prefill to everybody behind."""

    async def play(stream: trio.SocketStream, number: int) -> None:
        await read_request(stream)
        if number:
            await stream.send_all(b"HTTP/1.1 102 Processing\r\n\r\n")
            await trio.sleep(3 * QUICK)
            await stream.send_all(OK)
            return
        with suppress(trio.BrokenResourceError):
            for byte in OK:
                await stream.send_all(bytes([byte]))
                await trio.sleep(QUICK / 10)

    async with open_pool(UpstreamLimits(head_together=QUICK)) as pool, playing(play) as port:
        with pytest.raises(Broken, match="trickles"):
            await ask(pool, port)
        assert (await ask(pool, port))[0] == 200


async def test_a_wait_is_not_cut_short_by_a_deadline_that_was_met_before(nursery: trio.Nursery) -> None:
    """Each piece has its time; that one came late, but in time, takes nothing from the next."""
    rest = LOOK_EVERY + 0.2

    async def play(stream: trio.SocketStream, number: int) -> None:
        del number
        await read_request(stream)
        await stream.send_all(OK[:-2])
        for byte in (b"o", b"k"):
            await trio.sleep(rest)
            await stream.send_all(byte)

    async with open_pool(UpstreamLimits(body_idle_seconds=1.5 * rest)) as pool, playing(play) as port:
        nursery.start_soon(pool.keep_time)
        assert await ask(pool, port) == (200, b"ok")
        nursery.cancel_scope.cancel()


async def test_idle_connections_are_bounded_over_all_endpoints_and_closed_in_time(nursery: trio.Nursery) -> None:
    closed: list[int] = []

    async def play(stream: trio.SocketStream, number: int) -> None:
        while (await read_request(stream))[0]:
            await stream.send_all(OK)
        closed.append(number)

    async with open_pool(UpstreamLimits(idle=2, idle_seconds=2.0)) as pool, playing(play) as one, playing(play) as two:
        for port in (one, two):
            async with AsyncExitStack() as stack:
                for _ in range(2):
                    answer = await stack.enter_async_context(
                        pool.send(Endpoint(host="127.0.0.1", port=port), method="GET", target="/", headers=(), body=b"")
                    )
                    assert await answer.receive() == b"ok"
        await eventually(lambda: closed == [0, 1] or closed == [1, 0])
        nursery.start_soon(pool.keep_time)
        await eventually(lambda: len(closed) == 4)
        nursery.cancel_scope.cancel()


async def test_endpoints_do_not_pile_up() -> None:
    async with open_pool() as pool, playing(Server(lambda n, m: OK).play) as port:
        assert await ask(pool, port) == (200, b"ok")
        for number in range(ENDPOINTS_REMEMBERED + 5):
            with pytest.raises(Unreached):
                await _ask_nobody(pool, number)
            assert len(pool._places) <= ENDPOINTS_REMEMBERED
        assert await ask(pool, port) == (200, b"ok")
        assert pool.last_activity(Endpoint(host="127.0.0.1", port=port)) is not None


async def _ask_nobody(pool: UpstreamPool, number: int) -> None:
    endpoint = Endpoint(host="127.0.0.1", port=1, base_path=f"/{number}")
    async with pool.send(endpoint, method="GET", target="/", headers=(), body=b""):
        pass


async def test_nobody_listening_is_unreached_with_the_system_s_own_reason() -> None:
    async with playing(Server(lambda n, m: OK).play) as port:
        pass
    with pytest.raises(Unreached, match="ECONNREFUSED"):
        await ask(UpstreamPool(), port)


async def test_more_exchanges_than_the_pool_bears_wait_and_then_fail() -> None:
    server, limits = Server(lambda n, m: OK), UpstreamLimits(open=1, connect_seconds=QUICK)
    async with open_pool(limits) as pool, playing(server.play) as port:
        endpoint = Endpoint(host="127.0.0.1", port=port)
        async with pool.send(endpoint, method="GET", target="/", headers=(), body=b""):
            with pytest.raises(Broken):
                await ask(pool, port)
        assert await ask(pool, port) == (200, b"ok")


async def test_requests_carry_the_key_the_base_path_and_the_hosts_name_but_never_the_clients() -> None:
    server = Server(lambda n, m: OK)
    async with open_pool() as pool, playing(server.play) as port:
        endpoint = Endpoint(host="127.0.0.1", port=port, base_path="/gate", api_key="secret")
        async with pool.send(
            endpoint, method="POST", target="/v1/x?y=1", headers=((b"x-a", b"1"),), body=b"{}"
        ) as answer:
            assert await answer.receive() == b"ok"
    lines = server.requests[0][0].split(b"\r\n")
    assert lines[0] == b"POST /gate/v1/x?y=1 HTTP/1.1"
    assert set(lines[1:]) == {
        b"host: 127.0.0.1:%d" % port,
        b"authorization: Bearer secret",
        b"x-a: 1",
        b"content-length: 2",
    }


async def test_the_time_of_the_last_byte_is_known_for_each_endpoint() -> None:
    async with open_pool() as pool, playing(Server(lambda n, m: OK).play) as port:
        endpoint = Endpoint(host="127.0.0.1", port=port)
        assert pool.last_activity(endpoint) is None
        before = trio.current_time()
        await ask(pool, port)
        seen = pool.last_activity(endpoint)
        assert seen is not None
        assert before <= seen <= trio.current_time()


BODIES = st.lists(st.binary(min_size=1, max_size=300), max_size=6)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pieces=BODIES, cuts=st.lists(st.integers(1, 3000), max_size=8), extension=st.sampled_from([b"", b";a=b"]))
def test_any_bytes_in_any_chunks_and_any_packets_come_out_the_same(
    pieces: list[bytes], cuts: list[int], extension: bytes
) -> None:
    wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    wire += b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces) + b"0\r\n\r\n"
    places = sorted({cut for cut in cuts if cut < len(wire)})

    async def play(stream: trio.SocketStream, number: int) -> None:
        await read_request(stream)
        for start, end in zip([0, *places], [*places, len(wire)], strict=True):
            await stream.send_all(wire[start:end])
            await trio.lowlevel.checkpoint()

    async def main() -> bytes:
        async with playing(play) as port, open_pool() as pool:
            return (await ask(pool, port))[1]

    assert trio.run(main) == b"".join(pieces)


def certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


async def test_tls_is_spoken_and_strangers_certificates_are_refused(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    trusting = ssl.create_default_context(cafile=str(cert))

    async def handle(stream: trio.SSLStream[trio.SocketStream]) -> None:
        with trio.CancelScope():
            try:
                for _ in range(2):
                    await stream.receive_some(65536)
                    await stream.send_all(OK)
            except trio.BrokenResourceError:
                pass
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1", https_compatible=True)
        nursery.start_soon(trio.serve_listeners, handle, listeners)
        inner = listeners[0].transport_listener
        assert isinstance(inner, trio.SocketListener)
        port = inner.socket.getsockname()[1]
        endpoint = Endpoint(host="127.0.0.1", port=port, tls=True)
        async with open_pool(tls=lambda: trusting) as pool:
            for _ in range(2):
                async with pool.send(endpoint, method="GET", target="/", headers=(), body=b"") as answer:
                    assert await answer.receive() == b"ok"
        with pytest.raises(Broken):
            async with UpstreamPool().send(endpoint, method="GET", target="/", headers=(), body=b""):
                raise AssertionError("its certificate is nobody's")
        nursery.cancel_scope.cancel()
