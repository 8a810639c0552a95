"""Whom a prompt goes to, in order: what the book, the standings, the lists of peers and the router say together.

Knows no stream and asks nobody; whom it weighs it has watched. Refuses where there is nobody to ask.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import inf

from node.core.access import Access
from node.core.candidates import Candidates, Offering, offering
from node.core.context import refused_for_length, with_room
from node.core.experience import Experience
from node.core.peerbook import SHORTLIST, Candidate, Peerbook
from node.core.prompt import Prompt
from node.core.router import Choice, Route, Router
from node.core.standings import Standings
from node.core.stored import StoredAnswers, not_stored, stored_answer
from node.core.wanted import Wanted, Wish, aims_of
from node.errors import Refusal, Refused, unknown_model
from node.services.ask_means import Purse, may_owe, pledge, within_means
from node.services.ask_peer import Watch
from node.services.ask_verdict import NOT_ASKED, NOTHING_SERVED, UNKNOWN_PEER, TooLong, all_closed, being_loaded
from node.services.ask_words import without_pin
from protocol.advert import SERVE, model_name
from protocol.ids import ContentDigest, InvalidId, ModelName, PeerId
from protocol.load import Load, Serving

DRAINING = Serving.DRAINING.name.lower()  # as a standing says why it is closed
WATCHED = SHORTLIST  # candidates whose load is kept fresh for a prompt: those who might be chosen for the next one
FIELDS = 64  # models whose candidates are kept; beyond that they are looked up again
STANDS_FOR = 1.0  # s that candidates are kept though the book does not change: leases run out by themselves


class LazyWish:
    """What a prompt wants, found out when it is first asked about: most prompts have but one way to go."""

    __slots__ = ("_aims", "_experience", "_prompt", "_wanted")

    def __init__(self, prompt: Prompt, experience: Experience) -> None:
        """Read the prompt's headers.

        Raises:
            Refused: they ask for what there is not; 400.
        """
        self._prompt = prompt
        self._experience = experience
        self._aims = aims_of(prompt.headers)
        self._wanted: Wanted | None = None

    @property
    def wanted(self) -> Wanted:
        """What it wants."""
        if self._wanted is None:
            self._wanted = self._experience.wanted(self._prompt, self._aims)
        return self._wanted


@dataclass(frozen=True, slots=True)
class _Field:
    """The candidates for a model, as they were when the book had a certain edition."""

    edition: int
    until: float
    here: bool
    candidates: Candidates


@dataclass(slots=True)
class _Loaders:
    """How many nodes will serve each model, as adverts told a moment ago."""

    until: float = -inf
    names: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True, kw_only=True)
class Whom:
    """The choice of this node.

    Attributes:
        own_load: how busy this node's engine is.
        own_model: the name that it serves; None on a node without an engine.
        own_digest: of that model's content, for who pins it; None where it is not known.
        luck: uniform in [0, 1).
        edition: changes whenever the book does; None: whatever the book says is looked up for each prompt.
        own_offering: what this node's own engine costs; None: what is usual.
        own_names: of all models that it answers for; none where that is not known.
        purse: limits what is owed to peers; None: nothing does.
    """

    me: PeerId
    own_load: Callable[[], Load]
    own_model: Callable[[], str | None]
    own_digest: Callable[[], ContentDigest | None]
    book: Peerbook
    standings: Standings
    stored: StoredAnswers
    access: Access
    router: Router
    watch: Watch
    luck: Callable[[], float]
    experience: Experience
    edition: Callable[[], int] | None = None
    own_offering: Callable[[], Offering] | None = None
    own_names: Callable[[], Iterable[str]] = tuple
    purse: Purse | None = None
    fields: OrderedDict[ModelName, _Field] = field(default_factory=OrderedDict[ModelName, _Field])
    loaders: _Loaders = field(default_factory=_Loaders)

    def wish(self, prompt: Prompt) -> LazyWish:
        """Return what a prompt wants, for `route`; raises as `LazyWish` does."""
        return LazyWish(prompt, self.experience)

    def serves(self, now: float) -> bool:
        """Tell whether a peer that this node may ask serves any model now."""
        names = (ModelName(offer.name) for offer in self.book.models(now))
        return any(self._allowed(self.book.candidates(name, now)) for name in names)

    def others_serve(self, model: ModelName, now: float) -> bool:
        """Tell whether a peer that is connected, and that this node may ask, would take a prompt for that model now."""
        found = self._allowed(self.book.candidates(model, now))
        return any(each.connected and not self.standings.closed(each.peer, now) for each in found)

    def route(self, prompt: Prompt, wish: Wish, now: float, *, beyond: float = 0.0) -> Route:
        """Return whom to try, in order, at least one.

        Where this node's own engine is away for a moment, it comes last: it answers once it is back.

        Args:
            beyond: a context, in tokens, that did not hold the prompt: only longer ones are of use.

        Raises:
            Refused: there is nobody.
        """
        ours = self.own_model()
        if prompt.via is not None:
            return Route(choices=(self._via(prompt.via, now),))
        if (answer := stored_answer(prompt)) is not None:
            return Route(choices=(self._keeper(answer, ours, now),))
        return self._for_model(prompt, wish, ours, now, beyond)

    def pledge(self, route: Route, choice: Choice) -> None:
        """Note that one of a route's choices is asked now, which will cost something perhaps."""
        if self.purse is not None and route.forecast is not None:
            pledge(self.purse, route.forecast, choice)

    def mind_length(self, prompt: Prompt, replica: PeerId, status: int, body: bytes, now: float) -> None:
        """Look whether an answer is an engine's refusal of a prompt that is too long for it, and not for another.

        Args:
            body: of the answer, its first bytes.

        Raises:
            TooLong: it is; decide anew with its context as `beyond`. Where nobody has a longer one, the engine's own
                words are the client's.
        """
        if status < 400 or prompt.via is not None:
            return
        refusal = refused_for_length(status, body)
        wanted = model_name(prompt.model) if prompt.model is not None else None
        if refusal is None or wanted is None:
            return
        candidates = self._field(wanted, self._serves_here(wanted), now)
        at = candidates.index.get(replica)
        if at is not None and candidates.context[at] < candidates.longest:
            raise TooLong(refusal, float(candidates.context[at]))

    def awaited(self, prompt: Prompt, now: float) -> bool:
        """Tell whether a peer that may answer takes nothing for the moment, and will again.

        One that loads for the first time, or is away for another reason, is not worth a client's wait.
        """
        peers = tuple(self._may_answer(prompt, now))
        self.watch.want(peers)
        return any(peer != self.me and self.standings.returning(peer, now) for peer in peers)

    def knock(self, prompt: Prompt, now: float) -> tuple[Choice, ...]:
        """Return whom to try although it takes nothing for the moment: one at most, and none that was tried just now.

        It will refuse; but a peer that has lent its engine to trials ends them for a prompt, not for a question.
        """
        for peer in self._may_answer(prompt, now):
            standing = self.standings.standing(peer, now)
            if peer != self.me and standing.returning and standing.closed == DRAINING and not standing.in_flight:
                return (Choice(peer, "knock"),)
        return ()

    def _may_answer(self, prompt: Prompt, now: float) -> Iterable[PeerId]:
        if prompt.via is not None:
            try:
                return [self._via(prompt.via, now).replica]
            except Refused:
                return []
        if (answer := stored_answer(prompt)) is not None:
            keeper = self.stored.keeper(answer)
            return [] if keeper is None else [keeper]
        wanted = model_name(prompt.model) if prompt.model is not None else None
        if wanted is None and self.own_model() is None:
            wanted = self._any_model(now)
        return [] if wanted is None else [each.peer for each in self._candidates(wanted, now)]

    def for_us(self, prompt: Prompt) -> Prompt:
        """Return the prompt as our engine knows the model; a pin of other content is for the engine to refuse."""
        wanted = model_name(prompt.model) if prompt.model is not None else None
        return unpinned(prompt) if wanted is not None and wanted.pin == self.own_digest() else prompt

    def _for_model(self, prompt: Prompt, wish: Wish, ours: str | None, now: float, beyond: float) -> Route:
        wanted = model_name(prompt.model) if prompt.model is not None else None
        if wanted is None and ours is None:
            wanted = self._any_model(now)  # for its engine's own words about a body without a model, or a bad one
        if wanted is None:
            if ours is None and prompt.model is not None:
                raise Refused(self._not_served(prompt.model, now))
            return self._ourselves()
        here = self._serves_here(wanted)
        candidates = self._field(wanted, here, now)
        if not len(candidates):
            return self._elsewhere(prompt, wanted, ours, now)
        if here:
            self.standings.read(self.me, self.own_load(), now)  # exact, and free
        return self._among(candidates, prompt, wish, now, beyond)

    def _among(self, candidates: Candidates, prompt: Prompt, wish: Wish, now: float, beyond: float) -> Route:
        """Decide among those who serve the model."""
        able = roomy = candidates
        if len(candidates) > 1 or candidates.local is None:
            able, roomy = with_room(candidates, wish, prompt, beyond)
        route = self._affordable(roomy, wish, now)
        if not route.choices and roomy is not able:
            route = self._affordable(able, wish, now)
        self._look_after(able, route)
        if route.choices:
            last = able.local is not None and self.standings.returning(self.me, now)
            return replace(route, choices=(*route.choices, Choice(self.me, "local"))) if last else route
        if able.local is not None:
            return self._ourselves()  # it says why not: loading, and how far; full, and until when
        raise Refused(all_closed(able, route, now))

    def _affordable(self, candidates: Candidates, wish: Wish, now: float) -> Route:
        def choose(those: Candidates) -> Route:
            return self.router.choose(those, wish, now=now, luck=self.luck)

        route = choose(candidates)
        return route if self.purse is None else within_means(self.purse, candidates, route, choose)

    def _serves_here(self, wanted: ModelName) -> bool:
        return self.own_model() == wanted.name and (wanted.pin is None or wanted.pin == self.own_digest())

    def _ourselves(self) -> Route:
        return Route(choices=(Choice(self.me, "local"),))

    def _not_served(self, model: str, now: float) -> Refusal:
        """Refuse a model that nobody serves; where nobody serves anything yet, that may change soon."""
        if loading := self._loading(model, now):
            return being_loaded(model, loading)
        names = {*(offer.name for offer in self.book.models(now)), *self.own_names()}
        return unknown_model(model, names) if names else NOTHING_SERVED

    def _loading(self, model: str, now: float) -> int:
        """Count those who say that they will serve a model: their adverts offer it, and not yet to serve."""
        if now >= self.loaders.until:  # goes over everybody, so not for each of a flood of prompts
            told = (self.book.advert_of(peer, now) for peer in self.book.members(now) if self.access.may_ask(peer))
            adverts = (signed.body for signed in told if signed is not None)
            self.loaders.names = Counter(
                offer.name for advert in adverts if SERVE not in advert.roles for offer in advert.models
            )
            self.loaders.until = now + STANDS_FOR
        wanted = model_name(model)
        return 0 if wanted is None else self.loaders.names.get(wanted.name, 0)

    def _field(self, wanted: ModelName, here: bool, now: float) -> Candidates:
        """Return those who may answer; kept from one prompt to the next where the router weighs any number."""
        if not self.router.wide or self.edition is None:
            return self._columns(wanted, here, self._candidates(wanted, now))
        edition, held = self.edition(), self.fields.get(wanted)
        if held is not None and held.edition == edition and held.here == here and now < held.until:
            return held.candidates
        found = self._columns(wanted, here, self._allowed(self.book.candidates(wanted, now)))
        self.fields[wanted] = _Field(edition, now + STANDS_FOR, here, found)
        self.fields.move_to_end(wanted)
        if len(self.fields) > FIELDS:
            self.fields.popitem(last=False)
        return found

    def _columns(self, wanted: ModelName, here: bool, candidates: Iterable[Candidate]) -> Candidates:
        offerings = [
            offering(each.peer, each.advert, connected=each.connected, context=each.offer.max_length)
            for each in candidates
        ]
        if here:
            ours = self.own_offering() if self.own_offering is not None else Offering(replica=self.me)
            offerings.append(ours)
        return Candidates(offerings, model=wanted.name, standings=self.standings, local=self.me if here else None)

    def _look_after(self, candidates: Candidates, route: Route) -> None:
        """Have the loads of those kept fresh who were weighed; where they are many, of those who may be chosen next."""
        peers: Iterable[PeerId] = candidates.replicas
        if len(candidates) > WATCHED:
            best = route.forecast.soonest(WATCHED) if route.forecast is not None else ()
            peers = dict.fromkeys((*(each.replica for each in route.choices), *best))
        self.watch.want(each for each in peers if each != self.me)

    def _candidates(self, wanted: ModelName, now: float) -> tuple[Candidate, ...]:
        if self.access.ask.everybody and self.access.may_serve is None:
            return self._allowed(self.book.shortlist(wanted, now, self.luck))
        # A draw from all would seldom hit the few who are on the list.
        return self._allowed(self.book.candidates(wanted, now))[:SHORTLIST]

    def _allowed(self, candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
        return tuple(each for each in candidates if self.access.may_ask(each.peer))

    def _any_model(self, now: float) -> ModelName | None:
        offers = self.book.models(now)
        return ModelName(offers[0].name) if offers else None

    def _elsewhere(self, prompt: Prompt, wanted: ModelName, ours: str | None, now: float) -> Route:
        """Decide about a model that nobody we may ask serves."""
        if self.book.candidates(wanted, now):
            raise Refused(NOT_ASKED)
        model = prompt.model or str(wanted)
        if ours is None:
            raise Refused(self._not_served(model, now))
        names = frozenset(self.own_names())
        if names and wanted.name not in names | {ours} and (self.book.models(now) or self._loading(model, now)):
            raise Refused(self._not_served(model, now))  # the engine does not know what else there is
        return self._ourselves()  # it may know the name as an alias or an adapter; else it says no itself

    def _keeper(self, answer: str, ours: str | None, now: float) -> Choice:
        """Return who keeps a stored answer: nobody else has it."""
        keeper = self.stored.keeper(answer)
        if keeper is not None and keeper != self.me:
            self._afford(keeper, now)
            return Choice(keeper, "stored")
        if keeper is None and ours is None:
            raise Refused(not_stored(answer))
        return Choice(self.me, "local")

    def _via(self, named: str, now: float) -> Choice:
        try:
            peer = PeerId.from_string(named)
        except InvalidId:
            raise Refused(UNKNOWN_PEER) from None
        if peer != self.me:
            if peer not in self.book.connections() and self.book.advert_of(peer, now) is None:
                raise Refused(UNKNOWN_PEER)
            if not self.access.may_ask(peer):
                raise Refused(NOT_ASKED)
            self._afford(peer, now)
        return Choice(peer, "via")

    def _afford(self, peer: PeerId, now: float) -> None:
        """Refuse to ask a peer that costs money, where none is left. What its answer will cost is not foretold."""
        signed = self.book.advert_of(peer, now) if self.purse is not None else None
        if self.purse is not None and not may_owe(self.purse, offering(peer, signed.body if signed else None).price):
            raise Refused(self.purse.refusal(inf))


def unpinned(prompt: Prompt) -> Prompt:
    """Return the prompt with the model's plain name, which is all that an engine knows."""
    wanted = model_name(prompt.model) if prompt.model is not None else None
    if wanted is None or wanted.pin is None:
        return prompt
    return replace(prompt, body=without_pin(prompt.body, wanted))
