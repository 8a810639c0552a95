"""How late the loop is: what everybody who is to be answered at once waits before anything is done for him.

Knows nothing of what holds it up. A timer that goes off at moments that nothing else chooses is as late as whatever
else were to come then, so its lateness is everybody's.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

EVERY: Final = 0.05  # s: often enough that a stop of a tenth of a second is seen, for a thousandth of a core
KEPT: Final = 1200  # moments that are remembered: those of a minute


class LagWatch:
    """Notes how late the loop is. `run` is its one long-lived task."""

    def __init__(self, note: Callable[[float], None], *, every: float = EVERY) -> None:
        """Prepare.

        Args:
            note: gets each lateness, seconds.
            every: seconds between two looks.
        """
        self._note = note
        self._every = every
        self._late: deque[float] = deque(maxlen=KEPT)

    async def run(self) -> None:
        """Look again and again; return never."""
        while True:
            due = trio.current_time() + self._every
            await trio.sleep_until(due)
            late = max(0.0, trio.current_time() - due)
            self._late.append(late)
            self._note(late)

    def facts(self) -> dict[str, float]:
        """Return `p50`, `p99` and `max` of the last minute, milliseconds; zeros before the first look."""
        late = sorted(self._late) or [0.0]
        shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
        return {name: round(1000 * late[int(share * (len(late) - 1))], 3) for name, share in shares.items()}
