"""Two nodes find each other by multicast on this machine's loopback."""

import secrets

import pytest
import trio

from node.adapters.lan import nodes_nearby, private_service
from protocol.ids import SwarmId
from tests.contracts.test_streams import a_peer
from tests.places import at

pytestmark = [pytest.mark.slow, pytest.mark.libp2p]
HERE = ["127.0.0.1"]


def a_swarm() -> SwarmId:
    """Another suite may run on this network, and would be heard."""
    return SwarmId(f"test-{secrets.token_hex(8)}")


async def test_nodes_of_one_swarm_hear_each_other_and_those_of_another_do_not() -> None:
    one, two, foreign = a_peer(), a_peer(), a_peer()
    ours, theirs = a_swarm(), a_swarm()
    place = at("127.0.0.1", 4711)
    with trio.fail_after(20):
        async with (
            nodes_nearby(foreign, theirs, [at("127.0.0.1", 1)], interfaces=HERE) as never,
            nodes_nearby(one, ours, [place], interfaces=HERE) as heard_by_one,
            nodes_nearby(two, ours, [at("127.0.0.1", 4712)], interfaces=HERE) as heard_by_two,
        ):
            assert await heard_by_two.receive() == place.of(one)
            assert (await heard_by_one.receive()).peer == two
            with pytest.raises(trio.WouldBlock):
                never.receive_nowait()


async def test_a_private_swarms_nodes_hear_each_other_and_are_looked_for_by_nobody_else() -> None:
    ours, secret, other = a_swarm(), secrets.token_bytes(32), secrets.token_bytes(32)
    one, two, public, unlike = a_peer(), a_peer(), a_peer(), a_peer()
    place = at("127.0.0.1", 4713)
    with trio.fail_after(30):
        async with (
            nodes_nearby(public, ours, [at("127.0.0.1", 1)], interfaces=HERE) as never,
            nodes_nearby(unlike, ours, [at("127.0.0.1", 2)], interfaces=HERE, secret=other) as never_either,
            nodes_nearby(one, ours, [place], interfaces=HERE, secret=secret) as heard_by_one,
            nodes_nearby(two, ours, [at("127.0.0.1", 4714)], interfaces=HERE, secret=secret) as heard_by_two,
        ):
            assert await heard_by_two.receive() == place.of(one)
            assert (await heard_by_one.receive()).peer == two
            for ears in (never, never_either):
                with pytest.raises(trio.WouldBlock):
                    ears.receive_nowait()


def test_what_is_told_on_the_network_tells_neither_name_nor_key() -> None:
    swarm, secret = SwarmId("my-team"), bytes(range(32))
    service, tag = private_service(swarm, secret)
    assert service == f"_mi-{tag}._tcp.local."
    assert len(service.partition(".")[0]) <= 16  # RFC 6335: fifteen, and the underscore
    assert "team" not in service
    assert private_service(swarm, bytes(32))[1] != tag
    assert private_service(SwarmId("another"), secret)[1] != tag
