"""The shared history of whole daemons: everybody ends up with every record, whoever is killed, late or cut off.

Real processes and libp2p on real sockets. What a node acknowledged is known to the test's process alone.
`tests.benchmarks.bench_history_swarm` is the long form.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.children import eventually
from tests.e2e.histories import Swarm, lacking
from tests.e2e.namespaces import two_halves, why_not

pytestmark = [pytest.mark.slow, pytest.mark.daemons]

NAMES = ("a", "b", "c", "d")
RECORDS = 40  # of each node
EVERYWHERE_S = 60.0  # on a busy machine; how long it takes on a quiet one is the benchmark's to say


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """Four nodes; each test leaves them up, and all records everywhere."""
    with Swarm(tmp_path_factory.mktemp("history")) as swarm:
        swarm.start(*NAMES)
        yield swarm


def everywhere(swarm: Swarm) -> None:
    log = swarm.acknowledged()
    swarm.wait_until_held(swarm.daemons, len(log), within=EVERYWHERE_S)
    swarm.compare(swarm.daemons, log)


def test_what_every_node_wrote_is_held_by_every_node(swarm: Swarm) -> None:
    swarm.write(NAMES, RECORDS)
    everywhere(swarm)
    assert len(swarm.acknowledged()) == len(NAMES) * RECORDS
    facts = swarm.status("a")["records"]
    assert facts["authors"] == len(NAMES)
    assert not facts["rejected"]
    assert facts["exchanged"]["new"] == (len(NAMES) - 1) * RECORDS


def test_a_node_that_was_never_there_catches_up(swarm: Swarm) -> None:
    swarm.start("late")
    everywhere(swarm)
    swarm.end("late")


def test_a_node_killed_while_it_writes_loses_nothing_that_it_acknowledged(swarm: Swarm) -> None:
    victim = swarm.writers["d"]
    for name in NAMES:
        swarm.writers[name].sign(RECORDS)
    with ThreadPoolExecutor() as pool:
        others = [pool.submit(swarm.writers[name].write, batch=1) for name in NAMES if name != "d"]
        swarm.kill_while_it_writes("d", left=RECORDS // 2, batch=1)
        for other in others:
            other.result(EVERYWHERE_S)
    assert not lacking(victim.data, victim.acknowledged)
    swarm.start("d")
    victim.write()
    everywhere(swarm)


def test_halves_that_were_cut_apart_end_with_the_same(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    with two_halves(2, 2) as halves, Swarm(tmp_path, dict(zip(NAMES, halves.east + halves.west, strict=True))) as swarm:
        swarm.start(*NAMES)
        halves.cut()
        swarm.write(NAMES, RECORDS)
        for half in (NAMES[:2], NAMES[2:]):
            swarm.wait_until_held(half, 2 * RECORDS, within=EVERYWHERE_S)
        assert {swarm.status(name)["records"]["total"] for name in NAMES} == {2 * RECORDS}
        # Once connections are given up nothing is on its way any more: what is missing has to be found by comparing.
        eventually(
            lambda: all(swarm.status(name)["peers"]["connected"] == 1 for name in NAMES),
            within=EVERYWHERE_S,
            what="the other half given up",
        )
        halves.heal()
        everywhere(swarm)
