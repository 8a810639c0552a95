"""Writing this node's own records: held to what is asked of others', kept, and only then said to the swarm.

Knows neither what was measured nor who listens.
"""

from collections.abc import Callable, Iterable, Sequence

import structlog

from node.core.own_records import LIFETIME_US, Compose
from node.core.record_checks import first_doubt
from node.record_ports import OwnHistory
from protocol.performance import Performance
from protocol.records import Signed, Stamp

log = structlog.get_logger(__name__)


class _Doubtful(Exception):
    """What was measured cannot be true."""


class Scribe:
    """Writes records of our own."""

    def __init__(
        self, history: OwnHistory, *, publish: Callable[[Sequence[bytes]], None], wall: Callable[[], int]
    ) -> None:
        """Prepare.

        Args:
            publish: says records to the swarm, as they are sealed; returns at once.
            wall: microseconds since 1970; called in another thread.
        """
        self._history = history
        self._publish = publish
        self._wall = wall
        self.written = self.doubtful = 0

    async def write(self, composed: Iterable[Compose]) -> tuple[Signed[Performance], ...]:
        """Write records; return those that are kept now. One that no peer would believe is left out and logged.

        Raises:
            node.errors.Unavailable: the disk refused; those before it are kept, and said.
        """
        kept: list[Signed[Performance]] = []
        try:
            for compose in composed:
                try:
                    kept.append(await self._history.append(self._believable(compose), lifetime_us=LIFETIME_US))
                except _Doubtful as error:
                    self.doubtful += 1
                    log.warning("records.doubtful", reason=str(error))
        finally:
            self.written += len(kept)
            if kept:
                self._publish([signed.sealed for signed in kept])
        return tuple(kept)

    def _believable(self, compose: Compose) -> Compose:
        def checked(stamp: Stamp) -> Performance:
            body = compose(stamp)
            if doubt := first_doubt(body, now_us=self._wall()):
                raise _Doubtful(doubt)
            return body

        return checked
