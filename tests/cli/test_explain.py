"""`metainf explain` and the line `routing` of `status`, against a node that answers from a can with real documents."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from node.cli import explain_words as words
from node.core.experience import Experience
from node.core.explanation import Attempt, explain
from node.http.routing import routing_facts, summary
from tests.cli.conftest import CannedNode
from tests.cli.test_talk import STATUS
from tests.core.routing import PEERS
from tests.fakes.account_book import FakeAccounts, answered, refused, unweighed

Metainf = Callable[..., tuple[int, str, str]]
TOLD: dict[str, Any] = explain(answered()) | {"age_s": 12.5}
LIST: dict[str, Any] = {
    "kept": 3,
    "forgotten": 0,
    "prompts": [summary(each, 20.0) for each in (refused(), unweighed(), answered())],
}


def row(out: str, beginning: str) -> list[str]:
    return next(line for line in out.splitlines() if line.startswith(beginning)).split()


def test_a_prompt_is_explained_with_what_was_foretold_and_what_came(canned_node: CannedNode, metainf: Metainf) -> None:
    canned_node.answer("GET", "/explain/r-1", TOLD)
    code, out, _ = metainf("explain", "r-1")
    assert code == 0
    for told in (
        "prompt    r-1, 12.5 s ago",
        "m for about 256 + 200 tokens, objective latency:0.5,cost:0.5, promised TTFT below 500 ms",
        f"asked     {PEERS[0]} could not be reached",
        f"asked     {PEERS[1]} answered: TTFT 310 ms (foretold 246 ms), TPOT 23.4 ms (foretold 20 ms)",
        "in all 4.5 s (foretold 4.32 s), 180 tokens",
        "why       fits: of those that keep what was promised it costs the swarm least",
        "why       next: who was asked before it did not answer",
    ):
        assert told in out, told
    chosen, failed = row(out, ">"), row(out, "x")
    assert chosen[1:3] == [f"…{str(PEERS[1])[-8:]}", "246"]
    assert {"1/64", "learner", "310", "23.4", "4.5"} <= set(chosen)
    assert {"146", "1/64", "learner"} <= set(failed)
    assert "310" not in failed
    guessed = row(out, "   this node")
    assert {"~2/?", "composite"} <= set(guessed)
    assert "price" not in out  # nobody told one: the column is left out


def test_what_is_told_of_a_candidate_is_in_its_row(canned_node: CannedNode, metainf: Metainf) -> None:
    first = TOLD["candidates"][0] | {
        "price": 0.25, "cached_tokens": 128, "ttft_correction": 1.5, "closed": True, "slots": None,
    }  # fmt: skip
    canned_node.answer("GET", "/explain/r-1", TOLD | {"candidates": [first]})
    out = metainf("explain", "r-1")[1]
    assert {"(closed)", "0.25", "128", "x1.5", "1/?"} <= set(row(out, "x"))


def test_who_gave_the_beginning_of_an_answer_is_told_first(canned_node: CannedNode, metainf: Metainf) -> None:
    broken = Attempt(replica=PEERS[7], reason="best", asked_at=0.0, ttft=0.2, outcome="broken")
    account = answered()
    account.attempts.insert(0, broken)
    told: dict[str, Any] = explain(account) | {"age_s": 1.0}
    earlier = told["attempts"].pop(0)
    canned_node.answer("GET", "/explain/r-1", told | {"earlier": [earlier]})
    lines = metainf("explain", "r-1")[1].splitlines()
    assert lines[2] == f"before    {PEERS[7]} broke off: TTFT 200 ms"
    assert lines[3].startswith("asked")


def test_a_prompt_that_nothing_was_foretold_of_is_explained_too(canned_node: CannedNode, metainf: Metainf) -> None:
    canned_node.answer("GET", "/explain/r-2", explain(unweighed()) | {"age_s": 1.0})
    out = metainf("explain", "r-2")[1]
    assert f"asked     {PEERS[0]} is still at it" in out
    assert "via: the client named it" in out
    assert "nothing was foretold" in out
    canned_node.answer("GET", "/explain/r-3", explain(refused()) | {"age_s": 1.0})
    out = metainf("explain", "r-3")[1]
    assert "refused   nobody was asked: no_replica" in out
    assert "nothing was foretold" not in out


def test_the_latest_prompts_are_listed(canned_node: CannedNode, metainf: Metainf) -> None:
    canned_node.answer("GET", "/explain?last=10", LIST)
    canned_node.answer("GET", "/explain?last=3", LIST)
    code, out, _ = metainf("explain")
    assert (code, metainf("explain", "--last", "3")[1]) == (0, out)
    assert row(out, "r-3")[1:] == ["13", "s", "no_replica", "0", "refused"]
    assert row(out, "r-2")[4:] == ["via", "1", "running"]
    assert {"next", "2", "answered", "246", "310", "4.32"} <= set(row(out, "r-1"))
    canned_node.answer("GET", "/explain?last=10", {"kept": 0, "forgotten": 0, "prompts": []})
    assert metainf("explain")[1] == "no prompt was decided about yet\n"


def test_as_json_it_is_the_node_s_own_document(canned_node: CannedNode, metainf: Metainf) -> None:
    canned_node.answer("GET", "/explain/r-1", TOLD)
    canned_node.answer("GET", "/explain?last=10", LIST)
    assert json.loads(metainf("explain", "r-1", "--json")[1]) == TOLD
    assert json.loads(metainf("explain", "--json")[1]) == LIST


def test_ids_with_odd_characters_reach_the_node_whole(canned_node: CannedNode, metainf: Metainf) -> None:
    canned_node.answer("GET", "/explain/a%2Fb%3Fc%2541%23", TOLD)
    assert metainf("explain", "a/b?c%41#")[0] == 0


def test_what_the_node_says_against_it_is_passed_on_with_what_to_do(canned_node: CannedNode, metainf: Metainf) -> None:
    error = {"message": "nothing is known of that prompt; it never came here", "remedy": "its id is in `x-request-id`"}
    canned_node.answer("GET", "/explain/r-9", {"error": error}, status=404)
    code, out, err = metainf("explain", "r-9")
    assert (code, out) == (69, "")
    assert "never came here" in err
    assert "do: its id is in `x-request-id`" in err


def test_without_a_node_it_says_how_to_start_one(metainf: Metainf) -> None:
    for verb in (["explain"], ["explain", "r-1"]):
        code, _, err = metainf(*verb)
        assert (code, "metainf up" in err) == (69, True)


@pytest.mark.parametrize("wrong", [["r-1", "--last", "3"], ["--last", "0"], ["--last", "201"], ["a", "b"]])
def test_wrong_usage_is_told_before_the_node_is_asked(wrong: list[str], metainf: Metainf) -> None:
    assert metainf("explain", *wrong)[0] == 2


def test_no_word_of_clients_or_peers_steers_the_terminal(canned_node: CannedNode, metainf: Metainf) -> None:
    evil = "\x1b]0;x\x07[red]\n"
    told = TOLD | {"request_id": evil, "wanted": TOLD["wanted"] | {"model": evil}}
    canned_node.answer("GET", "/explain/r-1", told)
    listed = LIST["prompts"][2] | {"request_id": evil, "reason": evil}
    canned_node.answer("GET", "/explain?last=10", LIST | {"prompts": [listed]})
    for out in (metainf("explain", "r-1")[1], metainf("explain")[1]):
        assert "\x1b" not in out
        assert "\x07" not in out
        assert "?]0;x?[red]?" in out  # not taken for markup either


def test_status_tells_how_well_answers_are_foretold(canned_node: CannedNode, metainf: Metainf) -> None:
    experience = Experience(key=bytes(16))

    def line(resumed: int = 0) -> str:
        facts = routing_facts(experience, FakeAccounts(), resumed=resumed, clock=lambda: 90.0)
        canned_node.answer("GET", "/status", STATUS | {"routing": facts})
        out = metainf("status")[1]
        return next(each for each in out.splitlines() if each.startswith("routing"))

    assert "nothing to hold against what was foretold yet" in line()
    experience.tpot.add(-0.0953, 0.1, 0.0)
    assert "further tokens foretold within 10% (mean, 9% faster on the whole), 100% in their" in line()
    assert "first tokens" not in line()
    for _ in range(60):
        experience.ttft.add(0.3, 0.001, 0.0)
    assert "DRIFTED: first tokens (x1.35) come no longer as foretold, `metainf doctor` says" in line(3)
    assert "3 answers went on elsewhere" in line(3)
    canned_node.answer("GET", "/status", STATUS)
    assert "routing" not in metainf("status")[1]  # a node by itself


@pytest.mark.parametrize(
    ("value", "told"),
    [(None, ""), (0.0, "0 ms"), (0.000123, "0.123 ms"), (0.9994, "999 ms"), (0.9996, "1 s"), (75.25, "75.2 s"),
     (999.6, "17 min")],
)  # fmt: skip
def test_times_have_the_unit_that_fits(value: float | None, told: str) -> None:
    assert words.seconds(value) == told


def test_a_prompt_that_two_were_asked_at_once_is_explained(canned_node: CannedNode, metainf: Metainf) -> None:
    account = answered()
    first, second = account.attempts
    first.outcome, second.reason = "outrun", "hedge"
    canned_node.answer("GET", "/explain/r-1", explain(account) | {"age_s": 1.0})
    out = metainf("explain", "r-1")[1]
    assert f"asked     {PEERS[0]} was left: another was first" in out
    assert "why       hedge: who was asked before it was late with the first byte" in out
    assert row(out, ">")[1] == f"…{str(PEERS[1])[-8:]}"
    account.attempts.reverse()  # the second one came to nothing
    canned_node.answer("GET", "/explain/r-1", explain(account) | {"age_s": 1.0})
    assert row(metainf("explain", "r-1")[1], ">")[1] == f"…{str(PEERS[1])[-8:]}"


def test_status_tells_of_late_first_tokens_that_were_asked_for_elsewhere(
    canned_node: CannedNode, metainf: Metainf
) -> None:
    facts = routing_facts(Experience(key=bytes(16)), FakeAccounts(), resumed=0, hedged=3, hedges_won=2)
    canned_node.answer("GET", "/status", STATUS | {"routing": facts})
    assert "3 late first tokens asked for elsewhere as well, 2 came from there" in metainf("status")[1]
