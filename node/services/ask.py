"""Having a prompt answered by whichever replica is best: this node's own engine or a peer, and the next if one fails.

Knows neither HTTP nor what peers say on the wire. The order is the router's. Until the first byte of an answer's body
is here, nothing has been told to anybody, so an attempt that fails is followed by the next choice and the client
never hears of it. From the first byte on the answer is this replica's, and if it breaks off, that is told.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from secrets import token_bytes
from types import TracebackType

import trio

from node.core.access import Access
from node.core.candidates import Offering
from node.core.endpoints import generates
from node.core.experience import Experience
from node.core.explanation import Account, Accounts
from node.core.hedging import PERCENT, Budget
from node.core.peerbook import Change, Peerbook
from node.core.prompt import Prompt, RequesterKind
from node.core.router import Router
from node.core.standings import Standings
from node.core.stored import StoredAnswers
from node.errors import Broken, Refused
from node.ports import Replica, ServedAnswer, Streams, Swarm
from node.services.ask_hedged import Hedger
from node.services.ask_means import Purse
from node.services.ask_note import End, Noted, Spent
from node.services.ask_one import Course, Means
from node.services.ask_peer import AskPatience, PeerAsker, Watch
from node.services.ask_rounds import AskHold, Attempts, Rounds
from node.services.ask_verdict import Tried
from node.services.ask_whom import Whom
from protocol.ids import ContentDigest, ModelName, PeerId
from protocol.load import Load


@dataclass(frozen=True, slots=True, kw_only=True)
class AskCounts:
    """What became of the prompts that were asked here since the node came up, whoever answered.

    Attributes:
        running: being answered, or looking for who will.
        served: answered whole, whatever the status.
        failed: broken off, before or after the first byte.
        refused: nobody would.
        abandoned: the client left before the end.
        retried: attempts that were followed by another one elsewhere.
        hedged: prompts whose first byte was late, and which somebody else was asked as well.
        hedges_won: those of them that the second answered.
    """

    running: int
    served: int
    failed: int
    refused: int
    abandoned: int
    retried: int
    hedged: int = 0
    hedges_won: int = 0


class SwarmReplica:
    """`node.ports.Replica` over this node's engine and its peers."""

    def __init__(  # noqa: PLR0913 -- what a decision is made of, each by itself
        self,
        *,
        me: PeerId,
        local: Replica,
        own_load: Callable[[], Load],
        own_model: Callable[[], str | None],
        streams: Streams,
        swarm: Swarm,
        book: Peerbook,
        standings: Standings,
        access: Access,
        router: Router,
        watch: Watch,
        luck: Callable[[], float],
        on_change: Callable[[tuple[Change, ...]], None],
        own_digest: Callable[[], ContentDigest | None] = lambda: None,
        patience: AskPatience | None = None,
        hold: AskHold | None = None,
        clock: Callable[[], float] = trio.current_time,
        experience: Experience | None = None,
        edition: Callable[[], int] | None = None,
        own_offering: Callable[[], Offering] | None = None,
        sent: Callable[[PeerId, int, float], None] = lambda _peer, _bytes, _seconds: None,
        hedge_percent: float = PERCENT,
        own_names: Callable[[], Iterable[str]] = tuple,
        purse: Purse | None = None,
        spent: Spent | None = None,
    ) -> None:
        """Prepare.

        Args:
            local: answers with this node's engine; refuses where there is none.
            own_load: how busy that is.
            own_model: the name that it serves; None on a node without an engine.
            own_digest: of that model's content, for who pins it; None where it is not known.
            luck: uniform in [0, 1).
            on_change: gets what setting a peer aside has changed in the book.
            hold: how prompts wait where those who might answer change their strategies.
            experience: what the router decides by and answers teach; None: one of its own, which nobody else reads.
            edition: changes whenever the book does (`node.services.ask_whom.Whom`).
            own_offering: what this node's own engine costs.
            sent: gets how many bytes of a prompt went to a peer, and in how many seconds.
            hedge_percent: of the prompts, somebody else is asked as well where the first byte is late.
            own_names: of all models that this node's engine answers for; none where that is not known.
            purse: limits what is owed to peers; None: nothing does.
            spent: gets what each attempt used, once it is over.
        """
        self._clock = clock
        stored = StoredAnswers()
        self.experience = experience or Experience(key=token_bytes(32))
        self.accounts = Accounts()
        self._whom = Whom(
            me=me,
            own_load=own_load,
            own_model=own_model,
            own_digest=own_digest,
            book=book,
            standings=standings,
            stored=stored,
            access=access,
            router=router,
            watch=watch,
            luck=luck,
            experience=self.experience,
            edition=edition,
            own_offering=own_offering,
            own_names=own_names,
            purse=purse,
        )
        peers = PeerAsker(
            streams=streams,
            swarm=swarm,
            book=book,
            standings=standings,
            watch=watch,
            on_change=on_change,
            patience=patience or AskPatience(),
            clock=clock,
            sent=sent,
        )
        means = Means(
            me=me,
            local=local,
            peers=peers,
            whom=self._whom,
            stored=stored,
            standings=standings,
            experience=self.experience,
            clock=clock,
            spent=spent,
        )
        self._hedger = Hedger(Budget(percent=hedge_percent), clock=clock)
        self._rounds = Rounds(means=means, accounts=self.accounts, hedger=self._hedger, hold=hold or AskHold())
        self._running = self._served = self._failed = self._refused = self._abandoned = 0
        self._generating = self._generating_seen = 0

    async def run(self) -> None:
        """Have second replicas asked where a first byte is late; return never. All else goes without it."""
        await self._hedger.run()

    def generating_running(self) -> int:
        """Count the prompts for endpoints that generate which are owed an answer now, whoever gives it."""
        return self._generating

    def generating_seen(self) -> int:
        """Count those that ever came, whatever became of them."""
        return self._generating_seen

    def counts(self) -> AskCounts:
        """Count what was done."""
        return AskCounts(
            running=self._running,
            served=self._served,
            failed=self._failed,
            refused=self._refused,
            abandoned=self._abandoned,
            retried=self._rounds.retried,
            hedged=self._hedger.hedged,
            hedges_won=self._hedger.won,
        )

    def serves(self) -> bool:
        """Tell whether a peer that this node may ask serves any model now."""
        return self._whom.serves(self._clock())

    def others_serve(self, model: ModelName) -> bool:
        """Tell whether a peer that this node may ask would take a prompt for that model now."""
        return self._whom.others_serve(model, self._clock())

    def answer(self, prompt: Prompt) -> "_Visit":
        """See `node.ports.Replica.answer`; entered once the first bytes of the body are here as well.

        Raises:
            Refused: the most helpful of the refusals; or there is nobody to ask: 404 where the model is known to
                nobody (or `via` names nobody), 403 where no list lets the prompt go, 429 or 503 where all are busy
                or away, 400 where its headers ask for what there is not.
            Broken: everybody who took the prompt broke off.
        """
        assert prompt.requester.kind is not RequesterKind.PEER  # noqa: S101 -- what peers ask goes to our engine alone
        return _Visit(self, prompt)

    # What follows is `_Visit`'s.

    async def enter(self, visit: "_Visit") -> Noted:
        """Have a prompt answered, until the first bytes are here."""
        prompt, end = visit.prompt, visit.end
        works = visit.works = generates(prompt.path)
        self._running += 1
        self._generating += works
        self._generating_seen += works
        account = visit.account = self.accounts.open(prompt.request_id, self._clock())
        here = False
        try:
            course = Course(prompt=prompt, account=account, tried=Tried(), end=end)
            visit.attempts = attempts = Attempts(self._rounds, course)
            answer = await attempts.first()
            here = True
        except Refused:
            end.refused = True
            raise
        except Broken:
            end.broken = True
            raise
        finally:
            if not here:
                if visit.attempts is not None:
                    visit.attempts.abandon()
                self._over(visit)
        return answer

    async def exit(self, visit: "_Visit", error: BaseException | None) -> None:
        """Leave an answer, whatever became of it."""
        end = visit.end
        end.interrupted = error is not None
        try:
            assert visit.attempts is not None  # noqa: S101 -- entered
            await visit.attempts.leave(error)
        finally:
            end.refused = isinstance(error, Refused)
            end.broken = end.broken or isinstance(error, Broken)
            self._over(visit)

    def _over(self, visit: "_Visit") -> None:
        self._running -= 1
        self._generating -= visit.works
        self._count(visit.end)
        if visit.account is not None:
            visit.account.close()

    def _count(self, end: End) -> None:
        if end.refused:
            self._refused += 1
        elif end.broken:
            self._failed += 1
        elif end.whole and not end.interrupted:
            self._served += 1
        else:
            self._abandoned += 1


class _Visit:
    """One prompt and its answer, as a context. A class by hand: a generator made into one costs five times as much."""

    __slots__ = ("_replica", "account", "attempts", "end", "prompt", "works")

    def __init__(self, replica: SwarmReplica, prompt: Prompt) -> None:
        self.prompt = prompt
        self.works = False
        self.end = End()
        self.account: Account | None = None
        self.attempts: Attempts | None = None
        self._replica = replica

    async def __aenter__(self) -> ServedAnswer:
        return await self._replica.enter(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._replica.exit(self, error)
