"""`metainf doctor` beside a node that runs: what it says of the forecasts of its routing."""

import json
from collections.abc import Callable
from typing import Any

from node.core.calibration import SLOWER
from node.core.experience import Experience
from node.http.routing import routing_facts
from tests.cli.conftest import CannedNode
from tests.cli.test_talk import STATUS
from tests.fakes.account_book import FakeAccounts

Metainf = Callable[..., tuple[int, str, str]]


def test_forecasts_that_have_drifted_are_a_warning_with_something_to_do(
    canned_node: CannedNode, metainf: Metainf
) -> None:
    experience = Experience(key=bytes(16))

    def found() -> dict[str, Any]:
        facts = routing_facts(experience, FakeAccounts(), resumed=0, clock=lambda: 300.0)
        canned_node.answer("GET", "/status", STATUS | {"routing": facts})
        findings = json.loads(metainf("doctor", "--json")[1])["findings"]
        return next(each for each in findings if each["subject"] == "forecasts")

    assert found()["verdict"] == "ok"
    for _ in range(60):
        experience.ttft.add(0.5, 0.001, 0.0)
    drifted = found()
    assert (drifted["verdict"], drifted["remedy"]) == ("warning", SLOWER)
    assert drifted["finding"] == "TTFT is 1.65 times what is foretold, 0% in 90 % intervals, for 5 min"


def test_without_a_swarm_there_is_nothing_to_find(canned_node: CannedNode, metainf: Metainf) -> None:
    canned_node.answer("GET", "/status", STATUS)  # no block of routing
    findings = json.loads(metainf("doctor", "--json")[1])["findings"]
    assert [each["verdict"] for each in findings if each["subject"] == "forecasts"] == ["ok"]
