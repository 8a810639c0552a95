"""The benchmark of chaos cannot rot: what it draws is within its plan, and no wrong answer passes for a right one."""

import asyncio
import json
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks.bench_chaos import KILL, QUICK, STOP, Plan, Seen, blows, report, run, senses, show
from tests.benchmarks.chaos_client import MODEL, Heard, Wrong, ask, judge
from tests.benchmarks.chaos_engine import answer_to, prompt_of, said
from tests.e2e.children import eventually, started
from tests.e2e.engine import free_port, healthy
from tests.fakes.stub_engine import FIRST_ID

PROMPT, TOKENS = "tell me of the sea", 5


def stream(text: str, **changed: object) -> list[bytes]:
    """Return the events of an answer of that text."""
    usage = {"prompt_tokens": len(PROMPT.split()), "completion_tokens": TOKENS, **changed}
    wholes: list[dict[str, object]] = [
        {"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
        {"choices": [{"delta": {"content": text[:9]}, "finish_reason": None}], "metainf": {"resumed": 1}},
        {"choices": [{"delta": {"content": text[9:]}, "finish_reason": "length"}]},
        {"choices": [], "usage": usage},
    ]
    return [*(b"data: " + json.dumps(whole).encode() for whole in wholes), b"data: [DONE]"]


def hear(events: list[bytes]) -> Heard:
    heard = Heard()
    for number, event in enumerate(events):
        heard.event(event, float(number))
    return heard


def test_the_whole_answer_passes_and_its_waits_are_measured() -> None:
    heard = hear(stream(answer_to(PROMPT, TOKENS)))
    judge(heard, PROMPT, TOKENS)
    assert (heard.first, heard.stall, heard.resumed) == (1.0, 1.0, 1)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda events: events[:-1],
        lambda events: events[:2] + events[3:],
        lambda events: events[:2] + events[1:],
        lambda events: [*events, events[1]],
        lambda events: [b"data: \x8f{{", *events],
        lambda events: [*events[:2], b'data: {"error": {"message": "gone"}}'],
        lambda _: stream(answer_to(PROMPT, TOKENS), completion_tokens=4),
        lambda _: stream(answer_to("tell me of the land", TOKENS)),
        lambda _: stream(answer_to(PROMPT, TOKENS + 1)),
    ],
    ids=["no end", "lost", "doubled", "after the end", "garbage", "error", "usage", "another prompt's", "too long"],
)
def test_no_wrong_answer_passes(spoil: Callable[[list[bytes]], list[bytes]]) -> None:
    with pytest.raises(Wrong):
        judge(hear(spoil(stream(answer_to(PROMPT, TOKENS)))), PROMPT, TOKENS)


def test_an_answer_gone_on_with_by_ids_says_what_the_whole_one_would_have() -> None:
    prompt = prompt_of({"messages": [{"content": PROMPT}]})
    given = prompt_of({"prompt": [*prompt, FIRST_ID, FIRST_ID + 1]})
    assert [said(given, number) for number in range(4)] == [said(prompt, number) for number in range(4)]
    assert said(prompt, 0) != said(prompt_of({"messages": [{"content": "tell me"}]}), 0)


@pytest.mark.parametrize(("kill", "times"), [("node", 1), ("engine", 3)])
def test_a_third_is_killed_and_one_is_stopped_within_the_window(kill: str, times: int) -> None:
    plan = Plan(kill=kill)
    luck = random.Random(7)  # noqa: S311 -- moments, no secret
    due = blows(plan, luck)
    assert len(plan.serving) + 1 == plan.nodes
    assert sorted(each.who for each in due if each.what == KILL) == sorted(plan.victims * times)
    assert [each.who for each in due if each.what == STOP] == ["hung"]
    assert all(0.1 * plan.seconds <= each.at <= 0.7 * plan.seconds for each in due)
    assert due == sorted(due)
    assert all(int(each.partition(":")[2]) > 0 for each in senses(plan, luck).values())


def test_one_lost_request_or_chaos_that_broke_nothing_fails() -> None:
    good = report(Seen(asked=2, heard=[Heard(first=0.1), Heard(first=0.3, resumed=2)]), {"resumed": 1, "retried": 4})
    assert good.holds
    assert (good.resumed_twice, good.hedged) == (1, None)
    assert not report(Seen(asked=2, lost={"chaos-0-1": "status 429"}), {"resumed": 1}).holds
    assert not replace(good, resumed=0).holds
    assert "2 requests: 0 lost; 1 resumed" in show(Plan(), good)


@contextmanager
def engine(folder: Path, *, then: str = "") -> Iterator[str]:
    """Run the engine; enter with its address when it listens."""
    port = free_port()
    program = Path(__file__).with_name("chaos_engine.py")
    flags = ("--then", then, "--served-model-name", MODEL, "--port", str(port))
    with started("engine", [sys.executable, str(program), *flags], folder=folder, environment={}, cwd=folder) as child:
        url = f"http://127.0.0.1:{port}"
        eventually(lambda: healthy(url), within=20.0, what="an engine that listens", children=[child])
        yield url


def test_the_engine_answers_its_clients_to_the_letter_until_it_raves(tmp_path: Path) -> None:
    async def ask_all(url: str) -> list[Heard | BaseException]:
        whole = await ask(url, "one", PROMPT, 30)
        later = await asyncio.gather(
            *(ask(url, str(number), PROMPT, 30) for number in range(3)), return_exceptions=True
        )
        return [whole, *later]

    with engine(tmp_path, then="garbage:30") as url:
        first, *later = asyncio.run(ask_all(url))
    assert isinstance(first, Heard)
    assert first.text == answer_to(PROMPT, 30)
    assert all(isinstance(each, Wrong) for each in later)


def test_a_trickling_engine_says_little(tmp_path: Path) -> None:
    async def wait(url: str) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await ask(url, "one", PROMPT, 5)

    with engine(tmp_path, then="trickle:0") as url:
        assert healthy(url)
        asyncio.run(wait(url))


@pytest.mark.slow
@pytest.mark.daemons
def test_nothing_is_lost_while_most_of_a_swarm_dies_hangs_or_raves(tmp_path: Path) -> None:
    found = run(QUICK, 1, tmp_path)
    print(show(QUICK, found))
    assert found.holds, found.reasons
