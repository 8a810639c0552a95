"""Nodes that take their engines away, in virtual time: one after another, and nobody's prompt is lost by it."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.company import Company
from node.core.access import Access
from node.core.admission import Admission
from node.core.cells import cell_of
from node.core.engine_state import EngineSnapshot, EngineState, ServedModel
from node.core.prompt import OWNER, Prompt
from node.core.strategy import DEFAULT, Strategy
from node.directory_rules import dht_rules
from node.hands import SwarmHands
from node.history import doubt_of
from node.home import Home
from node.policies import SwarmPolicies
from node.services.serve import LocalReplica
from node.services.serve_peers import PeerLimits
from protocol.addresses import Reach
from protocol.advert import SWITCH, SWITCHING
from protocol.ids import PUBLIC_SWARM, Epoch, ModelName, PeerId
from protocol.performance import PERFORMANCE
from tests.fakes.engine_board import READY, FakeEngineBoard
from tests.fakes.history import FakeHistory
from tests.fakes.network import FakeNetwork, FakeNode
from tests.fakes.network_talk import FakeAir, FakeTable
from tests.fakes.upstream import FakeUpstream, Request, Script
from tests.sim.node import SimNode, wall
from tests.sim.swarm import Rules, until

HERE = replace(READY, model="m")
GONE = replace(HERE, state=EngineState.STARTING, reason="a switch", returning=True)
NONE = EngineSnapshot(state=EngineState.OFF, since=0.0, model=None, strategy=None, reason="no engine")
RELOAD = 20.0  # s that a switch takes
MODEL = ModelName("m")


class Board(FakeEngineBoard):
    def models(self) -> tuple[ServedModel, ...]:
        return (ServedModel("m"),) if self.snapshot() != NONE else ()


@dataclass
class Member:
    """A node from the engine's board upwards: what is above it is the daemon's own."""

    name: str
    place: FakeNode
    board: Board
    upstream: FakeUpstream
    company: Company
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    strategy: Strategy = DEFAULT

    @property
    def away(self) -> bool:
        return self.board.snapshot().returning

    async def switch(self, log: list[tuple[str, str, float]], *, seconds: float = RELOAD) -> None:
        """Do what a tuner does."""
        async with self.company.turns.taken("m"):
            log.append((self.name, "leaves", trio.current_time()))
            self.board.show(replace(GONE, state=EngineState.DRAINING))
            while self.upstream.at_work:  # noqa: ASYNC110 -- as the keeper drains
                await trio.sleep(0.05)
            self.board.show(GONE)
            await trio.sleep(seconds)
            self.board.show(HERE)
            log.append((self.name, "is back", trio.current_time()))

    async def ask(self) -> tuple[str, float]:
        """Ask once; return who answered, and after how long. A refusal fails the test."""
        began = trio.current_time()
        prompt = Prompt(
            request_id="r", method="POST", target="/v1/completions", headers=(), body=b'{"model": "m"}', model="m",
            stream=False, requester=OWNER,
        )  # fmt: skip
        async with self.company.replica.answer(prompt) as answer:
            whole = b""
            while piece := await answer.receive():
                whole += piece
            assert whole == b"one two"
            return answer.served.node, trio.current_time() - began


@dataclass
class World:
    nursery: trio.Nursery
    network: FakeNetwork = field(default_factory=lambda: FakeNetwork(luck=random.Random(1)))  # noqa: S311
    members: dict[str, Member] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.luck = random.Random(5)  # noqa: S311 -- weather, not secrets
        self.air = FakeAir(self.network)
        rules = {name: Rules(valid=valid, best=best) for name, (valid, best) in dht_rules(PUBLIC_SWARM, wall).items()}
        self.table = FakeTable(self.network, rules)  # type: ignore[arg-type]

    async def start(self, name: str, *, engine: bool = True, join: str | None = None) -> Member:
        member = await self.nursery.start(self._live, name, engine, join)
        self.members[name] = member
        return member

    async def _live(
        self, name: str, engine: bool, join: str | None, task_status: trio.TaskStatus[Member] = trio.TASK_STATUS_IGNORED
    ) -> None:
        key = Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"\0"))
        public_key = key.public_key().public_bytes_raw()
        me = PeerId.from_public_key(public_key)
        among = SwarmPolicies(
            swarm=PUBLIC_SWARM, listen=(), join=(self.members[join].place.address,) if join else (), announce=(),
            lan=False, bootstrap=False, access=Access(), nearest=Reach.PRIVATE, limits=PeerLimits(),
        )  # fmt: skip
        async with self.network.node(me) as place:
            hands = SwarmHands(
                network=place, gossip=self.air.at(place), directory=self.table.at(place), key=key,
                epoch=Epoch(wall()), interfaces=lambda: (place.host,), nearby=None, remembered=(), remember=_forget,
            )  # fmt: skip
            policies = SimNode(None, public_key=public_key, among=(hands, among)).policies()
            upstream = FakeUpstream()
            upstream.answer_with = _slowly
            board = Board(HERE if engine else NONE)
            local = LocalReplica(
                node=str(me), board=board, upstream=upstream, admission=Admission(policies.admission)
            )  # fmt: skip
            history = FakeHistory(PERFORMANCE, now_us=wall, check=doubt_of(wall), cell=cell_of, key=key)
            history.begin_run()
            home = Home(
                me=me, engine=board, replica=local, history=history, wall=wall, setting=None,
                luck=self.luck.random, tell=lambda *_: None, offence=lambda _: None,
                strategy=lambda: member.strategy,
            )  # fmt: skip
            member = Member(name, place, board, upstream, Company(hands, policies, among, home))
            with member.scope:
                task_status.started(member)
                await member.company.run()

    async def until_known(self) -> None:
        """Wait until everybody knows of everybody's engine."""
        servers = {each.place.me for each in self.members.values() if each.board.snapshot() != NONE}

        async def known() -> bool:
            await trio.lowlevel.checkpoint()
            return all(
                {found.peer for found in each.company.book.candidates(MODEL, trio.current_time())}
                == servers - {each.place.me}
                for each in self.members.values()
            )

        await until(known, within=30.0)


async def _forget(_: object) -> None:
    await trio.lowlevel.checkpoint()


def _slowly(_: Request) -> Script:
    async def token() -> None:
        await trio.sleep(0.3)

    return Script([token, b"one ", token, b"two"])


@asynccontextmanager
async def world(*names: str, without: str = "") -> AsyncIterator[World]:
    async with trio.open_nursery() as nursery:
        it = World(nursery)
        for index, name in enumerate(names):
            await it.start(name, engine=name not in without, join=names[0] if index else None)
        await it.until_known()
        yield it
        nursery.cancel_scope.cancel()


def never_two_away(log: list[tuple[str, str, float]]) -> bool:
    """Whether each was back before the next left."""
    return all(
        one[1] == "leaves" and two[:2] == (one[0], "is back") for one, two in zip(log[::2], log[1::2], strict=True)
    )


async def test_three_that_want_to_switch_at_once_do_so_one_after_another_and_no_prompt_is_lost(
    autojump_clock: object,
) -> None:
    async with world("a", "b", "c", "d", without="d") as it:
        log: list[tuple[str, str, float]] = []
        waits: list[float] = []
        done = trio.Event()

        async def ask_all_the_time(member: Member) -> None:
            while not done.is_set():
                waits.append((await member.ask())[1])

        async with trio.open_nursery() as nursery:
            for member in it.members.values():
                for _ in range(2):
                    nursery.start_soon(ask_all_the_time, member)
            async with trio.open_nursery() as switching:
                for name in "abc":
                    switching.start_soon(it.members[name].switch, log)
            done.set()
        assert {each[0] for each in log} == set("abc")
        assert never_two_away(log)
        assert log[-1][2] - log[0][2] < 3 * (RELOAD + 8)
        assert len(waits) > 100
        assert max(waits) < 5.0  # somebody served all the time
        engines = [len(it.members[name].upstream.requests) for name in "abc"]
        assert sum(engines) == len(waits)  # each once


async def test_the_only_replica_goes_in_a_quiet_moment_and_everybodys_prompts_wait_for_it(
    autojump_clock: object,
) -> None:
    async with world("a", "b", without="b") as it:
        log: list[tuple[str, str, float]] = []
        a, b = it.members["a"], it.members["b"]
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.switch, log)
            while not a.away:  # noqa: ASYNC110
                await trio.sleep(0.1)
            assert trio.current_time() - began < 7.0  # nothing ran
            answers: list[tuple[str, float]] = []

            async def one(member: Member) -> None:
                answers.append(await member.ask())

            for member in (a, b, a, b):
                nursery.start_soon(one, member)
                await trio.sleep(1.0)
        assert [node for node, _ in answers] == [str(a.place.me)] * 4
        assert all(RELOAD - 5 < waited < RELOAD + 8 for _, waited in answers)
        assert len(a.upstream.requests) == 4


async def test_intents_are_said_and_withdrawn_and_the_strategy_that_runs_is_advertised(autojump_clock: object) -> None:
    async with world("a", "b") as it:
        a, b = it.members["a"], it.members["b"]

        def said() -> tuple[str | None, object]:
            signed = b.company.book.advert_of(a.place.me, trio.current_time())
            assert signed is not None
            return signed.body.intends, signed.body.strategy

        assert said() == (None, {})
        seen: list[str | None] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.switch, [])
            for _ in range(200):
                if said()[0] not in seen[-1:]:
                    seen.append(said()[0])
                if a.away:
                    a.strategy = Strategy(max_num_seqs=4)
                await trio.sleep(0.2)
        assert seen == [None, SWITCH, SWITCHING, None]
        assert said() == (None, {"max_num_seqs": 4})


async def test_one_that_dies_in_its_turn_keeps_the_others_from_theirs_for_minutes_at_most(
    autojump_clock: object,
) -> None:
    async with world("a", "b", "c") as it:
        log: list[tuple[str, str, float]] = []
        dying = min("abc", key=lambda name: it.members[name].place.me)
        left, other = sorted({"a", "b", "c"} - {dying})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(it.members[dying].switch, log)
            while not it.members[dying].away:  # noqa: ASYNC110
                await trio.sleep(0.1)
            it.network.kill(it.members[dying].place.me, silently=True)
            it.members[dying].scope.cancel()
            killed = trio.current_time()
            async with trio.open_nursery() as rest:
                rest.start_soon(it.members[left].switch, log)
                rest.start_soon(it.members[other].switch, log)
            nursery.cancel_scope.cancel()
        assert trio.current_time() - killed < 6 * 60
        assert {left, other} <= {name for name, what, _ in log if what == "is back"}
