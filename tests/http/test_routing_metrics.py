from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from node.core.experience import Experience
from node.core.router import LeastOutstanding
from node.core.wanted import Wanted
from node.http.routing import routing_facts
from node.http.routing_metrics import REASONS, RoutingMetrics
from tests.core.routing import Stage, curve
from tests.fakes.account_book import FakeAccounts
from tests.fakes.wish import Plain


def scraped(facts: dict[str, Any]) -> str:
    registry = CollectorRegistry()
    RoutingMetrics(lambda: facts).register(registry)
    return generate_latest(registry).decode()


def facts(decisions: dict[str, int], experience: Experience | None = None) -> dict[str, Any]:
    accounts = FakeAccounts(decisions=decisions)
    return routing_facts(experience or Experience(key=bytes(16)), accounts, resumed=4, clock=lambda: 60.0)


def test_predicted_against_observed_is_scraped_with_its_alarm() -> None:
    experience = Experience(key=bytes(16))
    for _ in range(60):
        experience.ttft.add(0.5, 0.01, 0.0)
    experience.tpot.add(-0.1, 0.01, 0.0)
    text = scraped(facts({"best": 7}, experience))
    for line in (
        'metainf_forecast_answers_total{quantity="ttft"} 60.0',
        'metainf_forecast_error{quantity="ttft"} 0.5',
        'metainf_forecast_bias{quantity="tpot"} -0.1',
        'metainf_forecast_coverage{quantity="tpot"} 1.0',
        'metainf_forecast_drifted{quantity="ttft"} 1.0',
        'metainf_forecast_drifted{quantity="tpot"} 0.0',
        'metainf_route_decisions_total{reason="best"} 7.0',
        "metainf_route_resumed_total 4.0",
    ):
        assert f"\n{line}\n" in text, line


def test_before_the_first_answer_nothing_is_said_of_how_well_it_was_foretold() -> None:
    text = scraped(facts({}))
    assert "metainf_forecast_error{" not in text
    assert "metainf_forecast_drifted{" not in text
    assert 'metainf_forecast_answers_total{quantity="tpot"} 0.0' in text
    assert "metainf_" not in scraped({})  # a node by itself


def test_reasons_are_few_whatever_they_are_called() -> None:
    text = scraped(facts({"best": 1, 'x"\n' * 100: 2, "no such": 3}))
    assert 'metainf_route_decisions_total{reason="other"} 5.0' in text
    series = [line for line in text.splitlines() if line.startswith("metainf_route_decisions_total{")]
    assert len(series) == len(REASONS) + 1


def test_the_first_reasons_of_the_policies_are_among_those_told() -> None:
    stage = Stage([curve(), curve()])
    stage.idle(0.0)
    route = LeastOutstanding().choose(stage.candidates(), Plain(Wanted()), now=0.0, luck=lambda: 0.5)
    assert {stage.route().choices[0].reason, route.choices[0].reason} <= set(REASONS)


def test_late_first_bytes_that_were_asked_for_elsewhere_are_counted() -> None:
    text = scraped(facts({}) | {"hedged": 3, "hedges_won": 2})
    assert "\nmetainf_route_hedged_total 3.0\n" in text
    assert "\nmetainf_route_hedges_won_total 2.0\n" in text
