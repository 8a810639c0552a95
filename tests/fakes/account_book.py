"""A node's last decisions as its control socket sees them: forecasts over made-up curves, and what came of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from node.core.explanation import Account, Attempt
from node.core.router import Choice, Route
from node.core.wanted import Aims, Wanted
from tests.core.routing import MODEL, Stage, curve


@dataclass
class FakeAccounts:
    """Keeps what it is given."""

    held: list[Account] = field(default_factory=list)
    forgotten: int = 0
    decisions: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.held)

    def get(self, request_id: str) -> Account | None:
        return next((each for each in self.held if each.request_id == request_id), None)

    def last(self, most: int) -> Sequence[Account]:
        return self.held[::-1][:most]


def answered(request_id: str = "r-1", *, asked_at: float = 5.0) -> Account:
    """Return a prompt that the second of three peers answered, after the first could not be reached."""
    stage = Stage([curve(0.1, 0.01), curve(0.2, 0.02), None])
    stage.local = stage.peers[2]
    stage.idle(0.0, but=stage.peers[2:])
    aims = Aims(weights=(("latency", 0.5), ("cost", 0.5)), ttft_s=0.5)
    found = stage.route(Wanted(model=MODEL, aims=aims))
    first, second = stage.peers[0], stage.peers[1]
    route = Route(choices=(Choice(first, "fits"), Choice(second, "next")), forecast=found.forecast)
    return Account(
        request_id=request_id,
        asked_at=asked_at,
        route=route,
        attempts=[
            Attempt(replica=first, reason="fits", asked_at=asked_at, outcome="unreachable"),
            Attempt(
                replica=second,
                reason="next",
                asked_at=asked_at + 1.0,
                ttft=0.31,
                tpot=0.0234,
                latency=4.5,
                output_tokens=180,
                outcome="answered",
            ),
        ],
    )


def unweighed(request_id: str = "r-2", *, asked_at: float = 6.0) -> Account:
    """Return a prompt that the client sent to a node of its choice, which still answers."""
    stage = Stage([curve()])
    peer = stage.peers[0]
    return Account(
        request_id=request_id,
        asked_at=asked_at,
        route=Route(choices=(Choice(peer, "via"),)),
        attempts=[Attempt(replica=peer, reason="via", asked_at=asked_at)],
    )


def refused(request_id: str = "r-3", *, asked_at: float = 7.0) -> Account:
    """Return a prompt that nobody could be asked."""
    return Account(request_id=request_id, asked_at=asked_at, route=Route(choices=(), reason="no_replica"))
