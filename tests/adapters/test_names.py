"""TXT records from a name server of our own, over real UDP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import dns.asyncresolver
import pytest
import trio

from node.adapters.names import STRINGS, text_records
from node.errors import Unreachable, WhyNot
from tests.fakes.name_server import answered

RECORDS = {
    "_dnsaddr.boot.example.": ['"dnsaddr=/ip4/192.0.2.1/tcp/1" "/p2p/12D3"', '"v=spf1"'],
    "_dnsaddr.many.example.": [f'"dnsaddr={number}"' for number in range(STRINGS + 10)],
}


@asynccontextmanager
async def name_server(*, mute: bool = False) -> AsyncIterator[dns.asyncresolver.Resolver]:
    """Serve on loopback; enter with a resolver that asks it and nobody else."""
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as served:
        await served.bind(("127.0.0.1", 0))

        async def serve() -> None:
            while True:
                raw, client = await served.recvfrom(4096)
                if not mute:
                    await served.sendto(answered(raw, RECORDS), client)

        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = ["127.0.0.1"], served.getsockname()[1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield resolver
            nursery.cancel_scope.cancel()


async def test_the_strings_of_a_record_are_one_text() -> None:
    with trio.fail_after(10):
        async with name_server() as resolver:
            found = await text_records("_dnsaddr.boot.example", resolver)
            assert sorted(found) == ["dnsaddr=/ip4/192.0.2.1/tcp/1/p2p/12D3", "v=spf1"]


async def test_no_more_records_are_taken_than_are_looked_at() -> None:
    with trio.fail_after(10):
        async with name_server() as resolver:
            assert len(await text_records("_dnsaddr.many.example", resolver)) == STRINGS


@pytest.mark.parametrize(("name", "words"), [("no.example", "does not exist"), ("empty.example", "no TXT record")])
async def test_what_is_not_there_is_told_apart(name: str, words: str) -> None:
    with trio.fail_after(10):
        async with name_server() as resolver:
            with pytest.raises(Unreachable, match=words) as caught:
                await text_records(name, resolver)
            assert caught.value.why is WhyNot.NO_NAME


async def test_a_name_server_that_says_nothing_is_given_up() -> None:
    began = trio.current_time()
    async with name_server(mute=True) as resolver:
        with pytest.raises(Unreachable, match="could not be asked for"):
            await text_records("_dnsaddr.boot.example", resolver)
    assert trio.current_time() - began < 10
