"""A swarm of whole daemons over stub engines: prompts asked at one node, answered by another, whoever dies.

Real processes and libp2p on real sockets. A is the node that is asked; B and C serve.
"""

import json
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.children import eventually
from tests.e2e.daemon import Daemon, metainf, node_over_stub, running_node
from tests.e2e.engine import gauge
from tests.fakes.stub_launch import MODEL

pytestmark = pytest.mark.slow

MEET_S = 30.0  # for daemons to start and to know each other, on a busy machine
BACK_S = 10.0  # from a node's start to its first part in the swarm's work
TOLD_S = 2.0  # from a death to the error at the client
IDLE_S = 1.0  # from a client's leaving to the end of its work at the peer's engine
ASK_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Swarm:
    """A, and those that serve, by peer id."""

    entry: Daemon
    servers: dict[str, Daemon]


@contextmanager
def swarm_of(folder: Path, *, servers: int = 2, **wrong: Any) -> Iterator[Swarm]:
    """Start A without an engine and `servers` nodes over stubs that join through it; enter when A knows them."""
    with ExitStack() as running:
        entry = running.enter_context(running_node(folder, "--no-engine", name="a"))
        serving = [
            running.enter_context(node_over_stub(folder, "--join", entry.address, name=name, **wrong))
            for name in "bcdefgh"[:servers]
        ]
        swarm = Swarm(entry=entry, servers={daemon.peer_id: daemon for daemon in serving})
        wait_until_known(entry, *serving)
        yield swarm


def wait_until_known(at: Daemon, *servers: Daemon, within: float = MEET_S, model: str = MODEL) -> None:
    """Wait until a node knows that these serve the model."""
    wanted = {daemon.peer_id for daemon in servers}
    children = [at.child, *(daemon.child for daemon in servers)]
    eventually(lambda: wanted <= serving_peers(at, model), within=within, what="each other", children=children)


def serving_peers(at: Daemon, model: str = MODEL) -> set[str]:
    return {name for name, peer in at.peers().items() if any(offer["name"] == model for offer in peer["models"])}


def post(at: Daemon, *, tokens: int = 4, **more: object) -> httpx2.Response:
    body = {"model": MODEL, "prompt": "a b", "max_tokens": tokens, **more}
    return httpx2.post(f"{at.url}/v1/completions", json=body, timeout=ASK_S)


@contextmanager
def streaming(at: Daemon, *, tokens: int, **more: object) -> Iterator[tuple[httpx2.Response, Iterator[str]]]:
    body = {"model": MODEL, "prompt": "a b", "max_tokens": tokens, "stream": True, **more}
    with httpx2.stream("POST", f"{at.url}/v1/completions", json=body, timeout=ASK_S) as response:
        yield response, (line for line in response.iter_lines() if line)


def served_by(response: httpx2.Response) -> str:
    return response.headers["x-metainf-node"]


def running_at(server: Daemon) -> float:
    page = server.metrics()
    assert "vllm:num_requests_running" in page
    return gauge(page, "vllm:num_requests_running") + gauge(page, "vllm:num_requests_waiting")


def busy_server(swarm: Swarm) -> str:
    """Wait until one of the servers works; return its peer id."""
    return eventually(
        lambda: next((name for name, daemon in swarm.servers.items() if running_at(daemon)), None),
        within=ASK_S,
        what="a prompt at a server",
        children=[swarm.entry.child],
    )


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """A swarm in which nobody dies."""
    with swarm_of(tmp_path_factory.mktemp("calm"), token_delay=0.02) as swarm:
        yield swarm


def test_a_prompt_is_answered_by_a_node_that_serves_it_and_the_client_is_told_which(calm: Swarm) -> None:
    response = post(calm.entry)
    assert response.json()["choices"][0]["text"] == "t0 t1 t2 t3 "
    assert served_by(response) in calm.servers
    assert response.headers["x-metainf-attempts"] == "1"
    assert response.headers["x-metainf-model"] == MODEL


def test_the_command_line_shows_the_swarm_and_asks_a_peer_by_name(calm: Swarm) -> None:
    status = calm.entry.status()
    assert status["peers"] == {"connected": 2, "known": 2}
    assert [model["id"] for model in json.loads(metainf(calm.entry, "models", "--json"))["data"]] == [MODEL]
    for name in calm.servers:
        body = {"model": MODEL, "prompt": "a", "max_tokens": 2}
        via = httpx2.post(f"{calm.entry.url}/v1/completions", json=body, headers={"x-metainf-via": name}, timeout=ASK_S)
        assert served_by(via) == name
        assert metainf(calm.entry, "ask", "a b", "--via", name, "--max-tokens", "3").strip() == "t0 t1 t2"


def test_servers_ask_their_own_engine_first(calm: Swarm) -> None:
    for name, daemon in calm.servers.items():
        response = post(daemon)
        assert (served_by(response), response.headers["x-metainf-route-reason"]) == (name, "local")


def test_64_streams_over_two_servers_come_whole_and_in_order(calm: Swarm) -> None:
    def one(_: int) -> tuple[str, str]:
        with streaming(calm.entry, tokens=40) as (response, lines):
            events = [json.loads(line.removeprefix("data: ")) for line in lines if line != "data: [DONE]"]
        return served_by(response), "".join(event["choices"][0]["text"] for event in events if event["choices"])

    with ThreadPoolExecutor(64) as pool:
        told = list(pool.map(one, range(64)))
    whole = "".join(f"t{number} " for number in range(40))
    assert [text for _, text in told] == [whole] * 64
    shares = {name: sum(by == name for by, _ in told) for name in calm.servers}
    # An engine that no load slows need not share evenly.
    assert min(shares.values()) >= 8, f"one server was spared: {shares}"


def test_a_fresh_node_with_one_address_has_a_routed_answer_in_10_s(calm: Swarm, tmp_path: Path) -> None:
    began = time.monotonic()
    with running_node(tmp_path, "--no-engine", "--join", calm.entry.address, name="fresh") as fresh:
        eventually(lambda: post(fresh).status_code == 200, within=BACK_S, what="an answer", children=[fresh.child])
        assert time.monotonic() - began < BACK_S
        assert fresh.peers().keys() == {calm.entry.peer_id, *calm.servers}


def test_a_client_that_leaves_ends_the_work_at_the_peer(calm: Swarm) -> None:
    with streaming(calm.entry, tokens=2000) as (response, lines):
        next(lines)
        server = calm.servers[served_by(response)]
        assert running_at(server) == 1
    began = time.monotonic()
    eventually(lambda: running_at(server) == 0, within=ASK_S, what="an idle engine")
    assert time.monotonic() - began < IDLE_S


def test_a_client_that_leaves_in_prefill_ends_the_work_at_the_peer(tmp_path: Path) -> None:
    with swarm_of(tmp_path, servers=1, prefill_delay=6.0) as swarm:
        (server,) = swarm.servers.values()
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(f"{swarm.entry.url}/v1/completions", json={"model": MODEL, "prompt": "a"}, timeout=2.0)
        began = time.monotonic()
        eventually(lambda: running_at(server) == 0, within=ASK_S, what="an idle engine")
        assert time.monotonic() - began < IDLE_S


def test_a_server_killed_before_its_first_byte_is_replaced_unseen(tmp_path: Path) -> None:
    with swarm_of(tmp_path, prefill_delay=3.0) as swarm, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, swarm.entry)
        victim = busy_server(swarm)
        swarm.servers[victim].signal(signal.SIGKILL)
        response = answer.result(ASK_S)
        assert response.status_code == 200
        assert response.json()["choices"][0]["text"] == "t0 t1 t2 t3 "
        assert served_by(response) != victim
        assert response.headers["x-metainf-attempts"] == "2"
        eventually(lambda: victim not in serving_peers(swarm.entry), within=BACK_S, what="the end of a ghost")


def test_a_server_killed_in_mid_stream_is_replaced_and_the_client_gets_every_token_once(tmp_path: Path) -> None:
    with (
        swarm_of(tmp_path, token_delay=0.05) as swarm,
        streaming(swarm.entry, tokens=60) as (response, lines),
    ):
        first = next(lines)
        swarm.servers[served_by(response)].signal(signal.SIGKILL)
        events = [json.loads(line.removeprefix("data: ")) for line in (first, *lines) if line != "data: [DONE]"]
        texts = [choice["text"] for event in events for choice in event["choices"]]
        assert "".join(texts) == "".join(f"t{number} " for number in range(60))
        assert [event["metainf"] for event in events if "metainf" in event] == [{"resumed": 1}]
        requests = swarm.entry.status()["requests"]
        assert (requests["resumed"], requests["failed"]) == (1, 0)


def test_where_nobody_could_go_on_a_server_killed_in_mid_stream_is_told_of_at_once(tmp_path: Path) -> None:
    with (
        swarm_of(tmp_path, token_delay=0.05) as swarm,
        streaming(swarm.entry, tokens=1000, frequency_penalty=0.5) as (response, lines),
    ):
        next(lines)
        swarm.servers[served_by(response)].signal(signal.SIGKILL)
        began = time.monotonic()
        *_, last = lines
        assert time.monotonic() - began < TOLD_S
        assert "error" in json.loads(last.removeprefix("data: "))


def test_a_frozen_server_freezes_nobody(tmp_path: Path) -> None:
    with swarm_of(tmp_path) as swarm:
        frozen = next(iter(swarm.servers.values()))
        frozen.signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(lambda _: post(swarm.entry), range(8)))
            assert [answer.status_code for answer in answers] == [200] * 8
            assert frozen.peer_id not in {served_by(answer) for answer in answers}
            assert time.monotonic() - began < 15.0
            assert post(swarm.entry).elapsed.total_seconds() < TOLD_S  # by now nobody asks it first
        finally:
            frozen.signal(signal.SIGCONT)


def test_without_the_bootstrap_all_goes_on_and_a_restarted_node_finds_its_way_back(tmp_path: Path) -> None:
    with ExitStack() as running:
        bootstrap = running.enter_context(running_node(tmp_path, "--bootstrap-only", name="bootstrap"))
        entry = running.enter_context(running_node(tmp_path, "--no-engine", "--join", bootstrap.address, name="a"))
        one = running.enter_context(node_over_stub(tmp_path, "--join", bootstrap.address, name="b"))
        first_life = running.enter_context(ExitStack())
        two = first_life.enter_context(node_over_stub(tmp_path, "--join", bootstrap.address, name="c"))
        wait_until_known(entry, one, two)
        wait_until_known(two, one)
        bootstrap.signal(signal.SIGKILL)
        assert post(entry).status_code == 200
        name = two.peer_id
        time.sleep(2)  # what a node remembers is written down a moment after it has proved good
        two.signal(signal.SIGKILL)
        eventually(lambda: serving_peers(entry) == {one.peer_id}, within=BACK_S, what="the end of a ghost")
        first_life.close()
        # The same folder, hence the same identity; and nobody to join through but those that it remembers.
        began = time.monotonic()
        again = running.enter_context(node_over_stub(tmp_path, name="c"))
        assert again.peer_id == name
        wait_until_known(entry, again, within=BACK_S)
        via = httpx2.post(
            f"{entry.url}/v1/completions",
            json={"model": MODEL, "prompt": "a", "max_tokens": 1},
            headers={"x-metainf-via": name},
            timeout=ASK_S,
        )
        assert (via.status_code, served_by(via)) == (200, name)
        assert time.monotonic() - began < BACK_S
        assert list(entry.peers()).count(name) == 1


def test_whoever_is_not_to_be_served_is_told_so_politely(tmp_path: Path) -> None:
    with ExitStack() as running:
        entry = running.enter_context(running_node(tmp_path, "--no-engine", name="a"))
        closed = running.enter_context(
            node_over_stub(
                tmp_path, "--join", entry.address, "--set", f"p2p.serve=everybody,!{entry.peer_id}", name="b"
            )
        )
        wait_until_known(entry, closed)
        refused = post(entry)
        assert refused.status_code == 403
        assert refused.json()["error"]["code"] == "not_served"
        assert post(closed).status_code == 200  # its own are served


def test_a_leaving_node_is_gone_at_once_and_what_runs_there_ends_well(tmp_path: Path) -> None:
    with swarm_of(tmp_path, token_delay=0.05) as swarm:
        text: list[str] = []
        begun = threading.Event()

        def one() -> None:
            with streaming(swarm.entry, tokens=60) as (response, lines):
                text.append(served_by(response))
                begun.set()
                text.extend(lines)

        thread = threading.Thread(target=one)
        thread.start()
        assert begun.wait(ASK_S)
        leaver = swarm.servers[text[0]]
        leaver.signal(signal.SIGTERM)
        eventually(
            lambda: leaver.peer_id not in serving_peers(swarm.entry), within=BACK_S, what="the leave", children=[]
        )
        thread.join(ASK_S)
        assert text[-1] == "data: [DONE]"
        assert leaver.child.wait(within=ASK_S) == 0
        assert post(swarm.entry).status_code == 200
