"""Whether traffic changed: hardly ever told of traffic that did not, soon told of traffic that did, in words."""

import random
from dataclasses import replace

import pytest

from node.core.workload import SECOND_LOOK, WorkloadWatch
from node.core.workload_change import Samples, changes, sample, surprise
from tests.core.workload_traffic import Kind, Stream

KIND = Kind(rate=0.1)


def started(kind: Kind, seed: int, seconds: float = 3600.0) -> Stream:
    stream = Stream(WorkloadWatch(), random.Random(seed))  # noqa: S311 -- traffic, not secrets
    stream.run(kind, seconds)
    return stream


def until_changed(stream: Stream, kind: Kind, *, most: float, every: float = 30.0) -> tuple[int, str]:
    """Return after how many answers of the new kind the change was told, and the words; (0, "") where it was not."""
    since = stream.watch.description(stream.now)
    assert since is not None
    before, began = stream.answered, stream.now
    while stream.now - began < most:
        stream.run(kind, every)
        if words := stream.watch.changed(since, stream.now):
            return stream.answered - before, words
    return 0, ""


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_in_fifty_hours_of_steady_traffic_no_change_is_told(rate: float) -> None:
    kind = Kind(rate=rate, spread=1.0)
    stream = started(kind, seed=round(100 * rate))
    assert until_changed(stream, kind, most=50 * 3600, every=60) == (0, "")


@pytest.mark.parametrize(
    ("change", "words", "within"),
    [
        ({"prompt": 600.0}, "prompt tokens", 60),
        ({"output": 160.0}, "answer tokens", 60),
        ({"rate": 0.3}, "requests/s", 100),
        ({"copied": 0.7}, "copied share", 130),  # one answer in eight says so
        ({"prefix": 0.7}, "shared prefix share", 90),  # a reading a minute says so
    ],
)
def test_a_change_is_told_soon_and_in_words_with_figures(change: dict[str, float], words: str, within: int) -> None:
    answers: list[int] = []
    for seed in range(7):
        stream = started(KIND, seed)
        after, told = until_changed(stream, replace(KIND, **change), most=3600)
        assert words in told, (seed, told)
        assert "->" in told
        answers.append(after)
    assert max(answers) <= within
    if "tokens" in words:
        assert sorted(answers)[3] <= 50  # a doubling, in half of the cases


def test_a_change_counts_when_two_looks_a_minute_apart_agree() -> None:
    stream = started(KIND, 3)
    since = stream.watch.description(stream.now)
    assert since is not None
    stream.run(replace(KIND, prompt=3000.0), 900)
    assert stream.watch.changed(since, stream.now) == ""
    assert stream.watch.changed(since, stream.now + SECOND_LOOK - 1) == ""
    assert "prompt tokens" in stream.watch.changed(since, stream.now + SECOND_LOOK)


def test_a_look_that_sees_nothing_between_two_that_do_begins_anew() -> None:
    stream = started(KIND, 3)
    since = stream.watch.description(stream.now)
    assert since is not None
    stream.run(replace(KIND, prompt=3000.0), 900)
    assert stream.watch.changed(since, stream.now) == ""
    other = stream.watch.description(stream.now)
    assert other is not None
    small = replace(other, samples=Samples())
    assert stream.watch.changed(small, stream.now + 30) == ""  # nothing to compare with
    assert stream.watch.changed(since, stream.now + SECOND_LOOK) == ""
    assert stream.watch.changed(since, stream.now + 2 * SECOND_LOOK) != ""


def test_after_a_change_the_next_description_is_of_the_new_traffic() -> None:
    stream, other = started(KIND, 5), replace(KIND, prompt=3000.0, output=400.0)
    after, _ = until_changed(stream, other, most=3600)
    found = stream.watch.description(stream.now)
    assert after
    assert found is not None
    assert found.prompt_tokens is not None
    assert found.prompt_tokens.p50 > 2000
    assert found.requests <= 40
    assert until_changed(stream, other, most=6 * 3600) == (0, "")  # told once


def test_days_and_nights_are_told_as_they_come_and_never_more_often() -> None:
    day, night = Kind(rate=0.2, prompt=200, output=60), Kind(rate=0.04, prompt=2000, output=300)
    stream = started(day, 7)
    since, told = stream.watch.description(stream.now), 0
    for turn in range(6):
        kind = night if turn % 2 == 0 else day
        for _ in range(6 * 60):
            stream.run(kind, 60)
            assert since is not None
            if stream.watch.changed(since, stream.now):
                told += 1
                since = stream.watch.description(stream.now)
    assert told == 6


def test_bursts_that_always_came_are_no_change() -> None:
    # A mixture: each quarter of an hour ten minutes of chat and five of long documents.
    stream = Stream(WorkloadWatch(), random.Random(11))  # noqa: S311 -- traffic, not secrets
    for _ in range(6):
        stream.run(KIND, 600)
        stream.run(replace(KIND, prompt=450.0), 300)
    since, told = stream.watch.description(stream.now), 0
    for _ in range(24):
        for kind in (KIND, KIND, replace(KIND, prompt=450.0)):
            stream.run(kind, 300)
            assert since is not None
            told += bool(stream.watch.changed(since, stream.now))
    assert told == 0


def test_an_engine_that_became_faster_is_no_change_of_what_is_asked() -> None:
    stream = started(replace(KIND, rate=0.5), 13)
    assert until_changed(stream, replace(KIND, rate=0.5, speed=100.0), most=2 * 3600, every=60) == (0, "")


@pytest.mark.parametrize(
    ("rate", "running", "told"),
    [
        (2.0, 2.0, True),
        (0.5, 0.5, True),
        (2.0, 1.0, False),  # clients that wait for their answers, at a faster engine
        (2.0, 1.1, False),
        (2.0, 0.5, False),
        (1.0, 2.0, False),  # a slower engine
        (1.3, 1.3, False),
    ],
)
def test_the_load_changes_where_rate_and_concurrency_move_together(rate: float, running: float, told: bool) -> None:
    gaps, crowd = [0.5 + index / 64 for index in range(64)], [4.0 + index % 5 for index in range(64)]
    before = Samples(gaps=sample(gaps), running=sample(crowd))
    after = Samples(gaps=sample([gap / rate for gap in gaps]), running=sample([each * running for each in crowd]))
    assert [each.feature for each in changes(before, after)] == ["gaps"] * told


def test_ranks_of_equal_values_are_no_surprise_and_of_shifted_ones_are() -> None:
    same = sample([120.0] * 40)
    assert surprise(same, same) == 0.0
    low, high = sample([float(each) for each in range(100)]), sample([each + 60.0 for each in range(100)])
    assert surprise(low, high) > 6
    assert surprise(high, low) < -6
    assert changes(Samples(), Samples()) == ()


def test_a_small_difference_is_none_however_sure_it_is() -> None:
    before = Samples(prompt=sample([float(1000 + each) for each in range(500)]))
    after = Samples(prompt=sample([float(1300 + each) for each in range(500)]))
    assert surprise(before.prompt, after.prompt) > 10
    assert changes(before, after) == ()
