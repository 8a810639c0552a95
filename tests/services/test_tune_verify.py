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
    proof = Proof(trust=trust, since=10.0, before=Basis(), earlier=(), failed_before=0, tail=False)
    assert [each.at for each in proof.after(watch)] == [14.0, 15.0]


def test_a_rehearsal_says_what_is_usual_where_nobody_has_asked() -> None:
    ours = [Measured(streamed=False, latency=1_000_000 + at, output_tokens=8 + at) for at in range(8)]
    usual, earlier, failed = seen_before(WorkloadWatch(), "default", rehearsal=ours, objective="latency", now=50.0)
    assert usual.latency is not None
    assert (usual.answers, list(earlier), failed) == (8, [], 0)


def test_tails_count_in_objectives_that_name_them_and_in_mixes() -> None:
    assert [tails(word) for word in ("tail", "latency:0.5,tail:0.5", "slo", "latency", "cost")] == [True] * 3 + [
        False
    ] * 2
