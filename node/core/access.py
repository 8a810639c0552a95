"""Who may use what: whom this node serves, whom its own prompts may go to, and how much each may ask for.

Knows no network. Two lists, because they protect two things: `serve` the owner's machine, `ask` the owner's
prompts, which the peer that serves them can read. A no is polite and says why, so that an honest peer goes
elsewhere and a person knows what to change.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from node.core.prompt import Requester, RequesterKind
from node.core.quota import UNLIMITED, Exceeded, Exceeding, QuotaLimits
from node.errors import Refusal
from protocol.ids import InvalidId, PeerId

EVERYBODY_WORD = "everybody"
NOBODY_WORD = "nobody"
PEERS_LISTED = 4096  # on one list; a larger circle is a private swarm


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerList:
    """Everybody, nobody, or these peers; `but` are never on it."""

    everybody: bool = False
    peers: frozenset[PeerId] = frozenset()
    but: frozenset[PeerId] = frozenset()

    def __contains__(self, peer: PeerId) -> bool:
        return peer not in self.but and (self.everybody or peer in self.peers)

    @property
    def empty(self) -> bool:
        """Whether nobody at all is on it."""
        return not self.everybody and not self.peers - self.but


EVERYBODY = PeerList(everybody=True)
NOBODY = PeerList()


def parse_peer_list(words: Iterable[str]) -> PeerList:
    """Read a list as the operator writes it: `["everybody"]`, `["nobody"]`, or peer ids; `!` before one excludes it.

    Raises:
        ValueError: with what is wrong, for a person.
    """
    given = list(words)
    if len(given) > PEERS_LISTED:
        raise ValueError(f"{len(given)} entries where {PEERS_LISTED} are allowed")
    special = {EVERYBODY_WORD, NOBODY_WORD} & set(given)
    named = [word for word in given if word not in special]
    if len(special) > 1 or (NOBODY_WORD in special and named):
        raise ValueError(f"{NOBODY_WORD!r} stands alone")
    peers = frozenset(_peer(word) for word in named if not word.startswith("!"))
    if EVERYBODY_WORD in special and peers:
        raise ValueError(f"beside {EVERYBODY_WORD!r} only exclusions (!PEER) mean something")
    return PeerList(
        everybody=EVERYBODY_WORD in special,
        peers=peers,
        but=frozenset(_peer(word[1:]) for word in named if word.startswith("!")),
    )


def _peer(word: str) -> PeerId:
    try:
        return PeerId.from_string(word)
    except InvalidId as error:
        raise ValueError(f"{word[:80]!r}: write {EVERYBODY_WORD}, {NOBODY_WORD} or a peer id ({error})") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The rules of one node.

    Attributes:
        serve: whose prompts this node answers with its engine.
        ask: whose engines may see prompts that were asked here.
        each: how much a served peer may ask for.
        of: the same for some peers by name, instead of `each`.
        may_be_served, may_serve: what peers' certificates allow them, in a private swarm; None: everything.
    """

    serve: PeerList = EVERYBODY
    ask: PeerList = EVERYBODY
    each: QuotaLimits = UNLIMITED
    of: Mapping[PeerId, QuotaLimits] = field(default_factory=dict[PeerId, QuotaLimits])
    may_be_served: Callable[[PeerId], bool] | None = None
    may_serve: Callable[[PeerId], bool] | None = None

    def refusal(self, peer: PeerId) -> Refusal | None:
        """Return why a peer's prompts are not taken; None where they are."""
        if self.may_be_served is not None and not self.may_be_served(peer):
            return NOT_ITS_ROLE
        if peer in self.serve:
            return None
        why = "nobody but its owner" if self.serve.empty else "only some peers, and you are none of them"
        return Refusal(
            status=403,
            type="permission_denied",
            code="not_served",
            message=f"This node serves {why}.",
        )

    def may_ask(self, peer: PeerId) -> bool:
        """Tell whether a prompt asked here may go to a peer, which could read it."""
        return peer in self.ask and (self.may_serve is None or self.may_serve(peer))

    def quota_of(self, peer: PeerId) -> QuotaLimits:
        """Return how much a peer may ask for."""
        return self.of.get(peer, self.each)


NOT_ITS_ROLE = Refusal(
    status=403,
    type="permission_denied",
    code="not_its_role",
    message="This swarm's members with the role `ask` are served, and you are none of them.",
)


def requester_of(peer: PeerId) -> Requester:
    """Return a peer as admission and quotas count it: whatever it asks on whose behalf, it answers for it."""
    return Requester(RequesterKind.PEER, str(peer))


_EXCEEDING: Mapping[Exceeding, str] = {
    Exceeding.REQUESTS: "{limit} prompts a minute",
    Exceeding.TOKENS: "{limit} tokens a minute",
    Exceeding.CONCURRENT: "{limit} prompts at once",
}


def quota_refusal(exceeded: Exceeded) -> Refusal:
    """Return what a peer is told whose quota is spent."""
    share = _EXCEEDING[exceeded.what].format(limit=exceeded.limit)
    return Refusal(
        status=429,
        type="rate_limit_error",
        code="rate_limit_exceeded",
        message=f"This node gives each peer {share}.",
        retry_after=exceeded.retry_after,
    )
