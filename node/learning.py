"""How a node learns: who is fed with what of the history, and whom the rest of the node asks.

The part of the composition beside `recording`: there what this node writes into the history, here what it reads out of
it. Decides nothing.
"""

from node.company import Company
from node.hands import Hands
from node.http.learner_metrics import LearnerMetrics
from node.learner_ports import Authors
from node.policies import Policies
from node.recording import Recording
from node.services.learn import Learning
from protocol.ids import PeerId


def learning_of(
    hands: Hands, policies: Policies, *, me: PeerId, company: Company | None, recording: Recording
) -> Learning:
    """Return what teaches the learner and asks it."""

    def authors() -> Authors:
        if company is None:
            return Authors(own=me)
        return Authors(own=me, known=frozenset(company.proven()), shunned=frozenset(company.outcasts()))

    return Learning(
        hands.learner,
        policy=policies.learner,
        history=hands.history.facts,
        written=recording.written,
        authors=authors,
        busy=recording.measures,
        luck=hands.luck,
        wall=hands.wall,
    )


def metrics_of(learning: Learning) -> LearnerMetrics:
    """Return the learner's figures for the metrics page."""
    return LearnerMetrics(learning.facts)
