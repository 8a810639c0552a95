"""A swarm of two daemons over a stub engine: prompts that nobody can answer, and what answers are owed for.

Real processes and libp2p on real sockets. A has no engine; B's loads for a while, runs one prompt at a time, holds
2,048 tokens and asks a price.
"""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.children import eventually
from tests.e2e.daemon import Daemon, metainf, node_over_stub, running_node
from tests.e2e.test_swarm import ASK_S, MEET_S, wait_until_known
from tests.fakes.stub_launch import MODEL

pytestmark = pytest.mark.slow

CONTEXT = 2048  # what the stub lists
LOADS_S = 8.0
SPEND = "[routing]\nspend_per_day = 1000.0\nspend_per_request = 1.0\n"


def post(at: Daemon, *, model: str = MODEL, tokens: int = 4, **more: object) -> httpx2.Response:
    body = {"model": model, "prompt": "a b", "max_tokens": tokens, **more}
    return httpx2.post(f"{at.url}/v1/completions", json=body, timeout=ASK_S)


def error(response: httpx2.Response) -> dict[str, Any]:
    return dict(response.json()["error"])


def account(at: Daemon) -> dict[str, Any]:
    return dict(json.loads(metainf(at, "account", "--json")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("refusals")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Daemon]:
    with node_over_stub(
        folder,
        name="b",
        engine="max_running = 1\nmax_queued = 1\n",
        config="[p2p]\nprice_per_hour = 3.6\n",
        slow_start=LOADS_S,
        token_delay=0.05,
    ) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def entry(folder: Path, server: Daemon) -> Iterator[Daemon]:
    """A, which knows B from the first moment that the API answers 503 for its model."""
    with running_node(folder, "--no-engine", "--join", server.address, config=SPEND, name="a") as daemon:
        yield daemon


def test_a_model_that_is_still_loading_is_known_with_its_state(entry: Daemon, server: Daemon) -> None:
    refused = eventually(
        lambda: found if error(found := post(entry)).get("code") == "loading" else None,
        within=LOADS_S,
        what="the model's name",
        children=[entry.child, server.child],
    )
    assert refused.status_code == 503
    assert "one node is loading it" in error(refused)["message"]
    assert refused.headers["retry-after"] == "5"
    assert f"is loading {MODEL}" in metainf(entry, "peers")
    wait_until_known(entry, server, within=MEET_S)
    assert post(entry).status_code == 200


def test_a_prompt_beyond_every_context_is_refused_without_asking_anybody(entry: Daemon, server: Daemon) -> None:
    wait_until_known(entry, server, within=MEET_S)
    before = server.status()["requests_of_peers"]
    refused = post(entry, prompt=[7] * (CONTEXT + 1))
    assert refused.status_code == 400
    told = error(refused)
    assert (told["type"], told["code"], told["param"]) == ("invalid_request_error", "context_length_exceeded", "prompt")
    assert f"{CONTEXT} tokens" in told["message"]
    assert server.status()["requests_of_peers"] == before


def test_a_model_that_nobody_has_is_404_with_what_there_is(entry: Daemon, server: Daemon) -> None:
    wait_until_known(entry, server, within=MEET_S)
    refused = post(entry, model="nobody")
    assert refused.status_code == 404
    assert MODEL in error(refused)["message"]


def test_who_is_full_is_429_and_when_it_says_there_is_room(entry: Daemon, server: Daemon) -> None:
    wait_until_known(entry, server, within=MEET_S)
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda _: post(entry, tokens=60), range(5)))
    by_status = {answer.status_code: answer for answer in answers}
    assert set(by_status) == {200, 429}, [answer.text for answer in answers]
    assert error(by_status[429])["type"] == "overloaded"
    wait = int(by_status[429].headers["retry-after"])
    assert 1 <= wait <= 60
    time.sleep(wait)
    assert post(entry).status_code == 200


def test_what_was_owed_is_told_on_both_sides_and_outlives_a_run(entry: Daemon, server: Daemon, folder: Path) -> None:
    wait_until_known(entry, server, within=MEET_S)
    assert post(entry, tokens=20).status_code == 200  # a second at a thousandth of a unit
    ours, theirs = account(entry)["today"]["used"], account(server)["today"]["lent"]
    assert ours["requests"] == theirs["requests"] > 0
    assert ours["owed"] == pytest.approx(theirs["due"], rel=0.5)
    assert ours["owed"] >= 0.001
    assert server.peer_id in metainf(entry, "account")
    assert "account   today" in metainf(entry, "status")
    assert "metainf_account_owed" in entry.metrics()
    config = SPEND.replace("1000.0", "0.001")
    with running_node(folder, "--no-engine", "--join", server.address, config=SPEND, name="c") as other:
        wait_until_known(other, server, within=MEET_S)
        assert post(other, tokens=40).status_code == 200
        spent = account(other)["today"]["used"]
    with running_node(folder, "--no-engine", "--join", server.address, config=config, name="c") as again:
        wait_until_known(again, server, within=MEET_S)
        assert account(again)["today"]["used"] == spent
        refused = post(again)
        assert (refused.status_code, error(refused)["code"]) == (429, "insufficient_quota")
        assert "routing.spend_per_day" in error(refused)["message"]
