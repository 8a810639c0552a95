"""Two nodes find each other by multicast on this machine's loopback."""

import secrets

import pytest
import trio

from node.adapters.lan import nodes_nearby
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
