"""What a node has without any company: its engine, its history, its clock. What the company is built on."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from node.core.own_records import Setting
from node.core.strategy import Strategy
from node.reckoning import OwnEngine
from node.record_ports import History
from node.services.serve import LocalReplica
from protocol.ids import PeerId

Tell = Callable[[str, Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """What a node has without any company."""

    me: PeerId
    engine: OwnEngine
    replica: LocalReplica
    history: History
    wall: Callable[[], int]  # microseconds since 1970
    setting: Callable[[], Awaitable[Setting | None]] | None  # what the engine serves, and on what
    luck: Callable[[], float]
    tell: Tell
    offence: Callable[[str], None]
    strategy: Callable[[], Strategy]  # that the engine works under, levers included
