"""How long answers are foretold to be: by asker, by model, by everybody; bounded by what the prompt allows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.lengths import KEYS, USUAL_ANSWER, Lengths


def test_nothing_seen_means_what_is_usual() -> None:
    lengths = Lengths()
    assert USUAL_ANSWER < lengths.answer_tokens("anne", "m", None) < 2 * USUAL_ANSWER
    assert lengths.tokens_per_byte("m") == pytest.approx(0.25)


def test_what_the_prompt_allows_is_never_exceeded() -> None:
    assert Lengths().answer_tokens("anne", "m", 16) == 16


def test_an_asker_who_always_gets_short_answers_is_foretold_short_ones_and_others_are_not() -> None:
    lengths = Lengths()
    for _ in range(40):
        lengths.answered("anne", "m", 10)
        lengths.answered("bert", "m", 1000)
    assert lengths.answer_tokens("anne", "m", None) < 20
    assert lengths.answer_tokens("bert", "m", None) > 700
    assert 40 < lengths.answer_tokens("carl", "m", None) < 400


def test_few_answers_count_little_beside_many() -> None:
    lengths = Lengths()
    for _ in range(50):
        lengths.answered("bert", "m", 500)
    lengths.answered("anne", "m", 5)
    assert lengths.answer_tokens("anne", "m", None) > 250


def test_another_model_is_no_judge_of_this_one_but_better_than_nothing() -> None:
    lengths = Lengths()
    for _ in range(50):
        lengths.answered("anne", "long", 4000)
    assert lengths.answer_tokens("anne", "m", None) > 2 * USUAL_ANSWER


def test_a_model_that_answers_at_length_does_so_for_who_never_asked_it() -> None:
    lengths = Lengths()
    for _ in range(50):
        lengths.answered("anne", "brief", 20)
        lengths.answered("bert", "long", 2000)
    assert lengths.answer_tokens("carl", "long", None) > 5 * lengths.answer_tokens("carl", "brief", None)


def test_one_endless_answer_says_little_of_the_next() -> None:
    lengths = Lengths()
    for _ in range(30):
        lengths.answered("anne", "m", 50)
    before = lengths.answer_tokens("anne", "m", None)
    lengths.answered("anne", "m", 100_000)
    assert lengths.answer_tokens("anne", "m", None) < 1.3 * before


def test_bytes_for_each_token_are_learnt_by_model() -> None:
    lengths = Lengths()
    for _ in range(40):
        lengths.prompted("m", 2000, 1000)
    assert lengths.tokens_per_byte("m") == pytest.approx(0.5, rel=0.1)
    assert lengths.tokens_per_byte("other") == pytest.approx(0.25)


@given(st.lists(st.tuples(st.integers(-5, 10**12), st.integers(-5, 10**12)), max_size=40), st.integers(1, 10**6))
def test_whatever_is_told_the_forecast_stays_within_bounds(told: list[tuple[int, int]], most: int) -> None:
    lengths = Lengths()
    for prompt, answer in told:
        lengths.answered("anne", "m", answer)
        lengths.prompted("m", 1000, prompt)
    assert 1 <= lengths.answer_tokens("anne", "m", most) <= most
    assert 1 / 32 <= lengths.tokens_per_byte("m") <= 2


def test_the_memory_is_bounded() -> None:
    lengths = Lengths()
    for number in range(KEYS + 50):
        lengths.answered(number, str(number), 10)
        lengths.prompted(str(number), 100, 10)
    assert len(lengths) <= 3 * KEYS
