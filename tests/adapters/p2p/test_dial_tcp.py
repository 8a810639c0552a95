"""How a dial ends over real sockets, told by the step that failed."""

import gc
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from node.adapters.p2p import dial_tcp
from node.adapters.p2p.dial_tcp import open_tcp
from node.adapters.p2p.host import open_host
from node.errors import Unreachable, WhyNot
from protocol.addresses import Address
from tests.contracts.test_streams import a_peer
from tests.places import at

pytestmark = [pytest.mark.slow, pytest.mark.libp2p]


@asynccontextmanager
async def listening(answer: bytes | None = None, *, close: bool = False) -> AsyncIterator[int]:
    """Serve on loopback: say `answer`, then end the connection or stay."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            if answer is not None:
                await stream.send_all(answer)
            if not close:
                await trio.sleep_forever()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def why(address: Address) -> WhyNot:
    """Dial as a node does; return why nothing came of it."""
    async with open_host(secrets.token_bytes(32), []) as host:
        with pytest.raises(Unreachable) as caught:
            await host.dial(address)
        return caught.value.why


async def test_each_way_to_fail_has_its_name() -> None:
    peer = a_peer()
    with trio.fail_after(30):
        async with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 8) as garbage, listening(close=True) as closing:
            assert await why(at("127.0.0.1", garbage, peer)) is WhyNot.GARBAGE
            assert await why(at("127.0.0.1", closing, peer)) is WhyNot.HUNG_UP
        assert await why(at("127.0.0.1", garbage, peer)) is WhyNot.REFUSED
        assert await why(Address("dns", "nobody.invalid", 1, peer)) is WhyNot.NO_NAME
        async with open_host(secrets.token_bytes(32), [at("127.0.0.1", 0)]) as other:
            assert await why(other.addresses()[0].of(peer)) is WhyNot.OTHER_PEER


async def test_who_accepts_and_says_nothing_is_told_from_who_is_not_there() -> None:
    with trio.fail_after(15):
        async with listening() as mute:
            began = trio.current_time()
            assert await why(at("127.0.0.1", mute, a_peer())) is WhyNot.HANGING
            assert 4.5 < trio.current_time() - began < 6.5


async def test_a_full_backlog_is_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel drops what comes to a listener whose queue is full: as a firewall that drops packets would."""
    monkeypatch.setattr(dial_tcp, "CONNECT", 1.0)
    listener = trio.socket.socket()
    await listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    where = listener.getsockname()
    waiting = [trio.socket.socket() for _ in range(3)]
    with listener, trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for each in waiting:
                nursery.start_soon(each.connect, where)
            await trio.sleep(0.2)
            with pytest.raises(Unreachable) as caught:
                await open_tcp(at("127.0.0.1", where[1]))
            nursery.cancel_scope.cancel()
    for each in waiting:
        each.close()
    assert caught.value.why is WhyNot.SILENT
    gc.collect()


async def test_a_name_is_asked_for_in_the_wanted_family_alone() -> None:
    with trio.fail_after(10):
        async with listening() as port:
            for kind in ("dns", "dns4"):
                async with await open_tcp(Address(kind, "localhost", port)) as stream:
                    assert stream.socket.getpeername()[0] == "127.0.0.1"
            with pytest.raises(Unreachable):
                await open_tcp(Address("dns6", "localhost", port))


async def test_a_dead_machine_of_a_name_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def two_machines(*_: object, **__: object) -> list[object]:
        return [(trio.socket.AF_INET, trio.socket.SOCK_STREAM, 6, "", (host, 0)) for host in ("127.0.0.9", "127.0.0.1")]

    with trio.fail_after(10):
        async with listening() as port:
            monkeypatch.setattr(trio.socket, "getaddrinfo", two_machines)
            stream = await open_tcp(Address("dns", "boot.example", port))
            assert stream.socket.getpeername()[0] == "127.0.0.1"
            await stream.aclose()
        with pytest.raises(Unreachable) as caught:
            await open_tcp(Address("dns", "boot.example", port))
        assert caught.value.why is WhyNot.REFUSED
