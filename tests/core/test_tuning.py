"""The tuner's life: the table is complete and closed."""

from itertools import product
from pathlib import Path

import pytest

from node.core.tuning import ENGAGED, TRANSITIONS, ImpossibleEvent, Phase, TuningEvent, after, diagram


@pytest.mark.parametrize(("phase", "event"), list(product(Phase, TuningEvent)))
def test_every_pair_is_either_in_the_table_or_refused(phase: Phase, event: TuningEvent) -> None:
    if (phase, event) in TRANSITIONS:
        assert after(phase, event) is TRANSITIONS[phase, event]
    else:
        with pytest.raises(ImpossibleEvent, match=event.value):
            after(phase, event)


def test_every_phase_but_off_is_reached_from_away_and_leads_back_to_it() -> None:
    def reach(start: Phase) -> set[Phase]:
        seen, edge = {start}, {start}
        while edge:
            edge = {new for (old, _), new in TRANSITIONS.items() if old in edge} - seen
            seen |= edge
        return seen

    everything = set(Phase) - {Phase.OFF}
    assert reach(Phase.AWAY) == everything
    assert all(Phase.AWAY in reach(phase) for phase in everything)


def test_every_event_has_a_row() -> None:
    assert {event for _, event in TRANSITIONS} == set(TuningEvent)


def test_a_switch_is_begun_only_by_a_turn_and_a_strategy_is_good_only_after_it_was_verified() -> None:
    assert {old for (old, _), new in TRANSITIONS.items() if new is Phase.SWITCHING} == {Phase.WAITING}
    assert {old for (old, event) in TRANSITIONS if event is TuningEvent.CONFIRMED} == {Phase.VERIFYING}
    assert Phase.DECIDING not in ENGAGED
    assert Phase.SWITCHING in ENGAGED


def test_the_diagram_in_the_docs_is_the_table_s_own() -> None:
    assert diagram().count("-->") == len(TRANSITIONS) + 2
    page = (Path(__file__).parents[2] / "docs" / "tuning.md").read_text()
    assert diagram().strip() in page
