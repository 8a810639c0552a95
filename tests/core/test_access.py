"""Who may use what, and that a no says why."""

import pytest

from node.core.access import EVERYBODY, NOBODY, Access, PeerList, parse_peer_list, quota_refusal, requester_of
from node.core.prompt import RequesterKind
from node.core.quota import Exceeded, Exceeding, QuotaLimits, Quotas
from tests.protocol import samples, swarm_samples

ANNE, BERT = samples.AUTHOR, swarm_samples.OTHER


def test_a_list_is_everybody_nobody_or_these() -> None:
    assert ANNE in parse_peer_list(["everybody"])
    assert ANNE not in parse_peer_list(["nobody"])
    assert ANNE not in parse_peer_list([])
    these = parse_peer_list([str(ANNE)])
    assert ANNE in these
    assert BERT not in these
    but = parse_peer_list(["everybody", f"!{BERT}"])
    assert ANNE in but
    assert BERT not in but
    assert BERT not in parse_peer_list([str(BERT), f"!{BERT}"])


@pytest.mark.parametrize(
    "words",
    [["everyone"], ["nobody", "everybody"], ["nobody", str(ANNE)], ["everybody", str(ANNE)], ["!"], [""], ["!nobody"]],
)
def test_a_list_that_means_nothing_is_refused_with_what_to_write(words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"peer id|stands alone|exclusions"):
        parse_peer_list(words)


def test_a_refusal_says_why_and_is_no_invitation_to_retry() -> None:
    assert Access(serve=EVERYBODY).refusal(ANNE) is None
    for serve, words in ((NOBODY, "nobody but its owner"), (PeerList(peers=frozenset({BERT})), "only some peers")):
        refusal = Access(serve=serve).refusal(ANNE)
        assert refusal is not None
        assert words in refusal.message
        assert (refusal.status, refusal.retry_after) == (403, None)


def test_whom_we_serve_and_whom_we_ask_are_two_things() -> None:
    access = Access(serve=NOBODY, ask=PeerList(peers=frozenset({ANNE})))
    assert access.may_ask(ANNE)
    assert not access.may_ask(BERT)
    assert access.refusal(ANNE) is not None


def test_quotas_are_per_peer_and_one_may_have_its_own() -> None:
    access = Access(each=QuotaLimits(concurrent=1), of={BERT: QuotaLimits(concurrent=3)})
    quotas = Quotas()
    assert quotas.take(requester_of(ANNE), access.quota_of(ANNE), 0.0) is None
    exceeded = quotas.take(requester_of(ANNE), access.quota_of(ANNE), 0.0)
    assert exceeded is not None
    for _ in range(3):
        assert quotas.take(requester_of(BERT), access.quota_of(BERT), 0.0) is None
    refusal = quota_refusal(exceeded)
    assert (refusal.status, refusal.retry_after) == (429, 1)
    assert "1 prompts at once" in refusal.message


@pytest.mark.parametrize("what", Exceeding)
def test_every_quota_has_its_words(what: Exceeding) -> None:
    assert "7" in quota_refusal(Exceeded(what=what, limit=7, retry_after=2)).message


def test_a_peer_is_no_owner_whatever_it_calls_itself() -> None:
    assert requester_of(ANNE).kind is RequesterKind.PEER
