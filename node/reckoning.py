"""What answers cost, here and at peers, and the account of it: a part of the composition.

Decides nothing: where prices, devices and prompts outstanding are known is connected with who counts them.
"""

from collections.abc import Callable
from typing import Protocol

import trio

from node.core.candidates import Offering, offered, offering, told_price
from node.core.engine_state import ServedModel
from node.core.peerbook import Peerbook
from node.core.standings import Standings
from node.core.strategy import Strategy, to_plain
from node.hands import SwarmHands
from node.policies import Policies, SwarmPolicies
from node.ports import EngineBoard
from node.services.keep_account import AccountKeeper, Terms
from protocol.ids import PeerId
from protocol.load import Load


class OwnEngine(EngineBoard, Protocol):
    """The engine of this node, as far as the swarm is told of it."""

    def models(self) -> tuple[ServedModel, ...]:
        """Return what it lists; empty until it was ready once."""
        ...


class OwnReplica(Protocol):
    """What answers with it."""

    def load(self) -> Load:
        """Tell how busy it is."""
        ...


class Home(Protocol):
    """A node without its company, as far as it is reckoned with (`node.company.Home`)."""

    @property
    def me(self) -> PeerId:
        """Its name."""
        ...

    @property
    def engine(self) -> OwnEngine:
        """Its own engine."""
        ...

    @property
    def replica(self) -> OwnReplica:
        """What answers with that."""
        ...

    @property
    def strategy(self) -> Callable[[], Strategy]:
        """Returns what the engine works under."""
        ...

    @property
    def wall(self) -> Callable[[], int]:
        """Returns microseconds since 1970."""
        ...


class Reckoning:
    """`account` counts; the rest is for the router."""

    def __init__(
        self,
        home: Home,
        hands: SwarmHands,
        policies: Policies,
        among: SwarmPolicies,
        *,
        book: Peerbook,
        standings: Standings,
    ) -> None:
        """Prepare; who counts what peers did is told of it by whoever asks them."""
        self._home = home
        self._hardware = hands.hardware
        self._asked = told_price(among.price_per_hour, hands.hardware)
        self._worth = told_price(policies.routing.own_price_per_hour, hands.hardware)
        self._book = book
        self._standings = standings
        self.account = AccountKeeper(
            me=home.me, store=hands.account, limits=policies.routing.spend, terms=self._terms, wall=home.wall
        )

    def own_model(self) -> str | None:
        """Return the name of the model that this node's engine serves; None where there is none."""
        return self._home.engine.snapshot().model

    def own_names(self) -> list[str]:
        """Return the names of all models that this node's engine lists; none until it was ready once."""
        return [each.name for each in self._home.engine.models()]

    def own_offering(self) -> Offering:
        """Return what this node's engine is and costs, in the words of adverts."""
        model = self.own_model()
        return offered(
            self._home.me,
            hardware=self._hardware,
            strategy=to_plain(self._home.strategy()),
            price=self._worth,
            context=next((each.max_length for each in self._home.engine.models() if each.name == model), None),
        )

    def _terms(self, peer: PeerId) -> Terms:
        """Return what answers cost somewhere at this moment; called when one has ended, which is counted in again."""
        if peer == self._home.me:
            outstanding = float(self._home.replica.load().outstanding)
            found = offered(peer, hardware=self._hardware, strategy=None, price=self._asked)
        else:
            now = trio.current_time()
            signed = self._book.advert_of(peer, now)
            outstanding = self._standings.standing(peer, now).work
            found = offering(peer, None if signed is None else signed.body)
        return Terms(price=found.price, devices=found.devices, outstanding=outstanding + 1.0)
