"""What a node records of itself: trials of its engine and windows of its traffic, written into the history.

The part of the composition beside `company`: there what others bring, here what this node brings. Decides nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from node.company import Company
from node.core.own_records import Compose
from node.core.probes import Probes
from node.core.strategy import Strategy
from node.core.traffic import Traffic
from node.core.workload import Description
from node.hands import Hands
from node.http.control import Trials
from node.http.history_metrics import Among, HistoryMetrics
from node.policies import Policies
from node.record_ports import Admitted, Standing
from node.services.no_engine import NoEngine
from node.services.observe import Observer
from node.services.serve import LocalReplica
from node.services.tend import EngineKeeper
from node.services.trial_runs import TrialRuns
from node.services.write_records import Scribe

Tell = Callable[[str, Mapping[str, Any]], None]


def traffic_of(hands: Hands) -> Traffic | None:
    """Return what watches the engine's answers; None on a node without an engine of its own."""
    return Traffic() if hands.tuner is not None or hands.setting is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What others want of trials.

    Attributes:
        away: whether the engine is not to be had for them now.
        probes: what is to be tried first. tried: hears of trials that were recorded.
        strategy: that the engine runs. description: the shape of this node's traffic.
    """

    away: Callable[[], bool]
    probes: Callable[[], Probes | None]
    tried: Callable[[], None]
    strategy: Callable[[], Strategy]
    description: Callable[[], Description | None]


class Recording:
    """What writes this node's own records. `run` is its one long-lived task."""

    def __init__(  # noqa: PLR0913 -- the parts of a node that it stands between
        self,
        hands: Hands,
        policies: Policies,
        *,
        author: str,
        engine: EngineKeeper | NoEngine,
        local: LocalReplica,
        traffic: Traffic | None,
        company: Company | None,
        wanted: Wanted,
        tell: Tell,
    ) -> None:
        """Prepare.

        Args:
            author: this node's peer id.
            traffic: that `local` tells of its answers.
        """
        self._hands = hands
        self._began = trio.current_time()
        self._company = company
        self._replica = local if company is None else company.replica
        self._local = local
        self._publish = _to_nobody if company is None else company.replication.publish
        self._scribe = Scribe(hands.history, publish=self._publish, wall=hands.wall)
        self._wanted = wanted
        self._trials = None
        if hands.trials is not None and isinstance(engine, EngineKeeper):
            self._trials = TrialRuns(
                engine=engine,
                hands=hands.trials,
                write=self._scribe.write,
                author=author,
                policy=policies.trials,
                owed=self._owed,
                prompts_seen=self._prompts_seen,
                tell=tell,
                probes=wanted.probes if policies.record_traffic else partial(_unlike_traffic, wanted.probes),
                tried=wanted.tried,
                # Trials are signed and told of: a load made like the traffic would tell of it.
                description=wanted.description if policies.record_traffic else lambda: None,
                spending=hands.trials.spending,
            )
        self._observer = None
        if traffic is not None and hands.setting is not None:
            self._observer = Observer(
                traffic,
                board=engine,
                strategy=wanted.strategy,
                setting=hands.setting,
                metrics=local.engine_metrics,
                write=self._scribe.write if policies.record_traffic else None,
            )
        self.metrics = HistoryMetrics(
            facts=hands.history.facts,
            rejected=self._rejected,
            among=None if company is None else partial(self._among, company),
            trials=self.trial_facts,
            traffic=None if self._observer is None else self._observer.facts,
        )

    async def run(self) -> None:
        """Watch traffic, and try strategies while nobody wants an answer."""
        async with trio.open_nursery() as nursery:
            if self._trials is not None:
                nursery.start_soon(self._trials.run)
            if self._observer is not None:
                nursery.start_soon(self._observer.run)

    @property
    def trials(self) -> Trials | None:
        """Runs the trials that the owner asks for; None on a node without an engine of its own."""
        return None if self._trials is None else self._trials.answer

    def written(self) -> int:
        """Count the records that were written since the node came up."""
        return self._scribe.written

    def measures(self) -> bool:
        """Tell whether trials run, which whatever else this machine does would spoil."""
        return self.trial_facts()["state"] == "running"

    async def write(self, composed: Sequence[Compose]) -> None:
        """Write records of this node's own.

        Raises:
            node.errors.Unavailable: the disk refused.
        """
        await self._scribe.write(composed)

    async def flush(self) -> None:
        """Have the traffic that is being watched recorded now: its strategy is being given up."""
        if self._observer is not None:
            await self._observer.flush()

    async def admit(self, sealed: Sequence[bytes]) -> Sequence[Admitted]:
        """Judge records that the owner brings, keep the good ones, and say to the swarm what is new.

        Raises:
            node.errors.Unavailable: the disk refused.
        """
        verdicts = await self._hands.history.admit(sealed, via=None)
        new = [raw for raw, each in zip(sealed, verdicts, strict=True) if each.standing is Standing.NEW]
        if new:
            self._publish(new)
        return verdicts

    # -- what is told of it

    def facts(self) -> dict[str, Any]:
        """Tell of the history: what is held, what this run of the node added, what was refused by reason."""
        facts = self._hands.history.facts()
        return {
            "total": facts.records,
            "authors": facts.authors,
            "bytes": facts.bytes,
            "quarantined": facts.quarantined,
            "shipped": self._shipped(),
            "key_forked": self._company is not None and self._company.replication.key_forked,
            "written": self._scribe.written,
            "doubtful": self._scribe.doubtful,
            "rejected": dict(self._rejected()),
            "exchanged": self._company.exchanged() if self._company is not None else {},
            "traffic": dict(self._observer.facts()) if self._observer is not None else None,
        }

    def _shipped(self) -> int:
        """Count the records beside the history that metainf came with."""
        snapshot = None if self._hands.learner is None else self._hands.learner.shipped
        return 0 if snapshot is None else snapshot.summary.records

    def trial_facts(self) -> dict[str, Any]:
        """Tell how far trials are."""
        return {"state": "off"} if self._trials is None else self._trials.facts()

    def _among(self, company: Company) -> Among:
        whole_at = company.replication.whole_at
        return Among(
            **company.numbers(),
            outcast=len(company.outcasts()),
            exchanged=company.exchanged(),
            ends=company.replication.counts().exchanges,
            since_whole=trio.current_time() - (self._began if whole_at is None else whole_at),
        )

    def _rejected(self) -> Mapping[str, int]:
        """Count records that were not believed, by reason: before the history's door, and at it."""
        if self._company is None:
            return self._hands.history.facts().rejected
        return self._company.replication.counts().rejected

    # -- what trials have to know: whether anybody wants the engine to generate. A monitor that lists the models each
    # minute does not, nor whoever counts tokens: beside those no node would ever be idle.

    def _owed(self) -> int:
        if self._wanted.away():
            return 1  # its owner, or the tuner
        return self._local.generating_running() + (0 if self._company is None else self._replica.generating_running())

    def _prompts_seen(self) -> int:
        return self._local.generating_seen() + (0 if self._company is None else self._replica.generating_seen())


def _unlike_traffic(probes: Callable[[], Probes | None]) -> Probes | None:
    """Return what is to be tried, under the standard loads."""
    found = probes()
    return None if found is None else Probes(strategies=found.strategies)


def _to_nobody(_: Sequence[bytes]) -> None:
    """Say records on a node by itself: they are in its history, and go out once it is among others."""
