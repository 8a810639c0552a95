"""Our own records: each gets a name that was never given before, whatever was restored, cloned or killed.

Knows how to name and sign; keeping what was written is the shelf's.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

import structlog

from node.adapters.store.rules import Rules
from node.adapters.store.tables import Tables
from protocol.errors import LocalProtocolError
from protocol.ids import Epoch, PeerId
from protocol.records import Signed, SigningKey, Stamp, Stamped, sign

log = structlog.get_logger(__name__)

B = TypeVar("B", bound=Stamped)


class Pen(Generic[B]):
    """Names and signs our own records.

    The epoch is this run's, so a back-up that lacks the last numbers does not give them again. Within the run the
    numbers only rise, whether a record reached the disk or not: gaps are legal.
    """

    def __init__(self, key: SigningKey, rules: Rules[B], *, run_us: int) -> None:
        """`run_us`: when this run of the node began, later than every run before it (`run_epoch.begin_run`)."""
        self._key = key
        self._rules = rules
        self._run_us = run_us
        self._author = PeerId.from_public_key(key.public_key().public_bytes_raw())
        self._epoch: int | None = None  # begun with the first record, so that runs without any leave no trace
        self._seq = 0

    def write(self, tables: Tables, compose: Callable[[Stamp], B], *, now_us: int, lifetime_us: int) -> Signed[B]:
        """Sign what `compose` makes around a new stamp.

        Raises:
            LocalProtocolError: the body carries another stamp, or breaks a rule of its kind.
        """
        epoch = self._current(tables)
        time = max(now_us, epoch)  # a clock that was set back is lifted
        stamp = Stamp(
            version=self._rules.kind.version,
            swarm=self._rules.swarm,
            author=self._author,
            epoch=Epoch(epoch),
            seq=self._seq,
            time=time,
            expiry=time + lifetime_us,
        )
        self._seq += 1
        body = compose(stamp)
        if body.stamp != stamp:
            raise LocalProtocolError("the body carries another stamp than it was given")
        return sign(self._rules.kind, body, self._key)

    def _current(self, tables: Tables) -> int:
        if self._epoch is not None and tables.last_seq(self._author, self._epoch) < self._seq:
            return self._epoch
        if self._epoch is not None:
            log.warning("history.cloned", epoch=self._epoch)  # a copy of this very process writes elsewhere
        self._epoch = max(self._run_us, (tables.last_epoch(self._author) or 0) + 1)
        self._seq = 0
        return self._epoch
