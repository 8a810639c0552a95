"""Scenarios of `/tokenize` and `/detokenize`, and of the endpoints that a model of text does not serve."""

from tests.e2e.entry import Session
from tests.e2e.scenarios.scenario import HELLO, UNICODE, scenarios


def post(session: Session, path: str, **fields: object) -> int:
    """Post a body as JSON; return the status."""
    return session.http.post(path, json={"model": session.model, **fields}).status_code


def tokenize_text(session: Session) -> object:
    """Text into ids, with the tokens' text."""
    assert post(session, "/tokenize", prompt=UNICODE, return_token_strs=True) == 200
    return post(session, "/tokenize", prompt=UNICODE, add_special_tokens=False)


def tokenize_chat(session: Session) -> object:
    """A conversation into ids."""
    assert post(session, "/tokenize", messages=HELLO) == 200
    return post(session, "/tokenize", messages=HELLO, add_generation_prompt=False)


def detokenize(session: Session) -> object:
    """Ids into text."""
    assert post(session, "/detokenize", tokens=[300, 301, 302]) == 200
    return None


def detokenize_nonsense(session: Session) -> object:
    """Ids that are none."""
    assert post(session, "/detokenize", tokens=["a"]) == 400
    return None


def tokenize_for_an_unknown_model(session: Session) -> object:
    """A model that is not served."""
    return session.http.post("/tokenize", json={"model": "nobody", "prompt": "x"}).status_code


def embeddings(session: Session) -> object:
    """Embeddings, which this model does not give."""
    return post(session, "/v1/embeddings", input="Hello")


def score(session: Session) -> object:
    """Scores, which this model does not give."""
    return [post(session, path, text_1="a", text_2="b") for path in ("/v1/score", "/score")]


def rerank(session: Session) -> object:
    """Ranking, which this model does not do."""
    paths = ("/v1/rerank", "/rerank", "/v2/rerank")
    return [post(session, path, query="a", documents=["b", "c"]) for path in paths]


SCENARIOS = scenarios(
    "tokens",
    tokenize_text,
    tokenize_chat,
    detokenize,
    detokenize_nonsense,
    tokenize_for_an_unknown_model,
    embeddings,
    score,
    rerank,
)
