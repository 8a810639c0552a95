"""How a node learns: who is fed with what of the history, and whom the rest of the node asks.

The part of the composition beside `recording`: there what this node writes into the history, here what it reads out of
it. Decides nothing.
"""

from collections.abc import Callable
from dataclasses import replace

from node.company import Company
from node.hands import Hands
from node.http.learner_metrics import LearnerMetrics
from node.learner_ports import Authors
from node.policies import Policies
from node.record_ports import HistoryFacts
from node.recording import Recording
from node.services.learn import Learning
from protocol.ids import PeerId


def learning_of(
    hands: Hands,
    policies: Policies,
    *,
    me: PeerId,
    company: Company | None,
    recording: Recording,
    engaged: Callable[[], bool],
) -> Learning:
    """Return what teaches the learner and asks it. `engaged`: whether the machine is to be left alone by lessons."""
    shipped = None if hands.learner is None else hands.learner.shipped
    ours = frozenset[PeerId]() if shipped is None else shipped.authors

    def authors() -> Authors:
        if company is None:
            return Authors(own=me, known=ours)
        return Authors(own=me, known=ours.union(company.proven()), shunned=frozenset(company.outcasts()))

    def learnable() -> HistoryFacts:
        facts = hands.history.facts()
        return facts if shipped is None else replace(facts, records=facts.records + shipped.summary.records)

    return Learning(
        hands.learner,
        policy=policies.learner,
        history=learnable,
        written=recording.written,
        authors=authors,
        busy=lambda: recording.measures() or engaged(),
        luck=hands.luck,
        wall=hands.wall,
    )


def metrics_of(learning: Learning) -> LearnerMetrics:
    """Return the learner's figures for the metrics page."""
    return LearnerMetrics(learning.facts)
