"""The account of what this node used of its peers and they of it: counted, kept across restarts, held against limits.

Knows no routing and no file: whoever asks peers or answers them tells of each answer's end, a store keeps the sums.
They are written now and then, not for each answer: a crash forgets the last ten seconds of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isinf, nan
from typing import Any, Final, Protocol

import structlog
import trio

from node.core import spending
from node.core.spending import DAYS, MICRO, MONTH, REST, Books, Kept, Pledges, SpendLimits
from node.errors import Refusal, Unavailable
from protocol.ids import PeerId

EVERY: Final = 10.0  # s between two writings
AGAIN: Final = 60.0  # s until the next where the disk refused
LAST: Final = 2.0  # s for the writing at the node's end
TOLD: Final = 200  # peers that are told of, those who are owed most first

log = structlog.get_logger(__name__)


class Store(Protocol):
    """Keeps the sums of each day and peer."""

    async def read(self, *, first_day: int) -> Sequence[Kept]:
        """Return what is kept from that day on; raises `Unavailable`."""
        ...

    async def write(self, lines: Sequence[Kept], *, first_day: int) -> None:
        """Keep these in place of the same days' and peers', and forget all before a day; raises `Unavailable`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What answers cost somewhere, at this moment.

    Attributes:
        price: of a device for an hour; NaN where none is asked.
        devices: of the engine.
        outstanding: prompts there, as far as this node can tell.
    """

    price: float = nan
    devices: float = 1.0
    outstanding: float = 1.0


class AccountKeeper:
    """See the module. `run` is its one long-lived task. Keeps the port `node.services.ask_means.Purse`."""

    def __init__(
        self,
        *,
        me: PeerId,
        store: Store | None,
        limits: SpendLimits,
        terms: Callable[[PeerId], Terms],
        wall: Callable[[], int],
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        """Prepare.

        Args:
            me: whose own engine is asked for nothing.
            store: None: nothing outlives this run.
            terms: what a peer, or `me`, tells.
            wall: microseconds since 1970.
        """
        self._me = me
        self._store = store
        self._limits = limits
        self._terms = terms
        self._wall = wall
        self._clock = clock
        self._books = Books()
        self._pledges = Pledges()
        self._read = store is None
        self._refused = 0

    # -- told by those who ask and answer

    def over(
        self, replica: PeerId, seconds: float, *, begun: bool, prompt_tokens: int = 0, output_tokens: int = 0
    ) -> None:
        """Note that an attempt at a prompt of ours has ended.

        Args:
            seconds: since it was begun.
            begun: whether anything of an answer came. What never answered is owed nothing.
            prompt_tokens, output_tokens: 0 where they are not known.
        """
        if replica == self._me:
            return
        self._pledges.keep(replica)
        if not begun:
            return
        terms = self._terms(replica)
        line = spending.used(
            seconds,
            devices=terms.devices,
            outstanding=terms.outstanding,
            price=terms.price,
            prompt_tokens=prompt_tokens,
            output_tokens=output_tokens,
        )
        self._books.add(self._today(), replica, line)

    def lent(self, peer: PeerId, seconds: float, tokens: int) -> None:
        """Note that this node is done with a prompt of a peer, in so many seconds; no tokens: it was refused."""
        if tokens <= 0:
            return
        ours = self._terms(self._me)
        line = spending.lent(
            seconds, devices=ours.devices, outstanding=ours.outstanding, price=ours.price, tokens=tokens
        )
        self._books.add(self._today(), peer, line)

    # -- the purse

    def allowance(self) -> float | None:
        """See `node.services.ask_means.Purse`. Nothing, until it is known what the runs before have spent today."""
        if self._limits == SpendLimits():
            return None
        if not self._read:
            return 0.0
        self._pledges.expire(self._clock())
        return self._limits.allowance(self._books.owed_on(self._today()) + self._pledges.micro)

    def pledge(self, replica: PeerId, amount: float, seconds: float) -> None:
        """See `node.services.ask_means.Purse`."""
        micro = round(min(amount * MICRO, float(spending.MOST)))
        self._pledges.make(replica, micro, now=self._clock(), seconds=seconds)

    def refusal(self, least: float) -> Refusal:
        """See `node.services.ask_means.Purse`."""
        self._refused += 1
        per_request, per_day = self._limits.per_request, self._limits.per_day
        would = "" if isinf(least) else f"This answer would cost at least {least:.6g}. "
        free = "and none of the replicas that ask nothing takes it"
        if per_request is not None and not isinf(least) and least > per_request:
            return _insufficient(
                f"{would}routing.spend_per_request allows {per_request:g} for one answer, {free}. Ask for fewer tokens "
                "(max_tokens), or have the node's owner raise that limit in its configuration file.",
                None,
            )
        spent = (self._books.owed_on(self._today()) + self._pledges.micro) / MICRO
        left = spending.left_of_day(self._wall())
        return _insufficient(
            f"{would}Of the {per_day or 0:g} that routing.spend_per_day allows for a day {spent:.6g} are used or "
            f"pledged, {free}. A new day begins at 00:00 UTC, in {left / 3600:.1f} hours; until then the node's owner "
            "may raise that limit in its configuration file. `metainf account` says what was spent on whom.",
            int(left) + 1,
        )

    # -- what is told of it

    def facts(self) -> dict[str, Any]:
        """Return the block `account` of `metainf status --json`."""
        today = self._today()
        left = self._limits.allowance(self._books.owed_on(today) + self._pledges.micro)
        return {
            "today": spending.plain(self._books.total(today, today)),
            "days_30": spending.plain(self._books.total(today - MONTH, today)),
            "limits": {"per_day": self._limits.per_day, "per_request": self._limits.per_request},
            "next_may_cost": left,
            "pledged": self._pledges.micro / MICRO,
            "refused": self._refused,
            "new_day_in_s": round(spending.left_of_day(self._wall())),
            "kept": self._read and self._store is not None,
        }

    def page(self) -> dict[str, Any]:
        """Return the document of `metainf account --json`: the facts, and who used what, of at most `TOLD` peers."""
        today = self._today()
        of_today = self._books.by_peer(today, today)
        of_month = self._books.by_peer(today - MONTH, today)
        peers = [
            {
                "peer_id": None if peer is REST else str(peer),  # the rest of a day with too many to count apart
                "today": spending.plain(of_today.get(peer, spending.Line())),
                "days_30": spending.plain(line),
            }
            for peer, line in list(of_month.items())[:TOLD]
        ]
        return self.facts() | {"peers": peers, "peers_left_out": max(len(of_month) - TOLD, 0)}

    # -- keeping it

    async def run(self) -> None:
        """Read what was kept, and write what is new; return never. Cancelled, it writes once more."""
        try:
            while True:
                kept = await self._keep()
                await trio.sleep(EVERY if kept else AGAIN)
        finally:
            with trio.move_on_after(LAST, shield=True):
                await self._keep()

    async def _keep(self) -> bool:
        """Read, where that is not done yet, and write; return whether the disk did."""
        today = self._today()
        self._books.forget(today)
        if self._store is None:
            return True
        first = today - DAYS + 1
        lines: Sequence[Kept] = ()
        try:
            if not self._read:
                self._books.load(await self._store.read(first_day=first))
                self._read = True
            lines = self._books.changed()
            if lines:
                await self._store.write(lines, first_day=first)
        except Unavailable as error:
            self._books.again(lines)
            log.warning("account.not_kept", reason=error.message)
            return False
        return True

    def _today(self) -> int:
        return spending.day_of(self._wall())


def _insufficient(message: str, retry_after: int | None) -> Refusal:
    """Return what OpenAI says to whoever has used up what he has: its clients know it by type and code."""
    return Refusal(
        status=429, type="insufficient_quota", code="insufficient_quota", message=message, retry_after=retry_after
    )
