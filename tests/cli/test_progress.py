import io
from typing import Any

from node.cli.progress import Narrator

READY: dict[str, Any] = {
    "version": "0.1.0",
    "peer_id": "12D3KooWx",
    "addresses": [],
    "api_url": "http://127.0.0.1:1/v1",
    "keys": 0,
}


def engine(
    state: str, *, reason: str = "because", progress: str = "", log_tail: tuple[str, ...] = ()
) -> dict[str, Any]:
    return {"state": state, "reason": reason, "progress": progress, "log_tail": list(log_tail)}


def told(*events: tuple[str, dict[str, Any]]) -> str:
    stream = io.StringIO()
    narrator = Narrator(stream, try_out='metainf ask "x" --data-dir [d]')
    for event, facts in events:
        narrator(event, facts)
    return stream.getvalue()


def test_the_ready_block_says_where_the_api_is_for_whom_and_what_to_try() -> None:
    block = told(("ready", READY))
    for words in ("12D3KooWx", "http://127.0.0.1:1/v1", "without a key", 'metainf ask "x" --data-dir [d]'):
        assert words in block
    assert "has an API key" in told(("ready", READY | {"keys": 2}))


def test_each_change_of_the_engine_is_one_line_and_nothing_is_said_twice() -> None:
    loading = engine("starting", progress="it listens")
    lines = told(("engine_state", loading), ("engine_state", loading), ("engine_state", engine("ready"))).splitlines()
    assert lines == ["engine starting: it listens", "engine ready: because"]


def test_an_engine_in_trouble_shows_the_end_of_its_log_as_it_is() -> None:
    assert "  | [bold]last words" in told(("engine_state", engine("backoff", log_tail=("[bold]last words",))))


def test_the_ready_block_says_how_others_join() -> None:
    address = "/ip4/192.0.2.1/tcp/47470/p2p/12D3KooWx"
    assert f"metainf up --join {address}" in told(("ready", READY | {"addresses": [address]}))


def test_comings_and_goings_are_told_while_the_company_is_small() -> None:
    def joined(number: int) -> tuple[str, dict[str, Any]]:
        return "peer_joined", {"peer": f"12D3KooW{number:08}", "name": None, "models": ["m"], "addresses": []}

    lines = told(*map(joined, range(20)), ("peer_left", {"peer": "12D3KooW00000003", "reason": "left"})).splitlines()
    assert lines[0] == "swarm: a node (00000000) is here, serves m"
    assert len(lines) == 8
    alone = told(
        joined(1), ("peer_left", {"peer": "12D3KooW00000001", "reason": "expired"}), ("alone", {"alone": True})
    )
    assert "gone (expired)" in alone
    assert "keeps trying" in alone


def test_stopping_says_why_and_how_to_hurry() -> None:
    assert "SIGTERM" in told(("stopping", {"reason": "SIGTERM"}))


def test_without_a_stream_nothing_is_told() -> None:
    Narrator(None)("ready", READY)
