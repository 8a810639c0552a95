from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from node.core.tuning import Phase
from node.http.tuner_metrics import LABEL_CHARS, TunerMetrics
from tests.fakes.tuner_view import FACTS

OWNER: dict[str, Any] = {
    "state": "slower", "why": "watts", "reason": "", "until": None, "cap": 4, "watts": 250.0, "temperature_c": None,
    "others_bytes": None, "blind": [], "yields": 3, "yielded_s": 7.5,
}  # fmt: skip


def scraped(tuner: dict[str, Any], owner: dict[str, Any]) -> str:
    registry = CollectorRegistry()
    TunerMetrics(lambda: tuner, lambda: owner).register(registry)
    return generate_latest(registry).decode()


def test_what_was_foretold_observed_and_lost_is_scraped() -> None:
    text = scraped(FACTS, OWNER)
    for line in (
        'metainf_strategy_info{strategy="prefix:on"} 1.0',
        'metainf_tuner_phase{phase="verifying"} 1.0',
        'metainf_tuner_phase{phase="steady"} 0.0',
        'metainf_tuner_switches_total{result="done"} 2.0',
        'metainf_tuner_switches_total{result="failed"} 1.0',
        "metainf_tuner_rollbacks_total 1.0",
        "metainf_tuner_predicted_gain 0.2231",
        "metainf_tuner_observed_gain_low 0.05",
        "metainf_tuner_regret 0.01",
        "metainf_tuning_lost_seconds_total 12.5",
        "metainf_tuner_banned 1.0",
        'metainf_owner_state{state="slower"} 1.0',
        "metainf_owner_yields_total 3.0",
        "metainf_device_power_watts 250.0",
    ):
        assert f"\n{line}\n" in text, line
    assert "temperature" not in text.replace("too hot", "")


def test_what_is_not_known_yet_is_left_out() -> None:
    text = scraped({}, {})
    assert "gain" not in text
    assert "regret" not in text
    assert "strategy_info" not in text


def test_labels_are_few_and_short_whatever_a_strategy_is_called() -> None:
    text = scraped(FACTS | {"strategy": "x" * 10_000, "phase": "no such phase"}, OWNER | {"state": "no such state"})
    series = [line for line in text.splitlines() if not line.startswith("#")]
    assert max(map(len, series)) < LABEL_CHARS + 64
    assert sum(line.startswith("metainf_tuner_phase{") for line in series) == len(Phase)
    assert "no such" not in text
