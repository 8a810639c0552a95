"""Scenarios of the list of models."""

from tests.e2e.entry import Session
from tests.e2e.scenarios.scenario import refused, scenarios


def listed(session: Session) -> object:
    """The list of models."""
    models = session.openai.models.list().data
    assert session.model in {model.id for model in models}
    return [model.id for model in models]


def listed_with_a_query(session: Session) -> object:
    """The list of models, asked for with a query string that means nothing."""
    return session.http.get("/v1/models", params={"limit": "5", "order": "desc"}).status_code


def known_by_id(session: Session) -> object:
    """One model by its id."""
    return session.http.get(f"/v1/models/{session.model}").status_code


def unknown_by_id(session: Session) -> object:
    """A model by an id that is not served."""
    return refused(lambda: session.openai.models.retrieve("no-such-model"), status=404)


def head(session: Session) -> object:
    """HEAD of the list of models."""
    return session.http.head("/v1/models").status_code


SCENARIOS = scenarios("models", listed, listed_with_a_query, known_by_id, unknown_by_id, head)
