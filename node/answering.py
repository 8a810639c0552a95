"""Who answers what is asked here: this node's engine, or a peer; and who goes on where one of them breaks off.

The part of the composition between the API and the replicas. Decides nothing: which policy routes, and what is counted
how, where several count the same prompt.
"""

import secrets
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from node.core.access import Access
from node.core.engine_state import ServedModel
from node.core.experience import Experience
from node.core.peerbook import Change, Peerbook
from node.core.predictive import Predictive
from node.core.prompt import OWNER
from node.core.router import LeastOutstanding, Router
from node.core.standings import Standings
from node.foretelling import Foretelling
from node.hands import Network
from node.http.routing import AccountBook, routing_facts
from node.policies import Policies
from node.ports import Replica
from node.reckoning import Reckoning
from node.services.ask import AskHold, SwarmReplica
from node.services.ask_peer import Watch
from node.services.resume import ResumingReplica
from node.services.serve import LocalReplica
from protocol.advert import ModelOffer
from protocol.ids import ContentDigest, PeerId


def among_peers(  # noqa: PLR0913 -- what a replica among peers is made of
    *,
    me: PeerId,
    local: LocalReplica,
    own_digest: Callable[[], ContentDigest | None],
    reckoning: Reckoning,
    network: Network,
    book: Peerbook,
    standings: Standings,
    access: Access,
    foretelling: Foretelling,
    watch: Watch,
    luck: Callable[[], float],
    on_change: Callable[[tuple[Change, ...]], None],
    policies: Policies,
) -> SwarmReplica:
    """Return what finds the best replica for a prompt and asks it, by the policy that the settings name."""
    experience = Experience(key=secrets.token_bytes(32))
    router: Router = LeastOutstanding()
    if policies.routing.predictive:
        router = Predictive(curves=foretelling.shelf, trips=foretelling.trips, experience=experience)
    admission = policies.admission
    return SwarmReplica(
        me=me,
        local=local,
        own_load=partial(local.load, OWNER),
        own_model=reckoning.own_model,
        own_digest=own_digest,
        own_offering=reckoning.own_offering,
        own_names=reckoning.own_names,
        purse=reckoning.account,
        spent=reckoning.account.over,
        streams=network,
        swarm=network,
        book=book,
        standings=standings,
        access=access,
        router=router,
        experience=experience,
        edition=lambda: book.edition,
        sent=foretelling.trips.note_sent,
        watch=watch,
        luck=luck,
        on_change=on_change,
        hold=AskHold(longest=admission.longest_hold, prompts=max(admission.waiting, 1)),
    )


class Answering:
    """What the API asks. `replica` is whom; `facts` is what became of it."""

    def __init__(
        self,
        local: LocalReplica,
        among: SwarmReplica | None,
        *,
        policies: Policies,
        own: Callable[[], Iterable[ServedModel]],
        offers: Callable[[], Iterable[ModelOffer]],
        blame: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare.

        Args:
            among: who asks peers as well; None on a node that is alone.
            own: what this node's engine lists. offers: what peers serve.
            blame: gets the node whose answer turned out to be none; None where there are no peers.
        """
        self._local = local
        self._among = among
        self._own = own
        self._offers = offers
        inner: Replica = local if among is None else among
        self._resuming = None
        if policies.routing.resume is not None:
            self._resuming = ResumingReplica(inner, room=self._room, limits=policies.routing.resume, blame=blame)
        self.replica: Replica = self._resuming or inner

    @property
    def accounts(self) -> AccountBook | None:
        """Why prompts went where they went; None on a node that is alone."""
        return None if self._among is None else self._among.accounts

    def routing(self) -> Mapping[str, Any]:
        """Return the block `routing` of `metainf status --json`: what was foretold, and how true that was."""
        if self._among is None:
            return {}
        resumed = 0 if self._resuming is None else self._resuming.counts().resumed
        counts = self._among.counts()
        return routing_facts(
            self._among.experience,
            self._among.accounts,
            resumed=resumed,
            hedged=counts.hedged,
            hedges_won=counts.hedges_won,
        )

    def facts(self) -> Mapping[str, Any]:
        """Count the prompts that were asked here, each once, as its client saw it."""
        among = None if self._among is None else self._among.counts()
        counts = among or self._local.counts()
        again = None if self._resuming is None else self._resuming.counts()
        return {
            "running": counts.running,
            "waiting": self._local.counts().waiting,
            "served": counts.served,
            "failed": counts.failed - (0 if again is None else again.hidden_failed),
            "refused": counts.refused - (0 if again is None else again.hidden_refused),
            "abandoned": counts.abandoned,
            "retried": 0 if among is None else among.retried,
            "hedged": 0 if among is None else among.hedged,
            "resumed": 0 if again is None else again.resumed,
        }

    def _room(self, model: str | None) -> int | None:
        """Return the longest context that anybody offers a model with, in tokens; None where nobody tells."""
        lengths = [each.max_length for each in self._own() if model in (None, each.name)]
        lengths += [each.max_length for each in self._offers() if model in (None, each.name)]
        return max((each for each in lengths if each is not None), default=None)
