"""An engine in memory for tests under a virtual clock: a launcher, its processes and the upstream that asks them.

The launcher and its processes keep the contract of `EngineLauncher` (tests/contracts). What goes wrong is data:
a test sets `FakeEngine`'s fields, before or while it runs.
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from node.core.prompt import Headers
from node.errors import Broken, EngineUnavailable
from node.ports import Endpoint, EngineExit, LaunchPlan

ONE_TOKEN = b'{"choices": [{"text": " 4"}], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}'


@dataclass
class FakeFault:
    """What is wrong with the engines of one strategy. Times in seconds from the launch; None: never."""

    refusal: EngineUnavailable | None = None  # raised by launch
    load_time: float | None = None  # in place of the engine's
    dies_after: float | None = None
    code: int | None = None  # with which it ends then
    signal: int | None = None
    tail: tuple[str, ...] = ()
    answer: bytes | None = None  # in place of every whole answer
    says: str = ""  # the first of the greedy tokens, in place of the sound ones
    slower: float = 1.0  # so many times as long for each token, the first included


@dataclass
class FakeEngine:
    """How the engines of one launcher behave. Times in seconds of the test's clock."""

    prepare_steps: tuple[str, ...] = ()
    prepare_time: float = 0.0
    refusal: EngineUnavailable | None = None  # raised by prepare
    load_time: float = 16.0  # until it listens
    health: int = 200
    token: int = 200
    silent: bool = False  # answers nothing
    names: tuple[str, ...] = ("m",)
    stop_time: float = 0.0  # from SIGTERM to the end
    tokens: int = 0  # of a streamed answer; 0: an empty object, at once
    prefill_time: float = 0.0
    token_time: float = 0.0
    at_work: int = 0  # answers being given now
    faults: dict[str, FakeFault] = field(default_factory=dict)  # by the strategy's name
    logprobs: bool = True  # tells the alternatives to its tokens
    at_once: int = 0  # the most processes that ever lived at one time
    launches: list[LaunchPlan] = field(default_factory=list)
    processes: "list[FakeProcess]" = field(default_factory=list)


class FakeProcess:
    """One launched engine."""

    def __init__(self, engine: FakeEngine, number: int, fault: FakeFault | None = None) -> None:
        self.engine = engine
        self.number = number
        self.fault = fault or FakeFault()
        load_time = engine.load_time if self.fault.load_time is None else self.fault.load_time
        self.listens_at = trio.current_time() + load_time
        doom = self.fault.dies_after
        self.doomed_at = float("inf") if doom is None else trio.current_time() + doom
        self._ended = trio.Event()
        self._exit: EngineExit | None = None
        self.graces: list[float] = []

    @property
    def pid(self) -> int:
        return 1000 + self.number

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(host="engine", port=self.number, api_key=f"secret-{self.number}")

    @property
    def alive(self) -> bool:
        if trio.current_time() >= self.doomed_at:
            self._meet_its_end()
        return self._exit is None

    def _meet_its_end(self) -> None:
        self.die(code=self.fault.code, signal=self.fault.signal, tail=self.fault.tail)

    def die(self, *, code: int | None = None, signal: int | None = None, tail: tuple[str, ...] = ()) -> None:
        if self._exit is None:
            self._exit = EngineExit(code=code, signal=signal, log_tail=tail)
            self._ended.set()

    async def wait(self) -> EngineExit:
        with trio.move_on_at(self.doomed_at):
            await self._ended.wait()
        if self._exit is None:
            self._meet_its_end()
        assert self._exit is not None
        return self._exit

    async def stop(self, *, grace: float) -> EngineExit:
        self.graces.append(grace)
        await trio.lowlevel.checkpoint()
        if self._exit is None:
            with trio.move_on_after(grace) as patience:
                await trio.sleep(self.engine.stop_time)
            if patience.cancelled_caught or grace <= 0:
                self.die(signal=9)
            else:
                self.die(code=0)
        return await self.wait()

    def log_tail(self) -> tuple[str, ...]:
        return (f"log of {self.number}",)


class FakeLauncher:
    """Launches engines in memory."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine

    async def prepare(self, plan: LaunchPlan, *, tell: Callable[[str], None]) -> None:
        del plan
        for step in self.engine.prepare_steps:
            tell(step)
            await trio.sleep(self.engine.prepare_time)
        if self.engine.refusal is not None:
            raise self.engine.refusal

    @asynccontextmanager
    async def launch(self, plan: LaunchPlan) -> AsyncIterator[FakeProcess]:
        fault = self.engine.faults.get(plan.strategy.name, FakeFault())
        if fault.refusal is not None:
            raise fault.refusal
        self.engine.launches.append(plan)
        process = FakeProcess(self.engine, len(self.engine.launches), fault)
        self.engine.processes.append(process)
        self.engine.at_once = max(self.engine.at_once, sum(each.alive for each in self.engine.processes))
        try:
            yield process
        finally:
            process.die(signal=9)


@dataclass
class FakeAnswer:
    """An answer that is here already."""

    status: int
    body: bytes
    headers: Headers = ()

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        body, self.body = self.body, b""
        return body


class FakeStream:
    """A streamed answer whose tokens come in time, until its engine dies."""

    headers: Headers = ((b"content-type", b"text/event-stream; charset=utf-8"),)
    status = 200

    def __init__(self, engine: FakeEngine, process: FakeProcess) -> None:
        self._engine = engine
        self._process = process
        self._told = 0

    async def receive(self) -> bytes:
        if self._told > self._engine.tokens:
            await trio.lowlevel.checkpoint()
            return b""
        usual = self._engine.token_time if self._told else self._engine.prefill_time
        with trio.move_on_after(usual * self._process.fault.slower):
            await self._process.wait()
        if not self._process.alive:
            raise Broken("the engine has died")
        self._told += 1
        return b"data: [DONE]\n\n" if self._told > self._engine.tokens else b'data: {"t": %d}\n\n' % self._told


class FakeUpstream:
    """The way to a `FakeEngine`'s processes; remembers what was asked."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.asked: list[str] = []

    @asynccontextmanager
    async def send(
        self, endpoint: Endpoint, *, method: str, target: str, headers: Headers, body: bytes
    ) -> AsyncIterator[FakeAnswer | FakeStream]:
        del headers
        await trio.lowlevel.checkpoint()
        self.asked.append(f"{method} {target}")
        process = self.engine.processes[endpoint.port - 1]
        if not process.alive or trio.current_time() < process.listens_at:
            raise Broken("connection refused")
        if self.engine.silent:
            await trio.sleep_forever()
        if target == "/health":
            yield FakeAnswer(self.engine.health, b"")
        elif target == "/v1/models":
            yield FakeAnswer(200, json.dumps({"data": [{"id": name} for name in self.engine.names]}).encode())
        elif b'"logprobs":' in body:  # the keeper's comparison
            yield FakeAnswer(self.engine.token, process.fault.answer or self._greedy(process.fault.says or "sing"))
        elif b'"1 2 3"' in body:  # the keeper's probe
            yield FakeAnswer(self.engine.token, process.fault.answer or ONE_TOKEN)
        elif not self.engine.tokens:
            yield FakeAnswer(self.engine.token, b"{}")
        else:
            self.engine.at_work += 1
            try:
                yield FakeStream(self.engine, process)
            finally:
                self.engine.at_work -= 1

    def _greedy(self, token: str) -> bytes:
        tops = [{token: -0.1, "and": -2.5}, {"in": -0.2, "at": -1.9}]
        logprobs = {"tokens": [token, "in"], "top_logprobs": tops} if self.engine.logprobs else None
        choice = {"text": f"{token}in", "logprobs": logprobs}
        return json.dumps({"choices": [choice], "usage": {"completion_tokens": 2}}).encode()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
