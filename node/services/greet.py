"""Greeting every peer that there is a connection with, and parting from those we do not go together with.

Knows no transport, no advert and no list of who is welcome. Whoever dialled opens the greeting; the other end waits
for it, not for long. Until a peer has greeted, nothing else is done with it: services ask `met`. The rules of the
greeting are `protocol.hello`'s; here are its streams, its deadlines and what follows from how it ended.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import structlog
import trio

from node.core.addressbook import AddressBook
from node.core.peerbook import Change, Peerbook
from node.errors import Broken, Unreachable, WhyNot
from node.ports import PeerStream, Streams, Swarm
from protocol.dialogue import Role
from protocol.errors import RemoteProtocolError
from protocol.hello import PROTOCOL_ID, SCRIPT, Greeting, Hello, Judge, Part, PartCode, Parted, Settled, welcome_all
from protocol.ids import PeerId

log = structlog.get_logger(__name__)

GREETING = 5.0  # s for a whole greeting: three round trips to the other side of the world take one
COME_FORWARD = 10.0  # s that a peer who dialled us has until it has greeted
CLOSE = 2.0  # s for closing a connection
AGAIN = 1.0  # s between two greetings of one peer: each may tell of a new run, and the world hears of it
FIRST_SHUN, LONGEST_SHUN = 5.0, 3600.0  # s after a greeting that failed, doubled each time
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
# s until a peer is dialled again that parted so (docs/protocol/hello.md). What is to be forgotten comes back after a
# day: a node may have been set up anew. A sign that it changed before (an advert of a later run) lifts it.
SHUNNED_FOR: Final[Mapping[str, float]] = {
    PartCode.WRONG_SWARM: DAY,
    PartCode.MYSELF: DAY,
    PartCode.NOTHING_IN_COMMON: DAY,
    PartCode.NOT_WELCOME: HOUR,
    PartCode.NOT_A_MEMBER: 10 * MINUTE,  # it may be given a certificate any time, and comes by itself then
    PartCode.FULL: 3 * MINUTE,  # codes that are not known here count as this one
    PartCode.STOPPING: MINUTE / 2,
}
# s; that for whom the operator named to join through: a node that waits for him alone must not miss his coming back.
LONGEST_SHUN_CONFIGURED = 15 * MINUTE
REMEMBERED = 1024  # peers whose failures, and what was logged of whom, are remembered; the oldest is forgotten
CLOCK_REMEDY = "one of the two clocks is wrong; set it: timedatectl set-ntp true"


@dataclass(slots=True, eq=False)
class _Guest:
    """One peer while it is connected. `over` is set once it is met, or gone."""

    settled: Settled | None = None
    parted: bool = False  # it is known why nothing comes of it: how the connection ends says nothing more
    greeted_at: float = float("-inf")
    over: trio.Event = field(default_factory=trio.Event)
    turn: trio.Lock = field(default_factory=trio.Lock)  # of those streams on which it greets: one at a time


class Greeter:
    """Greets and is greeted. `run` is its one long-lived task."""

    def __init__(  # noqa: PLR0913 -- each is one capability
        self,
        swarm: Swarm,
        streams: Streams,
        *,
        ours: Hello,
        book: Peerbook,
        addresses: AddressBook,
        wall: Callable[[], int],
        apply: Callable[[Iterable[Change]], None],
        greeted: Callable[[PeerId], None],
        judge: Judge = welcome_all,
        complain: Callable[[PeerId, str], None] = lambda _peer, _reason: None,
        parted: Callable[[PeerId, WhyNot, str], None] = lambda *_: None,
    ) -> None:
        """Prepare.

        Args:
            ours: what this run of the node says; the time in it is filled in.
            wall: microseconds since 1970.
            apply: gets what the book says has changed.
            greeted: called once for each meeting, after `apply`.
            judge: tells who is not welcome; that there is room is seen to here.
            complain: called of those who greet as no honest node does, or let us wait for it.
            parted: gets each peer with which nothing came of a greeting, and why, in words that may be shown.
        """
        self._swarm = swarm
        self._streams = streams
        self._ours = ours
        self._book = book
        self._addresses = addresses
        self._wall = wall
        self._apply = apply
        self._greeted = greeted
        self._judge = judge
        self._complain = complain
        self._parted = parted
        self._guests: dict[PeerId, _Guest] = {}
        self._failures: OrderedDict[PeerId, int] = OrderedDict()
        self._remarked: OrderedDict[tuple[PeerId, str], None] = OrderedDict()
        self._stopping = False

    async def run(self) -> None:
        """Greet, be greeted, and note who is gone; return never."""
        self._streams.serve(PROTOCOL_ID, self._answer, frame_bytes=SCRIPT.limit)
        seen: frozenset[PeerId] = frozenset()
        async with trio.open_nursery() as nursery:
            while True:
                here = await self._swarm.changed(seen)
                for peer in (seen | self._guests.keys()) - here:
                    self._lose(peer)
                for peer in here - seen:
                    nursery.start_soon(self._receive, peer)
                seen = here

    def stop(self) -> None:
        """Have everybody who greets from now on be told that this node is going."""
        self._stopping = True

    def settled(self, peer: PeerId) -> Settled | None:
        """Return what a peer that was met and we have in common; None where it was not met."""
        guest = self._guests.get(peer)
        return None if guest is None else guest.settled

    async def met(self, peer: PeerId) -> bool:
        """Tell whether a peer has greeted; one that is connected is waited for, `GREETING` seconds at most."""
        if peer not in self._swarm.connected():
            return False
        guest = self._guest(peer)
        if not guest.over.is_set():
            with trio.move_on_after(GREETING):
                await guest.over.wait()
        return guest.settled is not None

    async def _receive(self, peer: PeerId) -> None:
        """See a new connection through its greeting, or to its end."""
        guest = self._guest(peer)
        if self._swarm.dialled(peer):
            await self._greet(peer)
            # Two who dial each other at once greet twice: one greeting that went well is enough.
            in_vain = guest.settled is None
        else:
            with trio.move_on_after(COME_FORWARD):
                await guest.over.wait()
            in_vain = not guest.over.is_set()  # one that greeted in vain is let go by who talked to it
            if in_vain:
                self._failed(peer, f"it said nothing for {COME_FORWARD:g} s")
                self._complain(peer, "no_greeting")
        if in_vain and self._guests.get(peer) is guest:
            await self._disconnect(peer)

    async def _greet(self, peer: PeerId) -> None:
        guest, reason = self._guest(peer), f"no greeting within {GREETING:g} s"
        with trio.move_on_after(GREETING):
            try:
                async with self._streams.open(peer, PROTOCOL_ID, patience=GREETING, frame_bytes=SCRIPT.limit) as stream:
                    await self._converse(stream, Role.OPENER)
                    return
            except (Unreachable, Broken) as error:
                reason = error.message
        if self.settled(peer) is None and not guest.parted:
            self._failed(peer, reason)

    async def _answer(self, stream: PeerStream) -> None:
        guest = self._guest(stream.peer)
        with trio.move_on_after(AGAIN + GREETING):
            async with guest.turn:
                if guest.settled is not None:
                    await trio.sleep_until(guest.greeted_at + AGAIN)
                with suppress(Broken):  # the connection's end will be seen; without it there may be another greeting
                    await self._converse(stream, Role.ANSWERER)
        if guest.over.is_set() and guest.settled is None and self._guests.get(stream.peer) is guest:
            await self._disconnect(stream.peer)

    async def _converse(self, stream: PeerStream, role: Role) -> None:
        """Carry one greeting to the stream's end, and act on what came of it.

        Both ends wait for the other to close, so that neither's last word is lost with the connection. Raises Broken.
        """
        peer = stream.peer
        greeting = Greeting(role, self._ours, peer, judge=self._welcome)
        try:
            if role is Role.OPENER:
                await stream.send(greeting.begin(self._wall()))
            while (payload := await stream.receive()) is not None:
                answer = greeting.take(payload, self._wall())
                if answer is not None:
                    await stream.send(answer)
                if isinstance(greeting.outcome, Parted):
                    self._part(peer, greeting.outcome)
                if role is Role.OPENER:
                    await stream.finish()
            greeting.end()
        except RemoteProtocolError as error:
            self._remark("greet.refused", peer, reason=error.reason.value, detail=error.detail)
            self._complain(peer, error.reason.value)
            self._shun(peer, HOUR)
            self._turn_away(peer)
            self._parted(peer, WhyNot.GARBAGE, f"its greeting breaks the protocol: {error.reason.value}")

    def _welcome(self, settled: Settled) -> Part | None:
        """Judge a peer that speaks as we do and, where it is welcome, take it in: no place is promised twice."""
        peer = settled.peer
        if self._stopping:
            return Part(code=PartCode.STOPPING.value, message="This node is going.")
        if (part := self._judge(settled)) is not None:
            return part
        if peer not in self._swarm.connected():
            raise Broken("the connection ended while the peer greeted")
        now = trio.current_time()
        changes = self._book.connected(settled, dialled=self._swarm.dialled(peer), now=now)
        if changes is None:
            return Part(code=PartCode.FULL.value, message="This node has no room for another peer.")
        guest = self._guest(peer)
        again = guest.settled is not None and guest.settled.incarnation == settled.incarnation
        guest.settled, guest.greeted_at, guest.parted = settled, now, False
        guest.over.set()
        self._failures.pop(peer, None)
        if not settled.clocks_agree:
            self._remark(
                "greet.clocks_disagree", peer, ahead_s=round(settled.skew_us / 1e6), remedy=CLOCK_REMEDY, warn=True
            )
        self._apply(changes)
        if not again:
            log.debug("greet.met", peer=str(peer), software=settled.software, versions=dict(settled.versions))
            self._greeted(peer)
        return None

    def _part(self, peer: PeerId, parted: Parted) -> None:
        # The peer chose the words: escaped and cut before they reach a terminal.
        self._remark("greet.parted", peer, by_us=parted.by_us, code=parted.code, said=ascii(parted.message[:200]))
        for_so_long = SHUNNED_FOR.get(parted.code, SHUNNED_FOR[PartCode.FULL])
        self._shun(peer, for_so_long)
        self._turn_away(peer)
        who = "this node" if parted.by_us else "it"
        words = f"{who} parted ({ascii(parted.code)[1:-1]}): {ascii(parted.message[:200])[1:-1]}"
        wrong_swarm = parted.code == PartCode.WRONG_SWARM
        self._parted(peer, WhyNot.WRONG_SWARM if wrong_swarm else WhyNot.PARTED, words)

    def _shun(self, peer: PeerId, seconds: float) -> None:
        longest = LONGEST_SHUN_CONFIGURED if self._addresses.configured(peer) else seconds
        self._addresses.shun(peer, trio.current_time() + min(seconds, longest))

    def _turn_away(self, peer: PeerId) -> None:
        """Note that nothing will come of a peer although it is still connected; whoever talks to it disconnects."""
        guest = self._guest(peer)
        was, guest.settled, guest.parted = guest.settled, None, True
        guest.over.set()
        if was is not None:
            self._apply(self._book.disconnected(peer, trio.current_time()))

    def _failed(self, peer: PeerId, reason: str) -> None:
        failures = self._failures.pop(peer, 0)
        self._failures[peer] = failures + 1
        if len(self._failures) > REMEMBERED:
            self._failures.popitem(last=False)
        wait = min(FIRST_SHUN * 2.0 ** min(failures, 16), LONGEST_SHUN)
        self._shun(peer, wait)
        self._remark("greet.failed", peer, reason=reason)
        self._parted(peer, WhyNot.HANGING, reason)

    def _lose(self, peer: PeerId) -> None:
        guest = self._guests.pop(peer, None)
        if guest is not None:
            guest.settled = None
            guest.over.set()
        self._apply(self._book.disconnected(peer, trio.current_time()))

    async def _disconnect(self, peer: PeerId) -> None:
        with trio.move_on_after(CLOSE):
            await self._swarm.disconnect(peer)

    def _guest(self, peer: PeerId) -> _Guest:
        return self._guests.setdefault(peer, _Guest())

    def _remark(self, event: str, peer: PeerId, *, warn: bool = False, **facts: object) -> None:
        """Log what is worth saying once of a peer: it may come again as often as it likes."""
        if (peer, event) in self._remarked:
            return
        self._remarked[peer, event] = None
        if len(self._remarked) > REMEMBERED:
            self._remarked.popitem(last=False)
        (log.warning if warn else log.info)(event, peer=str(peer), **facts)
