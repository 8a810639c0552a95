"""What names stand for, asked again and again, in virtual time."""

from collections.abc import Sequence

import trio
from trio.testing import MockClock

from node.core.bootstraps import NAMES_OF_NAME, Bootstraps, DnsAddr
from node.errors import Unreachable, WhyNot
from node.services.resolve import AGAIN, ASK, LONGEST_PAUSE, Resolving
from protocol.addresses import Address
from tests.contracts.test_streams import a_peer
from tests.places import at

NAME = DnsAddr("boot.example")


class Servers:
    """Name servers in memory: a name without records does not exist; `mute` never answer."""

    def __init__(self, **records: Sequence[str]) -> None:
        self.records = dict(records)
        self.mute = False
        self.asked: list[str] = []

    async def __call__(self, name: str) -> Sequence[str]:
        self.asked.append(name)
        await trio.sleep(float("inf") if self.mute else 0.05)
        found = self.records.get(name.removeprefix("_dnsaddr.").partition(".")[0])
        if found is None:
            raise Unreachable(f"the name {name} does not exist", why=WhyNot.NO_NAME)
        return found


def resolving(servers: Servers, *names: DnsAddr) -> tuple[Resolving, Bootstraps, list[Address]]:
    heard: list[Address] = []
    book = Bootstraps(a_peer(), (), names)
    return Resolving(names, servers, bootstraps=book, hear=heard.extend), book, heard


async def test_what_a_name_stands_for_is_heard_at_once_and_asked_again(autojump_clock: MockClock) -> None:
    one, two = at("192.0.2.1", 1, a_peer()), at("192.0.2.2", 1, a_peer())
    servers = Servers(boot=[f"dnsaddr={one}"])
    service, book, heard = resolving(servers, NAME)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        await trio.sleep(1)
        assert heard == [one]
        servers.records["boot"] = [f"dnsaddr={two}"]
        await trio.sleep(AGAIN)
        assert heard == [one, two]
        assert [row["address"] for row in book.facts((), trio.current_time())] == [str(NAME), str(two)]
        nursery.cancel_scope.cancel()


async def test_a_name_that_refers_to_others_is_followed_and_not_for_ever(autojump_clock: MockClock) -> None:
    one = at("192.0.2.1", 1, a_peer())
    servers = Servers(
        boot=["dnsaddr=/dnsaddr/east.example", "dnsaddr=/dnsaddr/gone.example", "dnsaddr=/dnsaddr/boot.example"],
        east=[f"dnsaddr={one}", *(f"dnsaddr=/dnsaddr/more{number}.example" for number in range(50))],
    )
    service, _, heard = resolving(servers, NAME)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert heard == [one]
    assert len(servers.asked) == len(set(servers.asked)) == NAMES_OF_NAME + 1


async def test_name_servers_that_fail_are_asked_again_and_the_error_is_told(autojump_clock: MockClock) -> None:
    one = at("192.0.2.1", 1, a_peer())
    servers = Servers()
    service, book, heard = resolving(servers, NAME, DnsAddr("boot2.example"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service.run)
        await trio.sleep(1)
        row = book.facts((), trio.current_time())[0]
        assert (row["state"], row["why"], row["error"]) == (
            "failing",
            "no_name",
            "the name _dnsaddr.boot.example does not exist",
        )
        servers.mute = True
        await trio.sleep(ASK + 2)
        assert book.facts((), trio.current_time())[0]["error"] == f"no name server answered within {ASK:g} s"
        servers.mute, servers.records["boot"] = False, ["dnsaddr=nonsense"]
        await trio.sleep(LONGEST_PAUSE)
        assert "lists no address" in book.facts((), trio.current_time())[0]["error"]
        servers.records["boot"] = [f"dnsaddr={one}"]
        await trio.sleep(2 * LONGEST_PAUSE)
        assert heard == [one]
        nursery.cancel_scope.cancel()
