"""How a node learns: who is fed with what of the history, and whom the rest of the node asks.

The part of the composition beside `recording`: there what this node writes into the history, here what it reads out of
it. Decides nothing.
"""

from collections.abc import Callable
from dataclasses import replace

from node.company import Company
from node.core.own_records import Setting
from node.core.peer_cells import setting_of
from node.core.snapshot import Snapshot
from node.core.strategy import Strategy
from node.hands import Hands
from node.http.learner_metrics import LearnerMetrics
from node.learner_ports import Authors
from node.policies import Policies
from node.record_ports import HistoryFacts
from node.recording import Recording
from node.services.foretell import Own
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
    shipped = _shipped(hands)

    def learnable() -> HistoryFacts:
        facts = hands.history.facts()
        return facts if shipped is None else replace(facts, records=facts.records + shipped.summary.records)

    return Learning(
        hands.learner,
        policy=policies.learner,
        history=learnable,
        written=recording.written,
        authors=authors_of(me, company, shipped),
        busy=lambda: recording.measures() or engaged(),
        luck=hands.luck,
        wall=hands.wall,
    )


def authors_of(me: PeerId, company: Company | None, shipped: Snapshot | None) -> Callable[[], Authors]:
    """Return what says who is who among the authors of records, at any moment."""
    ours = frozenset[PeerId]() if shipped is None else shipped.authors

    def authors() -> Authors:
        if company is None:
            return Authors(own=me, known=ours)
        return Authors(own=me, known=ours.union(company.proven()), shunned=frozenset(company.outcasts()))

    return authors


def foretell_by(
    learning: Learning,
    hands: Hands,
    company: Company,
    *,
    me: PeerId,
    model: Callable[[], str | None],
    strategy: Callable[[], Strategy],
) -> None:
    """Have what is foretold of every replica be what this node's learner says.

    Args:
        model: that this node's engine serves; None where it serves none.
        strategy: that it works under.
    """
    shipped = _shipped(hands)

    def now() -> tuple[str, Strategy] | None:
        served = model()
        return None if served is None else (served, strategy())

    company.foretelling.connect(
        learning,
        authors=authors_of(me, company, shipped),
        told=hands.told,
        own=None if hands.setting is None else Own(now=now, setting=hands.setting),
        shipped=() if shipped is None else _settings(shipped),
    )


def _settings(shipped: Snapshot) -> list[tuple[PeerId, Setting]]:
    """Return what the records that metainf came with were measured on, of each author the newest first."""
    return [(each.name.author, setting_of(each.body)) for each in reversed(shipped.records)]


def _shipped(hands: Hands) -> Snapshot | None:
    return None if hands.learner is None else hands.learner.shipped


def metrics_of(learning: Learning) -> LearnerMetrics:
    """Return the learner's figures for the metrics page."""
    return LearnerMetrics(learning.facts)
