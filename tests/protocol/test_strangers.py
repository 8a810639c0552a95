"""Ten thousand byte strings that no honest node sends, to everything that reads before it trusts.

One seeded loop rather than hypothesis: the number is a promise, and each handler gets every string.
"""

import gc
from collections.abc import Callable
from random import Random

import pytest

from protocol import dht, gossip, hello, history, inference_events, load
from protocol.dialogue import Dialogue, Role
from protocol.errors import RemoteProtocolError
from protocol.hello import Greeting
from protocol.ids import PUBLIC_SWARM
from protocol.inference import Exchange
from protocol.inference import Role as InferenceRole
from protocol.performance import PERFORMANCE
from protocol.records import verify_and_open
from tests.protocol import history_samples, performance_samples, samples, swarm_samples

STRINGS = 10_000
NOW = samples.NOW
HONEST = [
    hello.SCRIPT.vocabulary.encode(swarm_samples.hello()),
    load.SCRIPT.vocabulary.encode(swarm_samples.LOADS["report"]),
    swarm_samples.advert().sealed,
    swarm_samples.head().sealed,
    performance_samples.performance().sealed,
    gossip.pack_records([swarm_samples.head().sealed] * 3)[0],
    inference_events.encode(samples.ASK),
    history.SCRIPT.vocabulary.encode(history_samples.MESSAGES["fetch of two"]),
    history.SCRIPT.vocabulary.encode(history_samples.MESSAGES["holdings"]),
]


def asked() -> Dialogue[load.State, load.Message]:
    dialogue: Dialogue[load.State, load.Message] = Dialogue(load.SCRIPT, Role.OPENER)
    dialogue.say(load.Poll())
    return dialogue


def listing() -> Dialogue[history.State, history.Message]:
    dialogue: Dialogue[history.State, history.Message] = Dialogue(history.SCRIPT, Role.OPENER)
    dialogue.say(history.List(buckets=bytes(32)))
    return dialogue


def answered(raw: bytes) -> None:
    report = asked().hear(raw)
    assert isinstance(report, load.Report)
    load.read_figures(report.load)


HANDLERS: dict[str, Callable[[bytes], object]] = {
    "hello": lambda raw: Greeting(Role.ANSWERER, swarm_samples.hello(), swarm_samples.OTHER).take(raw, NOW),
    "load, asked": lambda raw: Dialogue(load.SCRIPT, Role.ANSWERER).hear(raw),
    "load, told": answered,
    "advert": lambda raw: gossip.open_advert(raw, swarm=PUBLIC_SWARM, now_us=NOW),
    "records": gossip.unpack_records,
    "performance": lambda raw: verify_and_open(raw, PERFORMANCE, swarm=PUBLIC_SWARM, now_us=NOW),
    "table, value": lambda raw: dht.validate(
        str(dht.head_key(PUBLIC_SWARM, samples.AUTHOR)), raw, swarm=PUBLIC_SWARM, now_us=NOW
    ),
    "table, key": lambda raw: dht.parse_key(raw.decode("latin1")),
    "history, asked": lambda raw: Dialogue(history.SCRIPT, Role.ANSWERER).hear(raw),
    "history, told": lambda raw: listing().hear(raw),
    "inference": lambda raw: Exchange(InferenceRole.SERVER).hear(raw),
}


def strings() -> list[bytes]:
    luck = Random(47_470)  # noqa: S311 -- seeded: the same every time
    found = []
    for index in range(STRINGS):
        raw = bytearray(luck.choice(HONEST) if index % 3 else luck.randbytes(luck.randrange(400)))
        for _ in range(luck.randrange(1, 4) if raw else 0):
            at = luck.randrange(len(raw))
            raw[at : at + luck.randrange(3)] = luck.randbytes(luck.randrange(3))
            if not raw:
                break
        found.append(bytes(raw))
    return found


@pytest.mark.parametrize("handler", HANDLERS)
def test_strangers_bytes_end_in_the_peers_fault_and_leave_nothing_behind(handler: str) -> None:
    refused, before = 0, _kept()
    for raw in strings():
        try:
            HANDLERS[handler](raw)
        except RemoteProtocolError:
            refused += 1
    assert refused > STRINGS // 2
    assert _kept() - before < 1_000


def _kept() -> int:
    gc.collect()
    return len(gc.get_objects())
