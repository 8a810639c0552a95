"""Runs scenarios at two entries and says where the outcomes differ.

Knows no server: point it at an engine and a node, at two nodes, at any way into a swarm.
"""

from dataclasses import asdict, dataclass, field, is_dataclass
from typing import cast

from tests.e2e.differences import Difference, Mismatch, mismatches
from tests.e2e.entry import Entry
from tests.e2e.normalise import normalised, steady
from tests.e2e.scenarios.scenario import Scenario

Outcome = dict[str, object]


def outcome(scenario: Scenario, entry: Entry) -> Outcome:
    """Run a scenario at an entry: what crossed the wire, and what the client made of it."""
    with entry.session() as session:
        seen = scenario.act(session)
    assert session.exchanges, f"{scenario.name} asked nothing"
    return {
        "exchanges": [normalised(exchange) for exchange in session.exchanges],
        "client": steady(_plain(seen)),
    }


def _plain(seen: object) -> object:
    if is_dataclass(seen) and not isinstance(seen, type):
        return asdict(seen)
    if isinstance(seen, list):
        return [_plain(item) for item in cast("list[object]", seen)]
    return seen


@dataclass(slots=True, kw_only=True)
class Comparison:
    """Each scenario run once at either entry, remembered, so that what shows nowhere can be told at the end.

    Attributes:
        engine, node: the entry that sets the measure and the entry that is judged.
    """

    engine: Entry
    node: Entry
    differences: tuple[Difference, ...]
    _found: dict[str, list[Mismatch]] = field(default_factory=dict)

    def found(self, scenario: Scenario) -> list[Mismatch]:
        """Every place where the two outcomes differ."""
        if scenario.name not in self._found:
            first, second = outcome(scenario, self.engine), outcome(scenario, self.node)
            self._found[scenario.name] = list(mismatches(scenario.name, first, second))
        return self._found[scenario.name]

    def unexplained(self, scenario: Scenario) -> list[Mismatch]:
        """The mismatches that no named difference covers."""
        return [
            mismatch
            for mismatch in self.found(scenario)
            if not any(difference.explains(mismatch) for difference in self.differences)
        ]

    def idle_differences(self, catalogue: tuple[Scenario, ...]) -> list[str]:
        """The patterns of named differences that show in no scenario; runs those that have not run."""
        everything = [mismatch for scenario in catalogue for mismatch in self.found(scenario)]
        return [f"{row.node}: {pattern}" for row in self.differences for pattern in row.idle(everything)]
