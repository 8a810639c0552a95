"""What counts for and against a strategy, of the answers that a node saw."""

from node.core.answer_meter import Measured
from node.core.strategy import DEFAULT, Strategy
from node.core.tuning_ledger import Trust
from node.core.verification import Basis
from node.core.workload import Timed, WorkloadWatch
from node.services.tune_verify import Proof, seen_before, tails

NEW = Strategy(max_num_seqs=64)


def answer(began: float, at: float, strategy: str | None) -> Timed:
    return Timed(began=began, at=at, strategy=strategy, measured=Measured(streamed=False, latency=1_000_000))


def test_only_answers_that_the_new_strategy_gave_from_their_beginning_count() -> None:
    watch = WorkloadWatch()
    for each in (
        answer(5.0, 12.0, None),  # begun before the switch
        answer(11.0, 13.0, DEFAULT.name),  # of the old engine, which ends beside the new one
        answer(11.0, 14.0, NEW.name),
        answer(12.0, 15.0, None),
    ):
        watch.answered(each)
    trust = Trust(strategy=NEW, before=DEFAULT, since=0.0)
    proof = Proof(trust=trust, began=10.0, before=Basis(), earlier=(), failed_before=0, tail=False)
    assert [each.at for each in proof.after(watch)] == [14.0, 15.0]


def test_what_was_answered_before_the_traffic_changed_says_nothing_of_what_is_usual_now() -> None:
    watch, now = WorkloadWatch(), 0.0

    def ask(tokens: int, times: int) -> None:
        nonlocal now
        for _ in range(times):
            watch.arrived(now)
            watch.gone(now + 2.0)
            took = Measured(streamed=False, latency=tokens * 10_000, prompt_tokens=tokens, output_tokens=9, told=True)
            watch.answered(Timed(began=now, at=now + 2.0, strategy="default", measured=took))
            now += 10.0

    ask(100, 100)
    first = watch.description(now)
    assert first is not None
    usual, earlier, _ = seen_before(watch, "default", rehearsal=(), objective="latency", now=now)
    assert usual.answers == len(earlier) == 100
    ask(1000, 60)
    assert watch.changed(first, now) == ""
    ask(1000, 7)
    assert "prompt tokens" in watch.changed(first, now)
    usual, earlier, _ = seen_before(watch, "default", rehearsal=(), objective="latency", now=now)
    assert usual.answers == len(earlier) >= 60
    assert {each.measured.prompt_tokens for each in earlier} == {1000}


def test_a_rehearsal_says_what_is_usual_where_nobody_has_asked() -> None:
    ours = [Measured(streamed=False, latency=1_000_000 + at, output_tokens=8 + at) for at in range(8)]
    usual, earlier, failed = seen_before(WorkloadWatch(), "default", rehearsal=ours, objective="latency", now=50.0)
    assert usual.latency is not None
    assert (usual.answers, list(earlier), failed) == (8, [], 0)


def test_tails_count_in_objectives_that_name_them_and_in_mixes() -> None:
    assert [tails(word) for word in ("tail", "latency:0.5,tail:0.5", "slo", "latency", "cost")] == [True] * 3 + [
        False
    ] * 2
