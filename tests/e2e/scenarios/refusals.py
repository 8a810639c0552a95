"""Scenarios of requests that are refused: what a client's program catches is the same."""

import httpx2
import openai

from tests.e2e.entry import Session
from tests.e2e.scenarios.chat import ask
from tests.e2e.scenarios.completions import complete
from tests.e2e.scenarios.scenario import HELLO, refused, scenarios

CHAT = "/v1/chat/completions"


def wrong_key(session: Session) -> object:
    """A key that opens nothing."""
    with session.entry.session(api_key="wrong") as stranger:
        error = refused(stranger.openai.models.list, status=401)
        session.exchanges.extend(stranger.exchanges)
    return error


def no_key(session: Session) -> object:
    """No key at all."""
    return session.http.get("/v1/models", headers={"authorization": ""}).status_code


def unknown_model(session: Session) -> object:
    """A model that is not served."""
    in_chat = refused(lambda: ask(session, model="nobody"), status=404)
    return [in_chat, refused(lambda: complete(session, model="nobody"), status=404)]


def prompt_too_long(session: Session) -> object:
    """A prompt longer than the model's context."""
    words = "word " * 5000
    return refused(lambda: complete(session, prompt=words), status=400)


def answer_too_long(session: Session) -> object:
    """More tokens asked for than the context holds."""
    return refused(lambda: ask(session, max_tokens=100_000), status=400)


def no_tokens(session: Session) -> object:
    """No token asked for."""
    return refused(lambda: ask(session, max_tokens=0), status=400)


def bad_values(session: Session) -> object:
    """Values out of range and of the wrong type."""
    bad: list[dict[str, object]] = [
        {"temperature": -1},
        {"temperature": "hot"},
        {"top_p": 2},
        {"n": 0},
        {"messages": []},
        {"messages": "Hello"},
        {"messages": [{}]},
        {"logprobs": True, "top_logprobs": 1000},
        {"stop": [1, 2]},
        {"stream_options": {"include_usage": True}},
        {"tool_choice": "required"},
    ]
    good: dict[str, object] = {"model": session.model, "messages": HELLO}
    return [session.http.post(CHAT, json=good | field).status_code for field in bad]


def malformed_bodies(session: Session) -> object:
    """Bodies that are no JSON, or not an object, or have no model."""
    bodies = [b"", b"{", b"[]", b"null", b'"text"', b"{}", b'{"model": 5}', b"\xff\xfe", b'{"messages": [1]}']
    headers = {"content-type": "application/json"}
    return [session.http.post(CHAT, content=body, headers=headers).status_code for body in bodies]


def not_json_by_its_type(session: Session) -> object:
    """A body that says that it is something other than JSON."""
    body = b'{"model": "m", "messages": []}'
    kinds = ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-8")
    return [session.http.post(CHAT, content=body, headers={"content-type": kind}).status_code for kind in kinds]


def wrong_method(session: Session) -> object:
    """Methods that an endpoint does not have."""
    calls = [("GET", CHAT), ("DELETE", CHAT), ("PUT", "/v1/models"), ("POST", "/v1/models"), ("PATCH", "/tokenize")]
    return [session.http.request(method, path).status_code for method, path in calls]


def unknown_path(session: Session) -> object:
    """Paths that lead nowhere."""
    paths = ("/v1/nothing", "/v1/", "/v1/chat", "/v1/chat/completions/more", "/nothing")
    return [session.http.get(path).status_code for path in paths]


def trailing_slash(session: Session) -> object:
    """A path with a slash too many."""
    return session.http.get("/v1/models/").status_code


def administration(session: Session) -> object:
    """The engine's administration."""
    # Without bodies: whether a connection outlives an unread one depends on when its bytes arrive.
    return [
        session.http.post("/v1/load_lora_adapter").status_code,
        session.http.post("/reset_prefix_cache").status_code,
        session.http.post("/sleep").status_code,
        session.http.get("/load").status_code,
        session.http.post("/inference/v1/generate").status_code,
        session.http.post("/scale_elastic_ep").status_code,
    ]


def remote_media(session: Session) -> object:
    """A picture by its address."""
    url = "http://127.0.0.1:9/picture.png"
    part = {"type": "image_url", "image_url": {"url": url}}
    body = {"model": session.model, "messages": [{"role": "user", "content": [part]}]}
    return session.http.post(CHAT, json=body).status_code


def classes_of_errors(session: Session) -> object:
    """The exceptions of the client library, by class."""
    caught: list[str] = []
    wrong: list[dict[str, object]] = [{"model": "nobody"}, {"max_tokens": -1}]
    for fields in wrong:
        try:
            session.openai.chat.completions.create(**{"model": session.model, "messages": HELLO, **fields})
        except openai.NotFoundError:
            caught.append("NotFoundError")
        except openai.BadRequestError:
            caught.append("BadRequestError")
    assert caught == ["NotFoundError", "BadRequestError"]
    return caught


def raw_target(session: Session) -> object:
    """A path in percent-encoding."""
    url = httpx2.URL(session.entry.url).copy_with(raw_path=b"/v1/%6dodels")
    return session.http.get(url).status_code


SCENARIOS = scenarios(
    "refusals",
    wrong_key,
    no_key,
    unknown_model,
    prompt_too_long,
    answer_too_long,
    no_tokens,
    bad_values,
    malformed_bodies,
    not_json_by_its_type,
    wrong_method,
    unknown_path,
    trailing_slash,
    administration,
    remote_media,
    classes_of_errors,
    raw_target,
)
