"""What vLLM answers, the node answers: every scenario at the engine itself and through the node, compared."""

import pytest

from tests.e2e.comparison import Comparison
from tests.e2e.differences import DIFFERENCES, Mismatch
from tests.e2e.engine import Engine
from tests.e2e.entry import Entry
from tests.e2e.scenarios.catalogue import CATALOGUE
from tests.e2e.scenarios.scenario import Scenario

pytestmark = [pytest.mark.slow, pytest.mark.engine]

SHOWN = 12  # mismatches in one failure: enough to see the pattern


@pytest.fixture(scope="module")
def comparison(engine: Engine, entry: Entry) -> Comparison:
    return Comparison(engine=engine.entry, node=entry, differences=DIFFERENCES)


@pytest.mark.parametrize("scenario", CATALOGUE, ids=lambda scenario: scenario.name)
def test_the_node_answers_what_the_engine_answers(scenario: Scenario, comparison: Comparison) -> None:
    unexplained = comparison.unexplained(scenario)
    assert not unexplained, explained(unexplained)


def test_every_named_difference_still_shows(comparison: Comparison) -> None:
    idle = comparison.idle_differences(CATALOGUE)
    assert not idle, "these differences are gone; take them out of the table:\n" + "\n".join(idle)


def explained(found: list[Mismatch]) -> str:
    """Say what was unlike, for a failure."""
    more = f"\n... and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "\n".join(str(mismatch)[:600] for mismatch in found[:SHOWN]) + more
