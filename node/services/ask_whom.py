"""Whom a prompt goes to, in order: what the book, the standings, the lists of peers and the router say together.

Knows no stream and asks nobody; whom it weighs it has watched. Refuses where there is nobody to ask.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from node.core.access import Access
from node.core.peerbook import SHORTLIST, Candidate, Peerbook
from node.core.prompt import Prompt
from node.core.router import CHOICES, Choice, Option, Route, Router
from node.core.standings import Standings
from node.core.stored import StoredAnswers, not_stored, stored_answer
from node.errors import Refusal, Refused, unknown_model
from node.services.ask_peer import Watch
from node.services.ask_verdict import NOT_ASKED, NOTHING_SERVED, UNKNOWN_PEER, all_closed
from node.services.ask_words import without_pin
from protocol.advert import model_name
from protocol.ids import ContentDigest, InvalidId, ModelName, PeerId
from protocol.load import Load, Serving

DRAINING = Serving.DRAINING.name.lower()  # as a standing says why it is closed


@dataclass(frozen=True, slots=True, kw_only=True)
class Whom:
    """The choice of this node.

    Attributes:
        own_load: how busy this node's engine is.
        own_model: the name that it serves; None on a node without an engine.
        own_digest: of that model's content, for who pins it; None where it is not known.
        luck: uniform in [0, 1).
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

    def serves(self, now: float) -> bool:
        """Tell whether a peer that this node may ask serves any model now."""
        names = (ModelName(offer.name) for offer in self.book.models(now))
        return any(self._allowed(self.book.candidates(name, now)) for name in names)

    def others_serve(self, model: ModelName, now: float) -> bool:
        """Tell whether a peer that is connected, and that this node may ask, would take a prompt for that model now."""
        found = self._allowed(self.book.candidates(model, now))
        return any(each.connected and not self.standings.standing(each.peer, now).closed for each in found)

    def choices(self, prompt: Prompt, now: float) -> tuple[Choice, ...]:
        """Return whom to try, in order, at least one.

        Where this node's own engine is away for a moment, it comes last: it answers once it is back.

        Raises:
            Refused: there is nobody.
        """
        ours = self.own_model()
        if prompt.via is not None:
            return (self._via(prompt.via, now),)
        if (answer := stored_answer(prompt)) is not None:
            return (self._keeper(answer, ours),)
        return self._for_model(prompt, ours, now)

    def awaited(self, prompt: Prompt, now: float) -> bool:
        """Tell whether a peer that may answer takes nothing for the moment, and will again.

        One that loads for the first time, or is away for another reason, is not worth a client's wait.
        """
        peers = tuple(self._may_answer(prompt, now))
        self.watch.want(peers)
        return any(peer != self.me and self.standings.standing(peer, now).returning for peer in peers)

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

    def _for_model(self, prompt: Prompt, ours: str | None, now: float) -> tuple[Choice, ...]:
        wanted = model_name(prompt.model) if prompt.model is not None else None
        if wanted is None and ours is None:
            wanted = self._any_model(now)  # for its engine's own words about a body without a model, or a bad one
        if wanted is None:
            if ours is None and prompt.model is not None:
                raise Refused(self._not_served(prompt.model, now))
            return (Choice(self.me, "local"),)
        here = ours == wanted.name and (wanted.pin is None or wanted.pin == self.own_digest())
        candidates = self._candidates(wanted, now)
        if not here and not candidates:
            return self._elsewhere(prompt, wanted, ours, now)
        route = self._route(here, candidates, now)
        if route.choices:
            last = here and self.standings.standing(self.me, now).returning
            return (*route.choices, Choice(self.me, "local")) if last else route.choices
        if here:
            return (Choice(self.me, "local"),)  # it says why not: loading, and how far; full, and until when
        raise Refused(all_closed(route))

    def _not_served(self, model: str, now: float) -> Refusal:
        """Refuse a model, on a node without an engine; where nobody serves anything yet, that may change soon."""
        offers = self.book.models(now)
        return unknown_model(model, (offer.name for offer in offers)) if offers else NOTHING_SERVED

    def _route(self, here: bool, candidates: tuple[Candidate, ...], now: float) -> Route:
        options = [
            Option(replica=each.peer, standing=self.standings.standing(each.peer, now), connected=each.connected)
            for each in candidates
        ]
        if here:
            self.standings.read(self.me, self.own_load(), now)  # exact, and free
            options.append(Option(replica=self.me, standing=self.standings.standing(self.me, now), local=True))
        self.watch.want(each.peer for each in candidates)
        return self._familiar_first(options, now)

    def _familiar_first(self, options: list[Option], now: float) -> Route:
        """Order those we know to be there before those of whom we only have an advert, which costs nothing to make up.

        Of the latter one is tried first where everybody else's slots are taken: an honest one would serve at once.
        """
        familiar = [each for each in options if each.connected or each.standing.known]
        route = self.router.order(familiar, now=now, luck=self.luck)
        if len(familiar) == len(options):
            return route
        if not route.choices:
            return self.router.order(options, now=now, luck=self.luck)
        unknown = [each for each in options if not (each.connected or each.standing.known)]
        strangers = self.router.order(unknown, now=now, luck=self.luck).choices
        first = route.choices[0].replica
        dared = int(first != self.me and self.standings.standing(first, now).full)
        return Route(choices=(*strangers[:dared], *route.choices, *strangers[dared:])[:CHOICES])

    def _candidates(self, wanted: ModelName, now: float) -> tuple[Candidate, ...]:
        if self.access.ask.everybody:
            return self._allowed(self.book.shortlist(wanted, now, self.luck))
        # A draw from all would seldom hit the few who are on the list.
        return self._allowed(self.book.candidates(wanted, now))[:SHORTLIST]

    def _allowed(self, candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
        return tuple(each for each in candidates if self.access.may_ask(each.peer))

    def _any_model(self, now: float) -> ModelName | None:
        offers = self.book.models(now)
        return ModelName(offers[0].name) if offers else None

    def _elsewhere(self, prompt: Prompt, wanted: ModelName, ours: str | None, now: float) -> tuple[Choice, ...]:
        """Decide about a model that nobody we may ask serves."""
        if self.book.candidates(wanted, now):
            raise Refused(NOT_ASKED)
        if ours is None:
            raise Refused(self._not_served(prompt.model or str(wanted), now))
        return (Choice(self.me, "local"),)  # it may know the name as an alias or an adapter; else it says no itself

    def _keeper(self, answer: str, ours: str | None) -> Choice:
        """Return who keeps a stored answer: nobody else has it."""
        keeper = self.stored.keeper(answer)
        if keeper is not None and keeper != self.me:
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
        return Choice(peer, "via")


def unpinned(prompt: Prompt) -> Prompt:
    """Return the prompt with the model's plain name, which is all that an engine knows."""
    wanted = model_name(prompt.model) if prompt.model is not None else None
    if wanted is None or wanted.pin is None:
        return prompt
    return replace(prompt, body=without_pin(prompt.body, wanted))
