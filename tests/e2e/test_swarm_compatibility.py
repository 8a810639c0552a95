"""What vLLM answers, a node without an engine answers: the whole comparison, through it, over two peers.

The peers speak for the suite's one engine, so that their answers can be held to its own.
"""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.e2e.comparison import Comparison
from tests.e2e.conftest import ENGINE_SEEN_S
from tests.e2e.daemon import NODE_KEY, key_section, running_node
from tests.e2e.differences import DIFFERENCES, THROUGH_PEERS
from tests.e2e.engine import KEY as ENGINE_KEY
from tests.e2e.engine import MODEL_NAME, Engine
from tests.e2e.entry import Entry
from tests.e2e.scenarios.catalogue import CATALOGUE
from tests.e2e.scenarios.scenario import Scenario
from tests.e2e.test_compatibility import explained
from tests.e2e.test_swarm import wait_until_known

pytestmark = [pytest.mark.slow, pytest.mark.engine]


@pytest.fixture(scope="module")
def far_entry(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Entry]:
    """A node without an engine, whose two peers have one."""
    folder = tmp_path_factory.mktemp("far")
    config = f'[engine]\nurl_key = "{ENGINE_KEY}"\n'
    with ExitStack() as running:
        a = running.enter_context(running_node(folder, "--no-engine", config=key_section("suite", NODE_KEY), name="a"))
        url = engine.entry.url
        peers = [
            running.enter_context(
                running_node(folder, "--engine-url", url, "--join", a.address, config=config, name=name)
            )
            for name in "bc"
        ]
        for peer in peers:
            peer.wait_for_engine(within=ENGINE_SEEN_S)
        wait_until_known(a, *peers, model=MODEL_NAME)
        yield Entry(url=a.url, model=MODEL_NAME, api_key=NODE_KEY)


@pytest.fixture(scope="module")
def comparison(engine: Engine, far_entry: Entry) -> Comparison:
    return Comparison(engine=engine.entry, node=far_entry, differences=DIFFERENCES + THROUGH_PEERS)


@pytest.mark.parametrize("scenario", CATALOGUE, ids=lambda scenario: scenario.name)
def test_the_swarm_answers_what_the_engine_answers(scenario: Scenario, comparison: Comparison) -> None:
    unexplained = comparison.unexplained(scenario)
    assert not unexplained, explained(unexplained)


def test_every_difference_named_for_peers_still_shows(comparison: Comparison) -> None:
    idle = [line for line in comparison.idle_differences(CATALOGUE) if any(row.node in line for row in THROUGH_PEERS)]
    assert not idle, "these differences are gone; take them out of the table:\n" + "\n".join(idle)
