"""Records of live traffic, in virtual time: real windows over a real `LocalReplica`, whose engine is a script."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise

import pytest
import trio

from node.core.admission import Admission, AdmissionLimits
from node.core.engine_state import EngineState
from node.core.observation import to_row
from node.core.own_records import Compose, Setting
from node.core.prompt import OWNER, Prompt, Requester, RequesterKind
from node.core.record_checks import doubts
from node.core.strategy import DEFAULT, Speculation, Strategy
from node.core.traffic import FEWEST, LEAST_ANSWERS, LONGEST, MOST_ANSWERS, SPAN, Traffic
from node.errors import Broken, NodeError, Refused, Unavailable, Unreached
from node.services.observe import FLUSH_SECONDS, Observer
from node.services.serve import LocalReplica
from protocol import records, schema, wire
from protocol.performance import PERFORMANCE, TRAFFIC, Performance
from tests.fakes.engine_board import READY, FakeEngineBoard
from tests.fakes.upstream import EVENTS, FakeUpstream, Request, Script
from tests.protocol import samples
from tests.protocol.performance_samples import BENCHMARK, ENGINE, HARDWARE, MODEL, body

SETTING = Setting(model=MODEL, hardware=HARDWARE, benchmark=BENCHMARK, engine=ENGINE)
PEER = Requester(RequesterKind.PEER, "12D3KooWsomebody")
WORDS = "what-somebody-asked"
TTFT, GAP, TOKENS = 0.5, 0.1, 11


def chat(*, stream: bool = True, requester: Requester = OWNER) -> Prompt:
    asked = {"model": "tiny", "stream": stream, "messages": [{"role": "user", "content": WORDS}]}
    return Prompt(
        request_id=WORDS,
        method="POST",
        target="/v1/chat/completions",
        headers=(),
        body=json.dumps(asked).encode(),
        model="tiny",
        stream=stream,
        requester=requester,
    )


def streamed() -> Script:
    chunk = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":123,"completion_tokens":%d}}\n\n' % TOKENS
    after = [piece for _ in range(TOKENS - 1) for piece in (partial(trio.sleep, GAP), chunk)]
    return Script([partial(trio.sleep, TTFT), chunk, *after, usage + b"data: [DONE]\n\n"], headers=EVENTS)


def whole() -> Script:
    answer = {"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 123, "completion_tokens": TOKENS}}
    return Script([json.dumps(answer).encode()], head=partial(trio.sleep, TTFT + GAP * (TOKENS - 1)))


@dataclass
class Stage:
    """A node's engine, who answers with it, and who watches; `told` is what came of it."""

    strategy: Strategy = DEFAULT
    setting: Setting | None = SETTING
    refusal: NodeError | None = None
    script: Callable[[], Script] | None = None
    prompts: int = 0
    silent: bool = False  # nothing is to be written
    metrics_take: float = 0.0
    told: list[Performance] = field(default_factory=list[Performance])
    told_at: list[float] = field(default_factory=list[float])

    def __post_init__(self) -> None:
        self.board = FakeEngineBoard(replace(READY, strategy=self.strategy.name))
        self.upstream = FakeUpstream()
        self.upstream.answer_with = self.answer
        self.traffic = Traffic()
        self.replica = LocalReplica(
            node="us",
            board=self.board,
            upstream=self.upstream,
            admission=Admission(AdmissionLimits(running=512, waiting=2, longest_wait=10.0)),
            traffic=self.traffic,
        )
        self.observer = Observer(
            self.traffic,
            board=self.board,
            strategy=lambda: self.strategy,
            setting=self.know,
            metrics=self.metrics,
            write=None if self.silent else self.write,
        )

    def answer(self, request: Request) -> Script:
        if request.target == "/metrics":
            hits = b"vllm:prefix_cache_hits_total %d\nvllm:prefix_cache_queries_total %d\n"
            return Script([hits % (30 * self.prompts, 100 * self.prompts)])
        self.prompts += 1
        if self.script is not None:
            return self.script()
        return streamed() if b'"stream": true' in request.body else whole()

    async def metrics(self) -> bytes:
        await trio.sleep(self.metrics_take)
        return await self.replica.engine_metrics()

    async def know(self) -> Setting | None:
        await trio.lowlevel.checkpoint()
        return self.setting

    async def write(self, composed: Sequence[Compose]) -> Sequence[object]:
        await trio.lowlevel.checkpoint()
        if self.refusal is not None:
            raise self.refusal
        made = [records.sign(PERFORMANCE, compose(body().stamp), samples.KEY).body for compose in composed]
        self.told += made
        self.told_at.append(trio.current_time())
        return made

    async def ask(self, one: Prompt | None = None) -> None:
        async with self.replica.answer(one or chat()) as answer:
            while await answer.receive():
                pass

    async def ask_many(self, count: int, *, every: float = 2.0, one: Prompt | None = None) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(self.ask, one)
                await trio.sleep(every)


@asynccontextmanager
async def watched(stage: Stage) -> AsyncIterator[Stage]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.observer.run)
        await trio.sleep(1.0)
        yield stage
        nursery.cancel_scope.cancel()


async def test_ten_minutes_of_traffic_become_one_record_that_receivers_believe(autojump_clock: object) -> None:
    async with watched(Stage()) as stage:
        await stage.ask_many(40)
        await stage.ask_many(20, one=chat(stream=False, requester=PEER))
        assert not stage.told
        await trio.sleep(SPAN)
        (made,) = stage.told
        await trio.sleep(LONGEST * 2)
        assert len(stage.told) == 1
    assert made.origin == TRAFFIC
    assert doubts(made, now_us=samples.NOW) == ()
    outcome, workload = made.outcome, made.workload
    assert (outcome.requests, outcome.failures) == (60, 0)
    assert (outcome.ttft_p50_us, outcome.tpot_mean_us, outcome.stall_p95_us) == (500_000, 100_000, 100_000)
    assert (outcome.latency_mean_us, outcome.prefix_hit_ppm) == (1_500_000, 300_000)
    assert outcome.duration_us == 90_000_000
    assert outcome.output_tokens_per_s_milli == 7_330  # 11 tokens in 1.5 s
    assert (workload.prompt_tokens_p50, workload.output_tokens_p95, workload.streaming_ppm) == (120, 11, 660_000)
    assert workload.requests_per_s_milli == 500


async def test_nothing_of_a_prompt_its_asker_or_its_time_is_in_a_record(autojump_clock: object) -> None:
    async with watched(Stage()) as stage:
        await stage.ask_many(LEAST_ANSWERS, one=chat(requester=PEER))
        await trio.sleep(SPAN)
        (made,) = stage.told
    sealed = wire.encode(schema.write(made), PERFORMANCE.bounds)
    assert WORDS.encode() not in sealed
    assert PEER.name.encode() not in sealed
    given = {name for name in to_row(made) if name.startswith(("workload.", "outcome."))}
    assert not {name for name in given if "time" in name or "digest" in name or "kind" in name}


async def test_a_busy_node_tells_of_as_many_answers_as_a_window_holds_and_once_in_ten_minutes(
    autojump_clock: object,
) -> None:
    async with watched(Stage()) as stage:
        await stage.ask_many(2 * MOST_ANSWERS, every=0.5)
        assert [made.outcome.requests for made in stage.told] == [MOST_ANSWERS]
        await stage.ask_many(round(SPAN / 0.5), every=0.5)
        assert [made.outcome.requests for made in stage.told] == [MOST_ANSWERS] * 2


async def test_too_few_answers_in_an_hour_are_forgotten(autojump_clock: object) -> None:
    async with watched(Stage()) as stage:
        await stage.ask_many(LEAST_ANSWERS - 1)
        await trio.sleep(LONGEST)
        assert stage.observer.facts() == {"records": 0, "dropped": 1, "answers": 0}
        await stage.ask_many(LEAST_ANSWERS)
        await trio.sleep(SPAN)
        assert len(stage.told) == 1


async def test_however_often_the_engine_comes_back_there_is_one_record_in_ten_minutes(autojump_clock: object) -> None:
    async with watched(Stage()) as stage:
        for pid in range(2, 14):  # full at once, and then away for a minute: 12 lives in a good half hour
            await stage.ask_many(LEAST_ANSWERS)
            stage.board.show_state(EngineState.STOPPED)
            await trio.sleep(60)
            stage.board.show(replace(READY, strategy=stage.strategy.name, pid=pid))
            await trio.sleep(30)
        apart = [after - before for before, after in pairwise(stage.told_at)]
        assert len(apart) >= 2
        assert min(apart) >= SPAN


async def test_a_window_long_in_coming_and_one_full_at_once_are_told_ten_minutes_apart(autojump_clock: object) -> None:
    async with watched(Stage()) as stage:
        await stage.ask_many(LEAST_ANSWERS, every=(LONGEST - 600) / LEAST_ANSWERS)
        await trio.sleep(60)
        await stage.ask_many(MOST_ANSWERS, every=0.1)
        await trio.sleep(SPAN)
        first, second = stage.told_at
        assert second - first >= SPAN


async def test_another_strategy_ends_the_window_and_begins_the_next(autojump_clock: object) -> None:
    async with watched(Stage()) as stage:
        await stage.ask_many(LEAST_ANSWERS + 5)
        await trio.sleep(120)  # the counters are read meanwhile
        stage.board.show_state(EngineState.STOPPED)
        stage.strategy = Strategy(prefix_caching=True, speculation=Speculation(method="ngram", tokens=2))
        await trio.sleep(20)
        stage.board.show(replace(READY, strategy=stage.strategy.name, pid=2))
        await trio.sleep(SPAN)
        await stage.ask_many(LEAST_ANSWERS)
        await trio.sleep(SPAN)
    first, second = stage.told
    assert (first.strategy.speculation, first.outcome.requests) == (None, LEAST_ANSWERS + 5)
    assert first.outcome.prefix_hit_ppm == 300_000
    assert second.strategy.speculation is not None
    assert second.outcome.requests == LEAST_ANSWERS


@pytest.mark.parametrize("trouble", ["no setting", "no disk", "a strategy for this machine alone"])
async def test_a_record_that_cannot_be_written_is_dropped_and_the_next_is_tried(
    autojump_clock: object, trouble: str
) -> None:
    drafted = Strategy(
        speculation=Speculation(method="draft_model", tokens=3), engine_extra=(("draft-model", "/home/me/draft"),)
    )
    stage = Stage(
        setting=None if trouble == "no setting" else SETTING,
        refusal=Unavailable("the disk is full") if trouble == "no disk" else None,
        strategy=drafted if trouble == "a strategy for this machine alone" else DEFAULT,
    )
    async with watched(stage):
        await stage.ask_many(LEAST_ANSWERS)
        await trio.sleep(SPAN)
        assert stage.observer.facts()["dropped"] == 1
        assert not stage.told
        stage.setting, stage.refusal, stage.strategy = SETTING, None, DEFAULT
        stage.board.show(READY)
        await trio.sleep(60)
        await stage.ask_many(LEAST_ANSWERS)
        await trio.sleep(SPAN)
        assert stage.observer.facts()["records"] == len(stage.told) == 1


async def test_what_breaks_counts_as_failed_and_what_was_never_begun_does_not(autojump_clock: object) -> None:
    async with watched(Stage()) as stage:
        await stage.ask_many(LEAST_ANSWERS)
        failing = [
            Script([], no_head=Broken("gone")),
            Script([b"data: {}\n\n", Broken("gone")], headers=EVENTS),
            Script([b"{}"], status=500),
            Script([], no_head=Unreached("nobody there")),
            Script([b"{}"], status=400),
        ]
        stage.script = iter(failing).__next__
        for _ in range(len(failing)):
            with suppress(Broken, Refused):
                await stage.ask()
        with trio.move_on_after(1.0):  # a client that leaves
            stage.script = lambda: Script([trio.sleep_forever])
            await stage.ask()
        await trio.sleep(SPAN)
        (made,) = stage.told
    assert (made.outcome.requests, made.outcome.failures) == (LEAST_ANSWERS + 3, 3)
    assert stage.traffic.running == 0


async def test_a_strategy_that_is_given_up_is_told_of_with_ten_answers_and_before_its_engine_ends(
    autojump_clock: object,
) -> None:
    async with watched(Stage()) as stage:
        await stage.ask_many(FEWEST)
        began = trio.current_time()
        await stage.observer.flush()
        assert trio.current_time() == began  # as soon as the counters are read
        stage.board.show_state(EngineState.STOPPED)
        await trio.sleep(1)
        (made,) = stage.told
        assert (made.outcome.requests, made.outcome.prefix_hit_ppm) == (FEWEST, 300_000)
        assert doubts(made, now_us=samples.NOW) == ()
        stage.board.show(replace(READY, pid=2))
        await trio.sleep(SPAN)
        await stage.ask_many(FEWEST - 1)
        await stage.observer.flush()
        await trio.sleep(SPAN)
        assert len(stage.told) == 1
        assert stage.observer.facts()["dropped"] == 1


async def test_to_flush_takes_no_longer_than_its_time_and_nothing_where_nothing_is_open(
    autojump_clock: object,
) -> None:
    stage = Stage()
    await stage.observer.flush()
    async with watched(stage):
        await stage.ask_many(FEWEST)
        stage.metrics_take = 60.0
        began = trio.current_time()
        await stage.observer.flush()
        assert trio.current_time() - began == pytest.approx(FLUSH_SECONDS)
        await trio.sleep(120)
        assert len(stage.told) == 1


async def test_the_watch_learns_from_the_counters_though_nothing_is_to_be_told_of_traffic(
    autojump_clock: object,
) -> None:
    async with watched(Stage(silent=True)) as stage:
        await stage.ask_many(60, every=10)
        await trio.sleep(60)
        assert stage.told == []
        found = stage.traffic.watch.description(trio.current_time())
        assert found is not None
        assert found.shared_prefix_share == pytest.approx(0.3)
        assert stage.traffic.watch.answers(0.0)[0].measured.prompt_tokens == 123
