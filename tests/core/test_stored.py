"""Who keeps a stored answer."""

import pytest

from node.core.prompt import OWNER, Prompt
from node.core.stored import ANSWERS, StoredAnswers, not_stored, stored_answer
from tests.protocol import samples, swarm_samples

ANNE, BERT = samples.AUTHOR, swarm_samples.OTHER
WHOLE = b'{"id":"resp_1f","created_at":1,"output":[{"id":"msg_2","text":"x"}]}'
STREAM = b'event: response.created\ndata: {"response":{"id":"resp_1f","object":"response"}}\n\n'


def prompt(path: str = "/v1/responses", body: bytes = b"{}") -> Prompt:
    return Prompt(
        request_id="r",
        method="POST",
        target=path,
        headers=(),
        body=body,
        model=None,
        stream=False,
        requester=OWNER,
    )


@pytest.mark.parametrize("beginning", [WHOLE, STREAM])
def test_whoever_answered_keeps_the_answer(beginning: bytes) -> None:
    stored = StoredAnswers()
    stored.note(prompt(), beginning, ANNE)
    assert stored.keeper("resp_1f") == ANNE
    assert stored.keeper("msg_2") is None


def test_only_answers_of_the_responses_api_are_looked_at() -> None:
    stored = StoredAnswers()
    stored.note(prompt("/v1/chat/completions"), WHOLE, ANNE)
    assert stored.keeper("resp_1f") is None


@pytest.mark.parametrize(
    ("path", "body", "answer"),
    [
        ("/v1/responses/resp_1f?stream=true", b"", "resp_1f"),
        ("/v1/responses/resp_1f/cancel", b"", "resp_1f"),
        ("/v1/responses", b'{"previous_response_id": "resp_1f"}', "resp_1f"),
        ("/v1/responses", b'{"previous_response_id": 7}', None),
        ("/v1/responses", b'{"previous_response_id": ', None),
        ("/v1/responses", b'{"input": "x"}', None),
        ("/v1/responses_of_another_kind", b'{"previous_response_id": "resp_1f"}', None),
        ("/v1/chat/completions", b'{"previous_response_id": "resp_1f"}', None),
    ],
)
def test_a_prompt_says_which_answer_it_is_about(path: str, body: bytes, answer: str | None) -> None:
    assert stored_answer(prompt(path, body)) == answer


def test_the_answers_used_last_are_remembered() -> None:
    stored = StoredAnswers()
    for number in range(ANSWERS):
        stored.note(prompt(), b'{"id":"resp_%d"' % number, ANNE)
    assert stored.keeper("resp_0") == ANNE
    stored.note(prompt(), b'{"id":"resp_new"', BERT)
    assert stored.keeper("resp_0") == ANNE
    assert stored.keeper("resp_1") is None
    assert stored.keeper("resp_new") == BERT


def test_an_answer_that_nobody_keeps_is_refused_as_the_engine_would() -> None:
    assert not_stored("resp_x").message == "Response with id 'resp_x' not found."
