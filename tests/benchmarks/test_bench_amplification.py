"""The benchmark of amplification cannot rot, and what it found once does not come back."""

import pytest
import trio

from tests.benchmarks.bench_amplification import AFTER, BEFORE, benchmark


@pytest.mark.slow
@pytest.mark.daemons
@pytest.mark.libp2p
def test_before_a_greeting_no_question_is_answered_with_much_more_than_itself() -> None:
    rows = trio.run(benchmark, 200)
    assert {row.greeting for row in rows} == {BEFORE, AFTER}
    assert all(row.answered > 0 for row in rows)
    for row in rows:
        if row.greeting == BEFORE:
            assert row.answered <= max(60_000, 10 * row.asked), row  # the message that is wanted has 50,000 bytes
