"""Scenarios of answers in a given form."""

import json

from tests.e2e.entry import Session
from tests.e2e.scenarios.chat import ask
from tests.e2e.scenarios.scenario import ANSWER_SCHEMA, refused, scenarios


def said(session: Session, *, extra: dict[str, object] | None = None, **fields: object) -> str:
    """Ask for at most 80 tokens; return the text."""
    return ask(session, max_tokens=80, extra=extra, **fields).contents[0]


def json_schema(session: Session) -> object:
    """JSON within a schema, by `response_format`."""
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": ANSWER_SCHEMA, "strict": True}}
    answer = json.loads(said(session, response_format=form))
    assert answer.keys() == {"colour", "count"}
    return answer


def json_object(session: Session) -> object:
    """Any JSON object."""
    return said(session, response_format={"type": "json_object"})


def choice(session: Session) -> object:
    """One of some words."""
    word = said(session, extra={"structured_outputs": {"choice": ["red", "green", "blue"]}})
    assert word in {"red", "green", "blue"}
    return word


def regular_expression(session: Session) -> object:
    """Text that matches a regular expression."""
    text = said(session, extra={"structured_outputs": {"regex": "[ab]{3}-[0-9]{2}"}})
    assert len(text) == 6
    return text


def grammar(session: Session) -> object:
    """Text that a grammar derives."""
    return said(session, extra={"structured_outputs": {"grammar": 'root ::= "yes" | "no"'}})


def impossible_schema(session: Session) -> object:
    """A schema that is none."""
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "nonsense"}}}
    return refused(lambda: said(session, response_format=form), status=400)


SCENARIOS = scenarios("structured", json_schema, json_object, choice, regular_expression, grammar, impossible_schema)
