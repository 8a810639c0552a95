"""What answers teach: lengths, corrections, prefixes, and how often forecasts were right."""

from dataclasses import replace

import pytest

from node.core.answer_meter import MICRO, Measured
from node.core.experience import Experience
from node.core.forecast import Guess
from node.core.prompt import OWNER, Prompt
from node.core.wanted import FASTEST, Wanted
from tests.core.routing import KEY, MODEL, PEERS, Stage, curve

BODY = b'{"model": "m", "max_tokens": 64, "messages": [{"role": "user", "content": "' + b"word " * 400 + b'"}]}'


def prompt(body: bytes = BODY) -> Prompt:
    return Prompt(
        request_id="r", method="POST", target="/v1/chat/completions", headers=(), body=body, model="m", stream=True,
        requester=OWNER,
    )  # fmt: skip


def stage() -> tuple[Stage, Guess]:
    it = Stage([curve(), curve()])
    it.idle(0.0)
    guess = it.forecast().guess(PEERS[0])
    assert guess is not None
    return it, guess


def streamed(**fields: object) -> Measured:
    return replace(Measured(streamed=True, latency=2_000_000, ttft=200_000), **fields)


def test_a_prompt_wants_as_many_tokens_as_its_bytes_and_its_limit_say() -> None:
    wanted = Experience(key=KEY).wanted(prompt(), FASTEST)
    assert wanted.prompt_tokens == pytest.approx(len(BODY) / 4)
    assert wanted.output_tokens == 64
    assert wanted.body_bytes == len(BODY)
    assert wanted.marks.marks


def test_a_prompt_that_is_no_json_still_wants_something() -> None:
    wanted = Experience(key=KEY).wanted(prompt(b""), FASTEST)
    assert wanted.prompt_tokens == 1.0
    assert wanted.output_tokens > 100


def test_what_an_answer_tells_of_its_prompt_changes_the_next_estimate() -> None:
    it, guess = stage()
    guess = replace(guess, wanted=it.experience.wanted(prompt(), FASTEST))
    for _ in range(40):
        it.experience.ended(guess, streamed(prompt_tokens=len(BODY), output_tokens=7, told=True), 0.0)
    wanted = it.experience.wanted(prompt(), FASTEST)
    assert wanted.prompt_tokens > 0.8 * len(BODY)
    assert wanted.output_tokens < 15


def test_the_way_is_taken_off_before_a_first_token_is_compared() -> None:
    it, guess = stage()
    it.experience.began(guess, guess.net + 0.3, 0.0)
    by_way = it.experience.corrections.columns(it.experience.corrections.rows([PEERS[0]], MODEL))[0, 0]
    assert by_way == pytest.approx(0.0, abs=0.2)
    far = replace(guess, net=10.0)
    it.experience.began(far, 0.5, 0.0)  # sooner than the way alone was thought to take
    assert it.experience.ttft.count == 2


def test_an_answer_in_one_piece_teaches_roughly_and_only_where_it_tells_its_tokens() -> None:
    it, guess = stage()
    whole = Measured(streamed=False, latency=40 * MICRO, output_tokens=100, told=True)
    it.experience.ended(guess, replace(whole, told=False), 0.0)
    assert len(it.experience.corrections) == 0
    it.experience.ended(guess, whole, 0.0)
    columns = it.experience.corrections.columns(it.experience.corrections.rows([PEERS[0]], MODEL))
    assert columns[0, 0] > 0.05
    assert columns[1, 0] > 0.05


def test_events_of_an_engine_that_speculates_are_no_tokens() -> None:
    it, guess = stage()
    slow = streamed(tpot=round(1e6), output_tokens=50)
    it.experience.ended(replace(guess, guesses=True), slow, 0.0)
    assert it.experience.tpot.count == 0
    it.experience.ended(replace(guess, guesses=True), replace(slow, told=True), 0.0)
    assert it.experience.tpot.count == 1


def test_several_answers_at_once_are_no_measure_of_one() -> None:
    it, guess = stage()
    several = replace(guess, wanted=Wanted(model=MODEL, single=False))
    it.experience.began(several, 5.0, 0.0)
    it.experience.ended(several, streamed(tpot=10, output_tokens=5, told=True), 0.0)
    assert len(it.experience.corrections) == 0


def test_drift_is_dated_by_the_answers_that_show_it() -> None:
    it, guess = stage()
    for number in range(60):
        it.experience.began(guess, 50 * guess.first_byte, 1000.0 + number)
        it.experience.went_on(guess, 50 * guess.token, 2000.0 + number)
    first, token = it.experience.ttft.drift(), it.experience.tpot.drift()
    assert first is not None
    assert token is not None
    assert (first.since, token.since) == (1000.0, 2000.0)
