"""`metainf account` and the line `account` of `status`, against a node that answers from a can with real documents."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from node.cli.account import LISTED, NOBODY_PAID, account, status_line
from node.core.spending import SpendLimits
from tests.cli.conftest import CannedNode
from tests.core.routing import PEERS
from tests.http.test_account import keeper


@pytest.fixture
def told(canned_node: CannedNode, data_dir: Path) -> "Told":
    return Told(canned_node, data_dir)


class Told:
    """Runs the verb on its own: what it says of a document."""

    def __init__(self, node: CannedNode, data_dir: Path) -> None:
        self._node = node
        self._data_dir = data_dir

    def __call__(self, document: object, *arguments: str) -> str:
        self._node.answer("GET", "/account", document)
        result = CliRunner().invoke(account, [*arguments, "--data-dir", str(self._data_dir)], catch_exceptions=False)
        assert result.exit_code == 0
        return result.output


def test_both_sides_are_told_with_whom_and_that_nobody_is_paid(told: Told) -> None:
    out = told(keeper().page())
    for words in (
        "today     used   1 answers, 1000.0 device-seconds, 5 + 7 tokens: 1 owed",
        "          lent   1 answers, 500.0 device-seconds, 40 tokens: 0.5 due",
        "30 days   used   1 answers",
        "limits    none; routing.spend_per_day",
        f"peer      {PEERS[1]}",
        "          used 1 answers, 1000.0 device-seconds: 1 owed; lent 0 answers, 0.0 device-seconds: 0 due",
        NOBODY_PAID,
    ):
        assert words in out, words


def test_limits_are_told_with_what_is_left_and_until_when(told: Told) -> None:
    kept = keeper(SpendLimits(per_day=3.0, per_request=2.5))
    kept.pledge(PEERS[1], 0.25, 5.0)
    kept.refusal(9.0)
    out = told(kept.page())
    assert "routing.spend_per_day = 3, routing.spend_per_request = 2.5, the next answer may cost 1.75" in out
    assert "0.25 pledged to answers under way, 1 prompts refused since the node came up, a new day in" in out


def test_many_peers_are_cut_off_and_counted_and_the_rest_has_no_id(told: Told) -> None:
    page = keeper().page()
    one = page["peers"][0]
    many = page | {"peers": [one | {"peer_id": None}] * (LISTED + 3), "peers_left_out": 4}
    out = told(many)
    assert out.count("peer      the rest") == LISTED
    assert "and 7 more; --json names 23" in out


def test_as_json_it_is_the_nodes_own_document(told: Told) -> None:
    page = keeper().page()
    assert json.loads(told(page, "--json")) == page


def test_a_disk_that_refuses_is_told(told: Told) -> None:
    assert "not on the disk" in told(keeper().page())
    assert "not on the disk" not in told(keeper().page() | {"kept": True})


def test_status_has_a_line_once_there_is_something_to_tell() -> None:
    kept = keeper(SpendLimits(per_day=3.0))
    kept.refusal(5.0)
    line = status_line(kept.facts())
    assert line == "today 1 owed of 1 answers, 0.5 due; 3 a day may be owed; 1 prompts were beyond a limit"
    empty = {"used": {"requests": 0}, "lent": {"requests": 0}}
    assert status_line({"today": empty, "days_30": empty, "limits": {"per_day": 1.0}, "refused": 0}) == ""
    assert status_line({}) == ""
