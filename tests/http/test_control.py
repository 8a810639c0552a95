"""The control socket's `/records`: bounded batches in, a verdict for each out."""

import json
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import pytest
import trio

from node.http.asgi import Message
from node.http.control import RECORDS_BYTES, Admit, control_app
from node.record_ports import Admitted
from protocol import limits, records
from tests.fakes.history import FakeHistory
from tests.protocol import samples
from tests.protocol.samples import NOTE, NOW


def note(seq: int) -> bytes:
    return records.sign(NOTE, samples.note(seq=seq), samples.KEY).sealed


async def nothing(*_: object) -> None:
    raise AssertionError("asked of the API")


async def post(admit: Admit | None, body: bytes) -> tuple[int, Any]:
    app = control_app(
        api=nothing, status=dict, peers=dict, stop=lambda _: None, restart_engine=lambda _: None, admit=admit
    )
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/records", "root_path": "", "query_string": b"", "headers": []}
    with trio.fail_after(1):
        await app(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


def batch(*sealed: bytes) -> bytes:
    return json.dumps({"records": [b64encode(each).decode() for each in sealed]}).encode()


def history() -> FakeHistory:
    return FakeHistory(NOTE, now_us=lambda: NOW)


async def test_each_record_gets_its_verdict_in_order() -> None:
    kept = history()

    async def admit(sealed: Sequence[bytes]) -> Sequence[Admitted]:
        return await kept.admit(sealed, via=None)

    status, answer = await post(admit, batch(note(1), b"garbage", note(1)))
    assert status == 200
    first, second, third = answer["verdicts"]
    assert (first["standing"], first["reason"]) == ("new", "")
    assert first["name"].endswith("/1")
    assert (second["standing"], second["name"]) == ("rejected", None)
    assert third["standing"] == "known"
    kept.refusing = True
    status, answer = await post(admit, batch(note(2)))
    assert status == 503
    assert answer["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'{"records": 1}', 400),
        (b'{"records": ["!"]}', 400),
        (b'{"records": [1]}', 400),
        (b"[" * 100_000, 400),
        (batch(*[b"x"] * (limits.BATCH_RECORDS + 1)), 400),
        (b" " * (RECORDS_BYTES + 1), 413),
    ],
    ids=lambda given: repr(given)[:24],
)
async def test_what_is_no_batch_reaches_no_history(body: bytes, status: int) -> None:
    async def admit(_: Sequence[bytes]) -> Sequence[Admitted]:
        raise AssertionError("reached")

    got, answer = await post(admit, body)
    assert got == status
    assert answer["error"]["message"]


async def test_a_node_without_a_history_says_so() -> None:
    status, answer = await post(None, batch(note(1)))
    assert status == 503
    assert "no history" in answer["error"]["message"]
