"""Scenarios of HTTP itself."""

import json
from collections.abc import Iterator

from tests.e2e.entry import Session
from tests.e2e.scenarios.scenario import HELLO, scenarios

CHAT = "/v1/chat/completions"


def question(session: Session, **fields: object) -> dict[str, object]:
    """Return the body of a short chat."""
    return {"model": session.model, "messages": HELLO, "max_tokens": 4, "temperature": 0, **fields}


def kept_alive(session: Session) -> object:
    """Three requests over one connection, a refused one among them."""
    addresses: set[object] = set()
    for body in (question(session), question(session, model="nobody"), question(session)):
        with session.http.stream("POST", CHAT, json=body) as response:
            addresses.add(response.extensions["network_stream"].get_extra_info("client_addr"))
            response.read()
    return len(addresses)


def long_body(session: Session) -> object:
    """A body of 4 MiB that is read whole and then refused by the engine."""
    filler = "x" * (4 << 20)
    return session.http.post(CHAT, json=question(session, model="nobody", user=filler)).status_code


def body_in_chunks(session: Session) -> object:
    """A body without a declared length."""
    body = json.dumps(question(session)).encode()

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(body), 10):
            yield body[start : start + 10]

    response = session.http.post(CHAT, content=pieces(), headers={"content-type": "application/json"})
    assert response.status_code == 200
    return response.status_code


def odd_but_valid_json(session: Session) -> object:
    """White space, escapes and doubled keys in the body: passed on as they are."""
    body = json.dumps(question(session)).replace('"max_tokens"', '"max_tokens": 9, "m\\u0061x_tokens"')
    spaced = f"\n\t {body} \r\n".encode()
    response = session.http.post(CHAT, content=spaced, headers={"content-type": "application/json"})
    assert response.status_code == 200
    return response.json()["usage"]["completion_tokens"]


def with_a_query(session: Session) -> object:
    """A query string on an endpoint that has none."""
    return session.http.post(f"{CHAT}?trace=1&x=%20", json=question(session)).status_code


def with_headers_of_tomorrow(session: Session) -> object:
    """Headers that nobody knows, a request id and a trace."""
    headers = {
        "x-of-tomorrow": "yes",
        "x-request-id": "from-the-client",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "accept-encoding": "gzip, br",
    }
    return session.http.post(CHAT, json=question(session), headers=headers).status_code


def end_of_a_stream(session: Session) -> object:
    """The type and the end of a stream, byte by byte."""
    with session.http.stream("POST", CHAT, json=question(session, stream=True)) as response:
        body = response.read()
    assert body.endswith(b"data: [DONE]\n\n")
    return response.headers["content-type"]


SCENARIOS = scenarios(
    "http",
    kept_alive,
    long_body,
    body_in_chunks,
    odd_but_valid_json,
    with_a_query,
    with_headers_of_tomorrow,
    end_of_a_stream,
)
