"""What headers ask for, and what is refused."""

import pytest

from node.core.peek import Peek, peek
from node.core.wanted import FASTEST, aims_of
from node.errors import Refused


def test_without_headers_the_fastest_answer_is_wanted() -> None:
    assert aims_of(((b"content-type", b"application/json"),)) is FASTEST


def test_an_objective_or_a_mix_is_read_and_weights_sum_to_one() -> None:
    assert aims_of(((b"x-metainf-objective", b"cost"),)).weights == (("cost", 1.0),)
    assert aims_of(((b"x-metainf-objective", b"latency:1, cost:3"),)).weights == (("latency", 0.25), ("cost", 0.75))


def test_promises_are_milliseconds() -> None:
    aims = aims_of(((b"x-slo-ttft-ms", b"250"), (b"x-slo-tpot-ms", b"40.5")))
    assert (aims.ttft_s, aims.tpot_s, aims.promised) == (0.25, 0.0405, True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"x-metainf-objective", b"cheep"),
        (b"x-metainf-objective", b""),
        (b"x-metainf-objective", b"cost,cost"),
        (b"x-metainf-objective", b"cost:-1"),
        (b"x-metainf-objective", b"cost:nan"),
        (b"x-metainf-objective", b"cost:" + b"1" * 200),
        (b"x-slo-ttft-ms", b"soon"),
        (b"x-slo-ttft-ms", b"0"),
        (b"x-slo-tpot-ms", b"inf"),
        (b"x-slo-tpot-ms", b"1e300"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_belongs_there(name: bytes, value: bytes) -> None:
    with pytest.raises(Refused) as caught:
        aims_of(((name, value),))
    assert caught.value.refusal.status == 400
    assert caught.value.refusal.param == name.decode()


def test_the_least_of_what_bounds_the_answer_counts() -> None:
    assert peek(b'{"max_tokens": 50, "max_completion_tokens": 20}').max_tokens == 20
    assert peek(b'{"max_output_tokens": 7}').max_tokens == 7
    assert peek(b'{"max_tokens": -1}').max_tokens is None
    assert peek(b'{"max_tokens": true}').max_tokens is None
    assert peek(b'{"max_tokens": "9"}').max_tokens is None


def test_several_answers_or_prompts_are_not_single() -> None:
    assert peek(b'{"prompt": "one"}').single
    assert peek(b'{"prompt": [1, 2]}').single
    assert not peek(b'{"prompt": ["one", "two"]}').single
    assert not peek(b'{"n": 3}').single


def test_what_is_no_object_says_nothing() -> None:
    assert peek(b"[1") == Peek(model=None, stream=False)
