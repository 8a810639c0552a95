import numpy as np
import pytest

from tests.learner.test_physics import ROW, foretell

FEW_CLIENTS = (1, 2, 4, 8)


@pytest.mark.parametrize("clients", FEW_CLIENTS)
def test_a_token_more_in_a_prompt_takes_a_little_longer_and_not_what_rounding_makes_of_it(clients: int) -> None:
    some = [ROW | {"workload.prompt_tokens": tokens, "workload.concurrency": clients} for tokens in range(500, 540)]
    ttft = foretell(*some).ttft

    each = np.diff(ttft) / ttft[:-1]
    assert np.all(each > 0)
    assert np.all(each < 2 / 500)  # a token is a five-hundredth of the prompt


def test_where_one_asks_after_the_other_a_first_token_takes_its_prefill_and_not_a_wait() -> None:
    times = foretell(*(ROW | {"workload.prompt_tokens": tokens} for tokens in range(2000, 2020)))

    assert np.all(times.ttft < 1.5 * times.prefill + times.decode_step)
    assert np.all(times.ttft > times.prefill)
