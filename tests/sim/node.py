"""A whole node in virtual time: the real composition root on an engine in memory, by itself or in a network in memory.

Requests are put straight to the ASGI applications that the node hands to its listener. What goes wrong is data, in
`FakeEngine`; a test never reaches into the node.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import trio

from node.adapters.http_server.connection import ServerLimits
from node.adapters.http_server.server import Bind, TcpBind
from node.app import run
from node.core.address import BindAddress
from node.core.admission import AdmissionLimits
from node.core.operator_limits import Limits
from node.core.own_records import Setting
from node.core.strategy import DEFAULT
from node.core.tuner_policy import TunerPolicy
from node.hands import Hands, OwnerHands, Reports, SwarmHands
from node.http.asgi import App, Message
from node.http.config import HttpLimits
from node.learner_ports import LearnerHands
from node.policies import Policies, RoutingPolicy, SwarmPolicies
from node.ports import Endpoint, LaunchPlan
from node.services.learn import LearnerPolicy
from node.services.tend import TendLimits
from node.services.trial_runs import TrialPolicy
from node.supervise import StopWish
from node.trial_ports import TrialHands
from node.tuner_hands import TunerTools
from protocol.ids import PeerId
from protocol.performance import PERFORMANCE
from tests.fakes.engine import FakeEngine, FakeLauncher, FakeUpstream
from tests.fakes.history import FakeHistory

PORT = 8470
BEGINNING = 1_800_000_000_000_000  # µs since 1970 at the loop's time zero
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
PUBLIC_KEY = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")  # RFC 8032, test 1


def wall() -> int:
    """Return the wall clock of every node."""
    return BEGINNING + round(trio.current_time() * 1_000_000)


class SimUpstream(FakeUpstream):
    """The way to the engine in memory, which also keeps when it last answered."""

    def last_activity(self, endpoint: Endpoint) -> float | None:
        del endpoint
        return None

    async def keep_time(self) -> None:
        await trio.sleep_forever()


class Listener:
    """In place of sockets: keeps the applications, and stops serving when it is told to."""

    def __init__(self) -> None:
        self.apps: dict[str, App] = {}

    async def __call__(
        self,
        app: App,
        *,
        bind: Bind,
        reports: Reports,
        stop: Callable[[], Awaitable[object]],
        limits: ServerLimits | None = None,
        task_status: trio.TaskStatus[Bind] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        del reports, limits
        name = "api" if isinstance(bind, TcpBind) else "control"
        self.apps[name] = app
        task_status.started(TcpBind(host="127.0.0.1", port=PORT) if isinstance(bind, TcpBind) else bind)
        await stop()
        del self.apps[name]


@dataclass
class SimAnswer:
    """What a client got. `first_byte`: when, in the loop's time."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    first_byte: float | None = None


class SimNode:
    """A node that runs. `events` are those of `--json-events`."""

    def __init__(
        self,
        engine: FakeEngine | None,
        *,
        public_key: bytes = PUBLIC_KEY,
        among: tuple[SwarmHands, SwarmPolicies] | None = None,
        luck: Callable[[], float] = lambda: 0.5,
        history: FakeHistory | None = None,
        clock: Callable[[], int] = wall,
        setting: Setting | None = None,
        trials: TrialHands | None = None,
        learner: LearnerHands | None = None,
        learner_policy: LearnerPolicy | None = None,
        tuner: TunerTools | None = None,
        tuner_policy: TunerPolicy | None = None,
        owner: OwnerHands | None = None,
        limits: Limits | None = None,
        trial_policy: TrialPolicy | None = None,
        routing: RoutingPolicy | None = None,
    ) -> None:
        self.engine = engine
        self.history = history or FakeHistory(PERFORMANCE, now_us=clock)
        self._clock = clock
        self._setting = setting
        self._trials = trials
        self._learner = learner
        self._learner_policy = learner_policy or LearnerPolicy()
        self._tuner = tuner
        self._tuner_policy = tuner_policy or TunerPolicy()
        self._owner = owner or OwnerHands()
        self._limits = limits or Limits()
        self._trial_policy = trial_policy or TrialPolicy()
        self._routing = routing or RoutingPolicy()
        self.peer_id = str(PeerId.from_public_key(public_key))
        self._public_key = public_key
        self._among = among
        self._luck = luck
        self.wish = StopWish()
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.listener = Listener()
        self.ended = trio.Event()
        self._told = trio.Event()

    def tell(self, event: str, facts: Mapping[str, Any]) -> None:
        self.events.append((event, facts))
        self._told.set()
        self._told = trio.Event()

    def policies(self) -> Policies:
        return Policies(
            name="sim",
            version="0",
            plan=LaunchPlan(model="m", served_name="m", strategy=DEFAULT),
            tend=TendLimits(start_timeout=600.0, hang_after=120.0),
            drain=30.0,
            admission=AdmissionLimits(running=32, waiting=32, longest_wait=60.0),
            api=BindAddress("127.0.0.1", PORT),
            control_socket=Path("control.sock"),
            keys=(),
            http=HttpLimits(),
            server=ServerLimits(),
            trials=self._trial_policy,
            learner=self._learner_policy,
            tuner=self._tuner_policy,
            limits=self._limits,
            routing=self._routing,
            swarm=self._among[1] if self._among is not None else None,
        )

    async def live(self) -> None:
        engine = self.engine or FakeEngine()
        hands = Hands(
            public_key=self._public_key,
            launcher=FakeLauncher(engine) if self.engine is not None else None,
            upstream=SimUpstream(engine),
            listen=self.listener,
            history=self.history,
            luck=self._luck,
            wall=self._clock,
            setting=None if self._setting is None else self._measured_on,
            swarm=self._among[0] if self._among is not None else None,
            trials=self._trials,
            learner=self._learner,
            tuner=self._tuner,
            owner=self._owner,
        )
        try:
            # In virtual time the loop is never late, and every look at it is a jump of the clock.
            await run(hands, self.policies(), wish=self.wish, tell=self.tell, lag_every=60.0)
        finally:
            self.ended.set()

    async def _measured_on(self) -> Setting | None:
        await trio.lowlevel.checkpoint()
        return self._setting

    def names(self) -> list[str]:
        return [event for event, _ in self.events]

    def states(self) -> list[str]:
        return [facts["state"] for event, facts in self.events if event == "engine_state" and not facts["progress"]]

    async def until(self, event: str, *, within: float, **facts: object) -> None:
        """Wait, in virtual time, until an event with these facts has been told."""
        with trio.fail_after(within):
            while not any(e == event and facts.items() <= f.items() for e, f in self.events):
                await self._told.wait()

    async def call(self, method: str, path: str, body: bytes = b"", *, on: str = "api") -> tuple[int, Any]:
        """Put one request to an application; return its status and what its JSON says."""
        answer = await self.ask(method, path, body, on=on)
        return answer.status, json.loads(answer.body) if answer.body else None

    async def ask(
        self, method: str, path: str, body: bytes = b"", *, on: str = "api", headers: Mapping[str, str] = NO_HEADERS
    ) -> SimAnswer:
        """Put one request to an application; return its whole answer. Cancelled, it is a client that leaves."""
        answer = SimAnswer()
        bodies = [body]

        async def receive() -> Message:
            if bodies:
                return {"type": "http.request", "body": bodies.pop(), "more_body": False}
            await trio.sleep_forever()
            raise AssertionError

        async def send(message: Message) -> None:
            answer.status = message.get("status", answer.status)
            answer.headers |= {name.decode(): value.decode() for name, value in message.get("headers", ())}
            answer.body += message.get("body", b"")
            if answer.body and answer.first_byte is None:
                answer.first_byte = trio.current_time()

        scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [
                (b"host", b"localhost"),
                (b"content-length", str(len(body)).encode()),
                *((name.encode(), value.encode()) for name, value in headers.items()),
            ],
            "client": ("127.0.0.1", 1) if on == "api" else None,
        }
        await self.listener.apps[on](scope, receive, send)
        return answer


@asynccontextmanager
async def sim_node(engine: FakeEngine | None, trials: TrialHands | None = None) -> AsyncIterator[SimNode]:
    """Run a node; enter once its API answers; leaving stops it at once if a test has not stopped it."""
    node = SimNode(engine, trials=trials)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.live)
        await node.until("ready", within=1.0)
        yield node
        nursery.cancel_scope.cancel()
