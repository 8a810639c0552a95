"""The page of the account and its metrics: real documents of a real keeper."""

import json
from typing import Any

import trio
from prometheus_client import CollectorRegistry, generate_latest
from starlette.routing import Router

from node.core.spending import SpendLimits
from node.http.account import AccountMetrics, Facts, account_routes
from node.http.asgi import Message
from node.services.keep_account import AccountKeeper, Terms
from tests.core.routing import PEERS

NOON = 1_800_000_000_000_000


def keeper(limits: SpendLimits | None = None) -> AccountKeeper:
    found = AccountKeeper(
        me=PEERS[0],
        store=None,
        limits=limits or SpendLimits(),
        terms=lambda _: Terms(price=3.6),
        wall=lambda: NOON,
        clock=lambda: 0.0,
    )
    found.over(PEERS[1], 1000.0, begun=True, prompt_tokens=5, output_tokens=7)
    found.lent(PEERS[2], 500.0, 40)
    return found


async def ask(page: Facts | None) -> tuple[int, Any]:
    app = Router(account_routes(page))
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http", "method": "GET", "path": "/account", "root_path": "", "query_string": b"", "headers": [],
    }  # fmt: skip
    with trio.fail_after(1):
        await app(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


async def test_the_page_tells_what_was_used_by_whom() -> None:
    status, told = await ask(keeper().page)
    assert status == 200
    assert told["today"]["used"]["owed"] == 1.0
    assert [each["peer_id"] for each in told["peers"]] == [str(PEERS[1]), str(PEERS[2])]


async def test_a_node_by_itself_says_that_there_is_nothing_to_account_for() -> None:
    status, told = await ask(None)
    assert status == 409
    assert "p2p.enabled" in told["error"]["remedy"]


def scraped(facts: Facts) -> str:
    registry = CollectorRegistry()
    AccountMetrics(facts).register(registry)
    return generate_latest(registry).decode()


def test_both_sides_of_both_windows_and_the_limits_are_scraped() -> None:
    account = keeper(SpendLimits(per_day=2.0))
    account.refusal(1.5)
    text = scraped(account.facts)
    for line in (
        'metainf_account_used_requests{window="today"} 1.0',
        'metainf_account_owed{window="days_30"} 1.0',
        'metainf_account_used_device_seconds{window="today"} 1000.0',
        'metainf_account_due{window="today"} 0.5',
        'metainf_account_lent_device_seconds{window="days_30"} 500.0',
        'metainf_account_limit{limit="per_day"} 2.0',
        "metainf_account_refused_total 1.0",
    ):
        assert f"\n{line}\n" in text, line
    assert 'limit="per_request"' not in text


def test_a_node_by_itself_has_no_figures() -> None:
    assert "metainf_account" not in scraped(dict)
