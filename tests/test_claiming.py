"""A port whose number an outgoing connection uses is waited for; one at which somebody listens is not."""

import os
import socket

import pytest
import trio

from node.adapters.system import Holder, port_holder
from node.claiming import taken, until_free
from node.errors import Unavailable
from tests.places import at

pytestmark = pytest.mark.slow


async def test_a_connection_that_ends_gives_the_port_back() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as outgoing:
        outgoing.connect(server.getsockname())
        port = outgoing.getsockname()[1]
        found = port_holder(port)
        assert found is not None
        assert not found.listens
        assert f"pid {os.getpid()}" in found.words
        error = taken(Unavailable("cannot listen"), [at("127.0.0.1", port)])
        assert f"a connection of pytest, pid {os.getpid()}" in error.message or f"pid {os.getpid()}" in error.message
        assert f"ip_local_reserved_ports={port}" in error.remedy
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_free, [at("0.0.0.0", port)])
            await trio.sleep(0.3)
            accepted, _ = server.accept()
            accepted.close()  # first to close: its end of the pair is the one that lingers
            outgoing.close()
        assert 0.3 <= trio.current_time() - began < 5
        with socket.create_server(("0.0.0.0", port)):
            pass


async def test_nobody_waits_for_a_program_that_listens_nor_for_ever() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with trio.fail_after(2):
            await until_free([at("127.0.0.1", port)])
        error = taken(Unavailable("cannot listen"), [at("127.0.0.1", 0), at("127.0.0.1", port)])
        assert f"pid {os.getpid()}" in error.message
        assert "--listen" in error.remedy
        with trio.fail_after(3):
            await until_free(
                [at("127.0.0.1", port)], patience=0.7, holder=lambda _: Holder("a connection", listens=False)
            )
