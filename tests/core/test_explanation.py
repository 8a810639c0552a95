"""Decisions in words: what was foretold, of whom, why, and what came; bounded."""

import json

from node.core.explanation import CANDIDATES, DECISIONS, EARLIER, NAMED, REFUSED, Accounts, Attempt, explain
from node.core.router import Choice, Route
from tests.core.routing import PEERS, Stage, curve


def test_an_account_tells_the_candidates_the_choice_and_what_came() -> None:
    stage = Stage([curve(0.1, 0.01), curve(1.0, 0.1), None])
    stage.idle(0.0)
    accounts = Accounts()
    account = accounts.open("r-1", 0.0)
    accounts.decided(account, stage.route())
    account.attempts.append(
        Attempt(replica=PEERS[0], reason="best", asked_at=0.0, ttft=0.12, tpot=0.011, outcome="answered")
    )
    told = explain(account)
    assert json.loads(json.dumps(told)) == told
    assert told["choices"][0] == {"replica": str(PEERS[0]), "reason": "best"}
    assert told["attempts"][0]["ttft_s"] == 0.12
    first = told["candidates"][0]
    assert first["replica"] == str(PEERS[0])
    assert first["source"] == "learner"
    assert 0.1 < first["ttft_s"] < 0.2
    assert first["ttft_factor_90"] > 1.0
    assert first["ttft_correction"] == 1.0
    assert {each["source"] for each in told["candidates"]} == {"learner", "composite"}
    assert told["wanted"]["objective"] == "latency:1"


def test_a_prompt_without_a_choice_has_an_account_too() -> None:
    accounts = Accounts()
    account = accounts.open("r-1", 0.0)
    assert explain(account)["candidates"] == []
    accounts.decided(account, Route(choices=(), reason="no_replica"))
    assert explain(account)["refused"] == "no_replica"
    assert accounts.get("r-2") is None


def test_of_two_prompts_with_one_id_the_later_is_told_of() -> None:
    accounts = Accounts()
    first, second = accounts.open("r-1", 0.0), accounts.open("r-1", 1.0)
    accounts.decided(first, Route(choices=(), reason="late"))
    assert accounts.get("r-1") is second
    assert len(accounts) == 1


def test_how_many_are_kept_is_bounded_by_number_and_by_what_they_hold() -> None:
    accounts = Accounts()
    for number in range(DECISIONS + 10):
        accounts.open(str(number), 0.0)
    assert len(accounts) == DECISIONS
    assert accounts.get("9") is None
    assert accounts.forgotten == 10
    stage = Stage([curve()] * 1000)
    stage.idle(0.0)
    route = stage.route()
    for number in range(80):
        accounts.decided(accounts.open(f"large-{number}", 0.0), route)
    assert len(accounts) <= CANDIDATES // 1000
    account = accounts.get("large-79")
    assert account is not None
    assert len(explain(account)["candidates"]) == NAMED


def test_the_latest_come_first_and_no_more_than_are_asked_for() -> None:
    accounts = Accounts()
    for number in range(5):
        accounts.open(str(number), float(number))
    accounts.open("1", 9.0)
    assert [each.request_id for each in accounts.last(3)] == ["1", "4", "3"]
    assert len(accounts.last(99)) == 5
    assert accounts.forgotten == 0


def test_prompts_are_counted_once_by_the_reason_of_their_first_choice() -> None:
    accounts = Accounts()
    account = accounts.open("r-1", 0.0)
    accounts.decided(account, Route(choices=(), reason="no_replica"))
    accounts.decided(account, Route(choices=(Choice(PEERS[0], "knock"),)))
    accounts.decided(accounts.open("r-2", 0.0), Route(choices=(Choice(PEERS[0], "best"), Choice(PEERS[1], "next"))))
    assert accounts.decisions == {REFUSED: 1, "best": 1}


def test_an_answer_that_goes_on_elsewhere_keeps_who_gave_its_beginning_within_bounds() -> None:
    accounts = Accounts()
    for number in range(EARLIER + 2):
        account = accounts.open("r-1", float(number))
        account.attempts.append(Attempt(replica=PEERS[number], reason="best", asked_at=0.0, outcome="broken"))
    told = explain(accounts.open("r-1", 99.0))
    assert told["attempts"] == []
    assert [each["replica"] for each in told["earlier"]] == [str(peer) for peer in PEERS[2 : EARLIER + 2]]
    assert told["earlier"][0]["outcome"] == "broken"


def test_who_answers_is_the_last_that_was_not_outrun_by_another() -> None:
    account = Accounts().open("r-1", 0.0)
    assert account.last is None
    for replica, outcome in zip(PEERS, ("refused", "answered", "outrun"), strict=False):
        account.attempts.append(Attempt(replica=replica, reason="best", asked_at=0.0, outcome=outcome))
    assert account.last is account.attempts[1]
    account.attempts[1].outcome, account.attempts[2].outcome = "outrun", "running"
    assert account.last is account.attempts[2]
