"""Peers' prompts in the node's terms and back: nothing that the wire refuses can come of it."""

from hypothesis import given
from hypothesis import strategies as st

from node.core.holdings import Holdings
from node.core.peer_prompt import head_of, message_of, prompt_of, refuse_of
from node.core.prompt import Requester, RequesterKind
from node.errors import Refusal
from protocol.inference_events import Ask, Fail, encode
from tests.protocol.samples import AUTHOR
from tests.protocol.swarm_samples import OTHER

CARL = Requester(RequesterKind.PEER, "carl")


def test_a_prompt_is_of_use_as_long_as_its_asker_says_and_never_longer_than_the_node_allows() -> None:
    for left, deadline in ((None, 160.0), (30_000_000, 130.0), (90_000_000, 160.0)):
        ask = Ask(
            request_id="r",
            method="POST",
            target="/v1/completions?x=1",
            headers=((b"x-request-id", b"theirs"), (b"accept", b"*/*")),
            body_size=2,
            attempt=1,
            time_left_us=left,
        )
        prompt = prompt_of(ask, b'{"model": "m", "stream": true}', CARL, now=100.0, longest=60.0)
        assert (prompt.deadline, prompt.model, prompt.stream, prompt.requester) == (deadline, "m", True, CARL)
        assert prompt.headers == ((b"accept", b"*/*"), (b"x-request-id", b"r"))
        assert prompt.path == "/v1/completions"


@given(
    st.integers(100, 999),
    st.lists(st.tuples(st.sampled_from([b"content-type", b"Set-Cookie", b"x-request-id"]), st.binary(max_size=9000))),
    st.text(max_size=5000),
)
def test_no_engine_makes_us_say_a_head_that_peers_refuse(
    status: int, given_headers: list[tuple[bytes, bytes]], model: str
) -> None:
    head = head_of(status, tuple(given_headers), request_id="r", model=model, strategy=None)
    if head is None:
        assert not 200 <= status < 600
    else:
        encode(head)
        assert (b"x-request-id", b"r") in head.headers


@given(st.text(max_size=9000), st.text(max_size=80) | st.none(), st.integers(-5, 10**9) | st.none())
def test_no_refusal_or_failure_is_too_long_to_be_said(message: str, code: str | None, retry: int | None) -> None:
    refusal = Refusal(status=429, type=code or "", message=message, code=code, param=code, retry_after=retry)
    encode(refuse_of(refusal))
    encode(Fail(code="engine_lost", message=message_of(message)))


def test_bodies_are_held_up_to_each_peers_share_and_that_of_all() -> None:
    one, two = AUTHOR, OTHER
    holdings = Holdings(whole=10, each=6)
    holdings.take(one, 6)
    assert holdings.refusal(one, 1) is not None
    assert holdings.refusal(two, 4) is None
    assert holdings.refusal(two, 5) is not None
    holdings.give_back(one, 6)
    assert holdings.held == 0
    assert holdings.refusal(two, 6) is None
