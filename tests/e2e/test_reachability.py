"""Whole daemons behind routers that let nobody in: they are called through a relay, and directly where that can be had.

Real processes in network namespaces with address translation by the kernel. R is public and lends circuits; A asks and
has no engine, B serves; both are at home, each behind a router of its own.
"""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.children import eventually
from tests.e2e.daemon import Daemon, metainf, node_over_stub, running_node
from tests.e2e.routers import DRAWS, KEEPS, World, a_world, why_not
from tests.e2e.test_swarm import wait_until_known

WHY_NOT = why_not()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.daemons,
    pytest.mark.skipif(WHY_NOT is not None, reason=f"no routers: {WHY_NOT}"),
]

LISTEN = ("--listen", "0.0.0.0:47470")
MEET_S = 60.0  # for daemons to start, find out that nobody reaches them, and meet
DIRECT_S = 30.0  # from the relayed connection to the direct one
STAYS_S = 15.0  # as long as both tries of a meeting that cannot be take
ASK_S = 60.0
DIRECT = "direct"


@dataclass(frozen=True, slots=True, kw_only=True)
class Homes:
    """Daemons at home, and the relays in between."""

    relays: tuple[Daemon, ...]
    asks: Daemon
    serves: Daemon
    world: World

    def via(self) -> str | None:
        """How A reaches B."""
        return self.asks.peers().get(self.serves.peer_id, {}).get("via")


@contextmanager
def homes(folder: Path, here: str, there: str, *, relays: int = 1, token_delay: float = 0.0) -> Iterator[Homes]:
    """Start R, then B behind a router of kind `there`, then A behind one of kind `here`; enter when A reaches B."""
    with a_world(public=relays, homes=(here, there)) as world, ExitStack() as running:
        lending: list[Daemon] = []
        for number, place in enumerate(world.public):
            join = ("--join", lending[0].address) if lending else ()
            options = ("--bootstrap-only", *LISTEN, *join)
            lending.append(
                running.enter_context(running_node(folder, *options, name=f"r{number}", wrapper=place.wrapper))
            )
        join = [word for each in lending for word in ("--join", each.address)]
        home_a, home_b = world.homes
        serves = running.enter_context(
            node_over_stub(folder, *LISTEN, *join, name="b", wrapper=home_b.wrapper, token_delay=token_delay)
        )
        asks = running.enter_context(
            running_node(folder, "--no-engine", *LISTEN, *join, name="a", wrapper=home_a.wrapper)
        )
        found = Homes(relays=tuple(lending), asks=asks, serves=serves, world=world)
        wait_until_known(asks, serves, within=MEET_S)
        eventually(found.via, within=MEET_S, what="B", children=[asks.child, serves.child, lending[0].child])
        yield found


def lent(found: Homes, relay: int = 0) -> dict[str, int]:
    """What a relay has lent."""
    return found.relays[relay].status()["reachability"]["lent"]


@pytest.mark.parametrize("there", [KEEPS, DRAWS])
@pytest.mark.parametrize("here", [KEEPS, DRAWS])
def test_behind_every_pair_of_routers_a_prompt_is_answered(
    here: str, there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with homes(tmp_path, here, there) as found:
        began, first = time.monotonic(), found.via()
        assert metainf(found.asks, "ask", "a b", "--max-tokens", "4", within=ASK_S).strip() == "t0 t1 t2 t3"
        by = "directly" if found.via() == DIRECT else "through the relay"
        with capsys.disabled():
            print(f"\n{here} and {there}: reached {first}; the first prompt was answered {by}", end="")
        children = [found.asks.child, found.serves.child]
        if (here, there) == (KEEPS, KEEPS):
            eventually(lambda: found.via() == DIRECT, within=DIRECT_S, what="a direct connection", children=children)
            told = f"direct after {time.monotonic() - began:.1f} s"
            assert metainf(found.asks, "ask", "a b", "--max-tokens", "2", within=ASK_S).strip() == "t0 t1"
            eventually(lambda: lent(found)["circuits"] == 0, within=DIRECT_S, what="the end of the circuit")
        else:
            time.sleep(STAYS_S)
            assert found.via() == found.relays[0].peer_id
            told = "stays with the relay"
        with capsys.disabled():
            print(f"; {told}")
        said = found.serves.status()["reachability"]
        assert said["verdict"] == "private"
        assert [each["peer_id"] for each in said["relays"]] == [found.relays[0].peer_id]
        assert found.relays[0].status()["reachability"]["lends"]


def test_a_relay_that_dies_in_mid_stream_costs_the_client_no_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two relays and a pair of routers that never meet: the stream goes on through the other relay."""
    tokens = 150
    with homes(tmp_path, DRAWS, DRAWS, relays=2, token_delay=0.1) as found, ThreadPoolExecutor(1) as pool:
        children = [found.asks.child, found.serves.child]
        eventually(
            lambda: len(found.serves.status()["reachability"]["relays"]) == 2,
            within=MEET_S,
            what="reservations at both relays",
            children=children,
        )
        command = ("ask", "a b", "--max-tokens", str(tokens))
        answer = pool.submit(metainf, found.asks, *command, within=ASK_S + tokens)
        carrier = eventually(
            lambda: next((each for each in found.relays if each.peer_id == found.via()), None),
            within=ASK_S,
            what="a relay between",
            children=children,
        )
        eventually(lambda: running_at(found.serves) > 0, within=ASK_S, what="a prompt at B", children=children)
        time.sleep(2.0)  # twenty tokens
        began = time.monotonic()
        carrier.signal(signal.SIGKILL)
        other = next(each for each in found.relays if each is not carrier)
        eventually(lambda: found.via() == other.peer_id, within=ASK_S, what="B by the other relay", children=children)
        back = time.monotonic() - began
        assert answer.result(ASK_S + tokens).split() == [f"t{number}" for number in range(tokens)]
        requests = found.asks.status()["requests"]
        assert (requests["resumed"], requests["failed"]) == (1, 0)
        with capsys.disabled():
            print(f"\nthe relay died in mid-stream: reached by the other after {back:.1f} s, every token came once")


def running_at(server: Daemon) -> int:
    """How many prompts of peers a node works on."""
    return server.status()["requests_of_peers"]["running"]
