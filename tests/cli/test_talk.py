import io
import json
from collections.abc import Callable

import pytest

from tests.cli.conftest import CannedNode

Metainf = Callable[..., tuple[int, str, str]]

STATUS = {
    "peer_id": "12D3KooWexample",
    "name": "attic",
    "swarm": "public",
    "version": "0.1.0",
    "uptime_s": 3725.0,
    "api_url": "http://127.0.0.1:8470/v1",
    "addresses": ["/ip4/192.0.2.7/tcp/47470/p2p/12D3KooWexample"],
    "peers": {"connected": 2, "known": 3},
    "engine": {
        "state": "backoff",
        "model": "tiny",
        "strategy": "default",
        "reason": "killed by signal 9",
        "log_tail": ["last words"],
        "restarts": 2,
    },
    "records": {"total": 2000, "authors": 10, "written": 7, "quarantined": 1, "rejected": {"power": 3}},
    "learner": {
        "state": "ready",
        "reason": "",
        "trained_at": "2026-11-21T10:00:00+00:00",
        "records_used": 1234,
        "authors": 12,
        "doubted": ["12D3KooWliar"],
        "train_s": 61.2,
        "error_median": 0.14,
        "coverage_90": 0.92,
        "restarts": 0,
    },
    "requests": {"running": 1, "served": 2, "failed": 3, "resumed": 0},
}


def sse(*events: object) -> bytes:
    lines = [b"data: " + (event if isinstance(event, bytes) else json.dumps(event).encode()) for event in events]
    return b"\n\n".join(lines) + b"\n\n"


def delta(text: str) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}}]}


def test_without_a_node_each_verb_says_so_and_how_to_start_one(metainf: Metainf) -> None:
    for verb in (["status"], ["peers"], ["models"], ["ask", "why"]):
        code, out, err = metainf(*verb)
        assert (code, out) == (69, "")
        assert "no node is running" in err
        assert "metainf up" in err


def test_status_tells_the_state_of_the_engine_and_why(canned_node: CannedNode, metainf: Metainf) -> None:
    canned_node.answer("GET", "/status", STATUS)
    code, out, _ = metainf("status")
    assert "learner   ready, learnt from 1234 records of 12 authors in 61 s at 2026-11-21T10:00:00+00:00, " in out
    assert "half of its forecasts within 15%, its 90 % intervals hold 92%, 1 authors doubted" in out
    assert code == 0
    told = ("attic", "1 h 2 min", "backoff: killed by signal 9", "| last words", "1 running", "restarts  2")
    history = ("2000 of 10 authors, 7 written here", "1 authors in quarantine", "not believed: power 3")
    for words in (*told, *history, "192.0.2.7", "3 known, 2 of them connected"):
        assert words in out


def test_status_tells_why_nobody_is_there_and_that_the_clock_is_wrong(
    canned_node: CannedNode, metainf: Metainf
) -> None:
    row = {"by": None, "state": "failing", "why": "refused", "failures": 3, "tried_s_ago": 4.2, "well_s_ago": None}
    rows = [{"address": "/ip4/192.0.2.1/tcp/1/p2p/12D3", "error": "refused: nobody listens", **row}]
    clock = {"peers": 3, "ahead_s": 600.0, "disagreeing": 3, "tolerated_s": 300.0}
    alone = {"alone": True, "bootstraps": rows, "clock": clock, "peers": {"connected": 0, "known": 0}}
    canned_node.answer("GET", "/status", STATUS | alone)
    out = metainf("status")[1]
    assert "public: nobody answers yet; this node goes on alone and keeps trying" in out
    assert "| /ip4/192.0.2.1/tcp/1: refused: nobody listens (3 times, last 4 s ago)" in out
    assert "clock     600 s behind those of 3 peers" in out
    canned_node.answer("GET", "/status", STATUS | {"clock": {**clock, "ahead_s": 3.0}, "peers": alone["peers"]})
    out = metainf("status")[1]
    assert "clock " not in out
    assert "nobody else known; join with --join" in out


def test_an_owner_whose_key_writes_on_another_machine_too_is_told_so(canned_node: CannedNode, metainf: Metainf) -> None:
    canned_node.answer("GET", "/status", STATUS | {"records": {**STATUS["records"], "key_forked": True}})
    assert "your key has forked: another machine writes under it" in metainf("status")[1]


def test_status_as_json_is_the_node_s_own_document(canned_node: CannedNode, metainf: Metainf) -> None:
    canned_node.answer("GET", "/status", STATUS)
    assert json.loads(metainf("status", "--json")[1]) == STATUS


def a_peer_of_the_list(number: int, **facts: object) -> dict[str, object]:
    """Return one entry as the node tells it: well, connected, and serving."""
    well = {"standing": 1.0, "offences": {}, "quarantined": False, "closed": None, "state": "fresh", "why": None}
    near = {"connected": True, "rtt_ms": 1.5, "load": {"work": 0.0, "slots": 8}, "clock_ahead_s": 0.1}
    tells = {"name": f"node-{number}", "roles": ["serve"], "models": [{"name": "tiny"}], "loading": []}
    return {"peer_id": f"12D3KooW{number:044d}", **well, **near, **tells, **facts}


def test_peers_are_a_table_of_ways_distances_standings_roles_and_models(
    canned_node: CannedNode, metainf: Metainf
) -> None:
    long = "org/" + "a-model-with-a-name-as-long-as-names-may-be-" * 5
    listed = {
        "peers": [
            a_peer_of_the_list(1, load={"work": 2.0, "slots": 8}),
            a_peer_of_the_list(2, via="12D3KooWrelayrelay", rtt_ms=345.678, models=[{"name": long}, {"name": "b"}]),
            a_peer_of_the_list(3, state="hung", why="it fell silent; asked again in 12 s", closed="hung"),
            a_peer_of_the_list(4, state="barred", why="it refused a prompt; asked again in 3 s", closed="refused"),
            a_peer_of_the_list(5, state="failed", why="an answer broke off; asked again in 5 s", closed="failed"),
            a_peer_of_the_list(
                6,
                connected=False,
                rtt_ms=None,
                load=None,
                state="absent",
                models=[],
                loading=[{"name": "big"}],
                name="evil\x1b[2J" * 9,
                roles=["serve", "relay", "bootstrap"],
            ),
            a_peer_of_the_list(7, state="quarantined", why="its key signed two records of one name", quarantined=True),
            a_peer_of_the_list(8, standing=0.5, offences={"bad_gossip": 1}, clock_ahead_s=-600.0, name=None),
        ],
        "outcasts": [{"peer_id": "C", "offences": {"bad_gossip": 3}}],
        "rejected_records": {"bad_signature": 3},
        "edge": {"banned_addresses": {"192.0.2.7": 20}, "banned_peers": {}},
    }
    canned_node.answer("GET", "/peers", listed)
    out = metainf("peers")[1]
    lines = out.splitlines()
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in out
    assert lines[0].split() == ["NODE", "ID", "WAY", "RTT", "STATE", "ROLES", "MODEL"]
    begins = [lines[0].index(head) for head in lines[0].split()]
    rows = [line for line in lines[1:] if not line.startswith(" ")][:8]
    assert all(row[begin - 1] == " " and row[begin] != " " for row in rows for begin in begins[1:])
    assert rows[0].split() == ["node-1", "00000001", "direct", "1.5", "ms", "fresh", "serve", "tiny"]
    assert f"by {'12D3KooWrelayrelay'[-8:]}" in rows[1]
    assert "346 ms" in rows[1]
    assert "+1" in rows[1]
    for words in (
        "2 of 8 prompts outstanding",
        "is loading big",
        "hung: it fell silent; asked again in 12 s",
        "barred: it refused a prompt; asked again in 3 s",
        "failed: an answer broke off; asked again in 5 s",
        "quarantined: its key signed two records of one name",
        "its clock is 600 s behind ours",
        "standing 0.5: bad_gossip 1",
        "C   parted from for a while: bad_gossip 3",
        "not believed: bad_signature 3",
        "192.0.2.7   not let in for 20 s",
    ):
        assert words in out
    assert json.loads(metainf("peers", "--json")[1]) == listed
    whole = metainf("peers", "--ids")[1].splitlines()
    assert max(map(len, whole)) <= 100
    assert all(any(line.startswith(str(peer["peer_id"])) for line in whole) for peer in listed["peers"])


def test_models_are_listed_with_their_length(canned_node: CannedNode, metainf: Metainf) -> None:
    canned_node.answer("GET", "/v1/models", {"data": [{"id": "tiny", "max_model_len": 2048}]})
    assert "tiny   up to 2048 tokens" in metainf("models")[1]


def test_ask_streams_the_answer_of_the_node_s_own_model(canned_node: CannedNode, metainf: Metainf) -> None:
    canned_node.answer("GET", "/v1/models", {"data": [{"id": "tiny"}]})
    canned_node.answer("POST", "/v1/chat/completions", sse(delta("Pa"), delta("ris"), {"choices": []}, b"[DONE]"))
    code, out, _ = metainf("ask", "Capital?", "--system", "Be short", "--max-tokens", "5", "--temperature", "0")
    assert (code, out) == (0, "Paris\n")
    assert canned_node.bodies == [
        {
            "model": "tiny",
            "messages": [{"role": "system", "content": "Be short"}, {"role": "user", "content": "Capital?"}],
            "stream": True,
            "max_tokens": 5,
            "temperature": 0.0,
        }
    ]


def test_ask_reads_standard_input_when_it_is_given_no_prompt(
    canned_node: CannedNode, metainf: Metainf, monkeypatch: pytest.MonkeyPatch
) -> None:
    canned_node.answer("POST", "/v1/chat/completions", sse(delta("ok"), b"[DONE]"))
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe"))
    assert metainf("ask", "--model", "m")[:2] == (0, "ok\n")
    assert canned_node.bodies[0]["messages"] == [{"role": "user", "content": "from a pipe"}]


def test_ask_with_nothing_to_ask_is_wrong_usage(metainf: Metainf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("  \n"))
    assert metainf("ask")[0] == 2


def test_ask_as_json_is_the_whole_answer(canned_node: CannedNode, metainf: Metainf) -> None:
    canned_node.answer("POST", "/v1/chat/completions", {"choices": []})
    assert json.loads(metainf("ask", "x", "--model", "m", "--json")[1]) == {"choices": []}
    assert canned_node.bodies[0]["stream"] is False


def test_a_refusal_is_shown_in_the_node_s_words(canned_node: CannedNode, metainf: Metainf) -> None:
    canned_node.answer("POST", "/v1/chat/completions", {"error": {"message": "the model is loading"}}, status=503)
    code, out, err = metainf("ask", "x", "--model", "m")
    assert (code, out) == (69, "")
    assert "the model is loading" in err


def test_an_answer_that_breaks_off_keeps_what_came_and_says_why(canned_node: CannedNode, metainf: Metainf) -> None:
    canned_node.answer("POST", "/v1/chat/completions", sse(delta("Pa"), {"error": {"message": "the engine died"}}))
    code, out, err = metainf("ask", "x", "--model", "m")
    assert (code, out) == (69, "Pa\n")
    assert "the engine died" in err


def test_a_node_that_talks_nonsense_is_an_error_not_a_traceback(canned_node: CannedNode, metainf: Metainf) -> None:
    canned_node.answer("GET", "/status", b"<html>")
    code, _, err = metainf("status")
    assert code == 1
    assert "not JSON" in err
