"""Whom a prompt may go to, and what is said where it is nobody: contexts, states, models, money; no stream."""

import json
import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.core.access import Access, PeerList
from node.core.candidates import Candidates, Offering
from node.core.curves import Shelf
from node.core.experience import Experience
from node.core.forecast import Forecast, Foreteller
from node.core.peerbook import Peerbook
from node.core.predictive import Predictive
from node.core.prompt import OWNER, Prompt
from node.core.round_trips import RoundTrips
from node.core.router import LeastOutstanding, Route, Router
from node.core.standings import Standings
from node.core.stored import StoredAnswers
from node.errors import Broken, Refusal, Refused
from node.services.ask_verdict import SOON, TooLong, Tried, all_closed
from node.services.ask_whom import Whom
from protocol.advert import BOOTSTRAP, SERVE, ModelOffer
from protocol.ids import PeerId
from protocol.load import Load, Serving
from tests.core.routing import KEY, curve
from tests.protocol import samples, swarm_samples

MODEL = "tiny"
KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([11, index]) + bytes(30)) for index in range(8)]
PEERS = [PeerId.from_public_key(key.public_key().public_bytes_raw()) for key in KEYS]
ME = PEERS.pop()


class FakeWatch:
    def __init__(self) -> None:
        self.wanted: set[PeerId] = set()

    def want(self, peers: Iterable[PeerId]) -> None:
        self.wanted |= set(peers)

    def attend(self, peer: PeerId) -> Any:
        raise AssertionError("choosing attends to nobody")


class FakePurse:
    """May spend `left`; None: anything."""

    def __init__(self, left: float | None) -> None:
        self.left = left
        self.pledges: list[tuple[PeerId, float]] = []
        self.least: float | None = None

    def allowance(self) -> float | None:
        return self.left

    def pledge(self, replica: PeerId, amount: float, seconds: float) -> None:
        assert seconds > 0.0
        self.pledges.append((replica, amount))

    def refusal(self, least: float) -> Refusal:
        self.least = least
        return Refusal(status=429, type="insufficient_quota", message="no", code="insufficient_quota")


class Stage:
    def __init__(
        self, *, predictive: bool = True, access: Access | None = None, purse: FakePurse | None = None
    ) -> None:
        self.book = Peerbook(ME)
        self.standings = Standings()
        self.experience = Experience(key=KEY)
        self.shelf = Shelf()
        self.own_model: str | None = None
        self.own_context: float | None = None
        self.own_names: tuple[str, ...] = ()
        self.own_load = Load(running=0, waiting=0, slots=4)
        self.said = 0  # adverts
        trips = RoundTrips(ME)
        router: Router = LeastOutstanding()
        if predictive:
            router = Predictive(curves=self.shelf, trips=trips, experience=self.experience, explore=0.0)
        self.whom = Whom(
            me=ME,
            own_load=lambda: self.own_load,
            own_model=lambda: self.own_model,
            own_digest=lambda: None,
            book=self.book,
            standings=self.standings,
            stored=StoredAnswers(),
            access=access or Access(),
            router=router,
            watch=FakeWatch(),
            luck=random.Random(1).random,  # noqa: S311 -- a test
            experience=self.experience,
            edition=lambda: self.book.edition,
            own_offering=lambda: Offering(replica=ME, context=self.own_context or float("inf"), price=9.0),
            own_names=lambda: self.own_names,
            purse=purse,
        )

    def add(
        self,
        index: int,
        *,
        context: int | None = None,
        model: str = MODEL,
        serves: bool = True,
        price: float | None = None,
    ) -> PeerId:
        self.said += 1
        advert = swarm_samples.advert(
            KEYS[index],
            seq=self.said,
            models=(ModelOffer(name=model, max_length=context),),
            roles=(SERVE,) if serves else (BOOTSTRAP,),
            price=None if price is None else {"device_hour_micro": round(price * 1e6)},
            hardware=None,
            expiry=samples.NOW + 10**10,
        )
        self.book.hear(advert, via=None, now=0.0, now_us=samples.NOW)
        self.reads(index)
        self.shelf.put(PEERS[index], model, curve(0.1, 0.02))
        return PEERS[index]

    def reads(self, index: int, *, at: float = 0.0, **load: Any) -> None:
        self.standings.read(PEERS[index], replace(Load(running=0, waiting=0, slots=4), **load), at)

    def route(self, one: Prompt | None = None, *, now: float = 0.1, beyond: float = 0.0) -> Route:
        prompt = one or asking()
        return self.whom.route(prompt, self.whom.wish(prompt), now, beyond=beyond)

    def chosen(self, one: Prompt | None = None, *, now: float = 0.1, beyond: float = 0.0) -> set[PeerId]:
        return {each.replica for each in self.route(one, now=now, beyond=beyond).choices}

    def forecast(self) -> Forecast:
        """Return what would be foretold of everybody, closed ones included."""
        trips = RoundTrips(ME)
        teller = Foreteller(self.shelf, trips, self.experience.corrections, self.experience.affinity)
        offerings = [Offering(replica=peer) for peer in PEERS if self.book.advert_of(peer, 0.1) is not None]
        candidates = Candidates(offerings, model=MODEL, standings=self.standings)
        return teller.foretell(candidates, self.whom.wish(asking()).wanted, 0.1)

    def refusal(self, one: Prompt | None = None, *, now: float = 0.1) -> Refusal:
        with pytest.raises(Refused) as caught:
            self.route(one, now=now)
        return caught.value.refusal


def asking(prompt: object = "hello", *, model: str = MODEL, via: PeerId | None = None, **fields: object) -> Prompt:
    return Prompt(
        request_id="r",
        method="POST",
        target="/v1/completions",
        headers=(),
        body=json.dumps({"model": model, "prompt": prompt, **fields}).encode(),
        model=model,
        stream=True,
        requester=OWNER,
        via=None if via is None else str(via),
    )


# -- contexts


@pytest.mark.parametrize("predictive", [True, False])
def test_a_prompt_goes_only_to_those_whose_context_holds_it(predictive: bool) -> None:
    it = Stage(predictive=predictive)
    it.add(0, context=512)
    roomy = it.add(1, context=8192)
    assert it.chosen() == {PEERS[0], roomy}
    assert it.chosen(asking([7] * 600)) == {roomy}
    assert it.chosen(asking(max_tokens=1000)) == {roomy}


def test_a_prompt_that_may_be_too_long_for_some_goes_to_the_others_while_they_take_prompts() -> None:
    it = Stage()
    it.add(0, context=512)
    roomy = it.add(1, context=8192)
    likely = asking("word " * 700)  # by its bytes some 870 tokens; sure are 87
    assert it.chosen(likely) == {roomy}
    it.reads(1, accepting=False)
    assert it.chosen(likely) == {PEERS[0]}
    it.reads(0, accepting=False)
    assert it.refusal(likely).status == 429


def test_a_prompt_beyond_everybody_is_refused_without_asking_anybody() -> None:
    it = Stage()
    it.add(0, context=512)
    it.add(1, context=1024)
    it.own_model, it.own_context = MODEL, 800.0
    refusal = it.refusal(asking([7] * 1025))
    assert (refusal.status, refusal.code, refusal.param) == (400, "context_length_exceeded", "prompt")
    assert "1024 tokens" in refusal.message
    assert it.chosen(asking([7] * 1024)) == {PEERS[1]}
    assert it.chosen(asking([7] * 600, max_tokens=8)) == {PEERS[1], ME}


def test_an_engine_by_itself_says_itself_what_is_too_long() -> None:
    it = Stage()
    it.own_model, it.own_context = MODEL, 800.0
    assert it.chosen(asking([7] * 5000)) == {ME}


TOO_LONG = json.dumps(
    {"error": {"message": "This model's maximum context length is 512 tokens.", "type": "BadRequestError", "code": 400}}
).encode()


def test_an_engines_own_refusal_for_length_leads_to_a_longer_context_and_else_stands() -> None:
    it = Stage()
    short = it.add(0, context=512)
    long = it.add(1, context=8192)
    one = asking()
    with pytest.raises(TooLong) as caught:
        it.whom.mind_length(one, short, 400, TOO_LONG, 0.1)
    assert caught.value.context == 512
    assert caught.value.refusal.message == "This model's maximum context length is 512 tokens."
    assert it.chosen(one, beyond=512.0) == {long}
    it.whom.mind_length(one, long, 400, TOO_LONG, 0.1)  # nobody has a longer one: the client hears it from the engine
    it.whom.mind_length(one, short, 400, b'{"error": {"message": "no such tool"}}', 0.1)
    it.whom.mind_length(one, short, 200, TOO_LONG, 0.1)
    it.whom.mind_length(replace(one, via=str(short)), short, 400, TOO_LONG, 0.1)  # the client wants that one's answer


def test_what_was_tried_in_vain_is_told_only_where_nobody_longer_is_merely_busy() -> None:
    tried = Tried()
    tried.attempts = 1
    words = Refusal(status=400, type="BadRequestError", message="512 tokens", as_engine=True)
    tried.refused(TooLong(words, 512.0))
    assert (tried.beyond, tried.anew(), tried.anew()) == (512.0, True, False)
    assert refused(tried.after(None)) == words
    busy = Refusal(status=429, type="overloaded", message="full", retry_after=3)
    assert refused(tried.after(busy)) == busy
    assert refused(tried.after(replace(busy, status=404))) == words


def refused(error: Refused | Broken) -> Refusal:
    assert isinstance(error, Refused)
    return error.refusal


# -- states


def test_who_is_full_is_429_and_says_when_the_soonest_takes_another() -> None:
    it = Stage()
    for index in (0, 1):
        it.add(index)
        it.reads(index, running=4, waiting=9, accepting=False)
    refusal = it.refusal()
    assert (refusal.status, refusal.type, refusal.code) == (429, "overloaded", "not_accepting")
    assert "2 has all the prompts that it takes" in refusal.message
    assert refusal.retry_after is not None
    assert 1 <= refusal.retry_after <= 60


def test_the_wait_that_is_told_comes_from_how_long_answers_take_there() -> None:
    it = Stage()
    it.add(0)
    it.reads(0, running=4, accepting=False)
    it.shelf.put(PEERS[0], MODEL, curve(8.0, 0.2, crowding=0.0, per_token=0.0, width=0.0))
    forecast = it.forecast()
    seconds = float(forecast.parts[0, 0] + forecast.parts[1, 0]) / 4
    assert 5 < seconds < 40
    told = all_closed(forecast.candidates, Route(choices=(), forecast=forecast), 0.1)
    assert told.retry_after == -int(-seconds // 1)
    it.shelf.put(PEERS[0], MODEL, curve(500.0, 2.0, crowding=0.0, width=0.0))
    slow = it.forecast()
    assert all_closed(slow.candidates, Route(choices=(), forecast=slow), 0.1).retry_after == 60


def test_who_said_when_is_asked_for_then() -> None:
    it = Stage()
    it.add(0)
    it.add(1)
    it.standings.refused(PEERS[0], 0.0, 40.0)
    it.standings.refused(PEERS[1], 0.0, 7.0)
    assert (it.refusal(now=0.5).status, it.refusal(now=0.5).retry_after) == (429, 7)


@pytest.mark.parametrize(
    ("serving", "code"),
    [(Serving.LOADING, "loading"), (Serving.DRAINING, "draining"), (Serving.AWAY, "away")],
)
def test_who_loads_or_is_away_is_503_with_its_state(serving: Serving, code: str) -> None:
    it = Stage()
    it.add(0)
    it.reads(0, serving=serving)
    refusal = it.refusal()
    assert (refusal.status, refusal.code) == (503, code)
    assert refusal.retry_after is not None
    assert "1 " in refusal.message


def test_who_is_full_counts_more_than_who_loads() -> None:
    it = Stage()
    it.add(0)
    it.add(1)
    it.reads(0, serving=Serving.LOADING)
    it.reads(1, accepting=False)
    assert it.refusal().status == 429


# -- models


def test_a_model_that_nodes_are_still_loading_is_known() -> None:
    it = Stage()
    it.add(0, model="other")
    it.add(1, serves=False)
    refusal = it.refusal()
    assert (refusal.status, refusal.code, refusal.retry_after) == (503, "loading", SOON)
    assert "one node is loading it" in refusal.message
    it.add(2, serves=False)
    assert "2 nodes are loading it" in it.refusal(now=2.0).message
    it.add(1)
    assert it.chosen(now=4.0) == {PEERS[1]}


def test_a_loading_node_that_must_not_see_prompts_does_not_count() -> None:
    it = Stage(access=Access(ask=PeerList(peers=frozenset({PEERS[0]}))))
    it.add(0, model="other")
    it.add(1, serves=False)
    assert it.refusal().status == 404


def test_an_unknown_model_is_404_with_all_that_there_is() -> None:
    it = Stage()
    it.add(0, model="theirs")
    refusal = it.refusal()
    assert (refusal.status, "theirs" in refusal.message) == (404, True)
    it.own_model, it.own_names = "ours", ("ours", "ours-lora")
    message = it.refusal().message
    assert all(name in message for name in ("theirs", "ours", "ours-lora"))
    assert it.chosen(asking(model="ours-lora")) == {ME}  # its engine knows it
    it.own_names = ()
    assert it.chosen() == {ME}  # nobody knows what it may know


def test_where_nobody_else_serves_anything_the_engine_says_no_itself() -> None:
    it = Stage()
    it.own_model, it.own_names = "ours", ("ours",)
    assert it.chosen() == {ME}


# -- money


def test_without_limits_or_prices_nothing_is_held_against_anybody() -> None:
    for left, price in ((None, 5.0), (0.0, None), (0.0, 0.0)):
        it = Stage(purse=FakePurse(left))
        it.add(0, price=price)
        it.add(1, price=price)
        assert it.chosen() == set(PEERS[:2])


def test_beyond_a_limit_a_prompt_goes_to_those_who_ask_nothing() -> None:
    purse = FakePurse(0.0)
    it = Stage(purse=purse)
    it.add(0, price=5.0)
    free = it.add(1)
    assert it.chosen() == {free}
    it.own_model = MODEL
    route = it.route()
    assert {each.replica for each in route.choices} == {free, ME}  # the own engine's price is no debt
    for each in route.choices:
        it.whom.pledge(route, each)
    assert purse.pledges == []


def test_within_a_limit_who_is_asked_is_pledged_and_who_is_too_dear_left_out() -> None:
    purse = FakePurse(0.01)
    it = Stage(purse=purse)
    cheap = it.add(0, price=5.0)
    it.add(1, price=5000.0)
    route = it.route()
    assert {each.replica for each in route.choices} == {cheap}
    assert purse.pledges == []  # nobody is asked yet
    it.whom.pledge(route, route.choices[0])
    ((peer, amount),) = purse.pledges
    assert peer == cheap
    assert 0.0 < amount <= 0.01


def test_somebody_beyond_the_best_few_may_be_within_the_limit() -> None:
    it = Stage(purse=FakePurse(0.0))
    for index in range(6):
        it.add(index, price=1.0)
        it.shelf.put(PEERS[index], MODEL, curve(0.01, 0.001))
    free = it.add(6)
    it.shelf.put(free, MODEL, curve(9.0, 3.0))
    assert it.chosen() == {free}


@pytest.mark.parametrize("predictive", [True, False])
def test_where_nobody_is_within_the_limit_it_is_said(predictive: bool) -> None:
    purse = FakePurse(0.0)
    it = Stage(predictive=predictive, purse=purse)
    it.add(0, price=5.0)
    assert (it.refusal().status, it.refusal().code) == (429, "insufficient_quota")
    assert purse.least is not None
    assert purse.least > 0.0
    refusal = it.refusal(asking(via=PEERS[0]))
    assert refusal.code == "insufficient_quota"
    purse.left = 0.5
    assert it.chosen(asking(via=PEERS[0])) == {PEERS[0]}
    if not predictive:  # what it will cost is not foretold: as long as anything is left
        assert it.chosen() == {PEERS[0]}
