"""What it costs to have a prompt answered by the best replica: the CPU of `SwarmReplica` around an instant own engine.

    python -m tests.benchmarks.bench_ask [--rounds 30] [--json]

In µs of this process's CPU for each prompt, least of rounds that take turns (less is only ever noise): `alone` where
this node's engine is the only candidate, `among 8` where eight slower peers are weighed too, `hedgeable` the same with
somebody looking after late first bytes, all without what the engine's own answer costs here; and what each further
piece of a stream costs. No HTTP and no sockets. Run it with nothing else running.
"""

import argparse
import json
import random
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, cast

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.core.access import Access
from node.core.curves import Shelf
from node.core.experience import Experience
from node.core.peerbook import Peerbook
from node.core.predictive import Predictive
from node.core.prompt import OWNER, Headers, Prompt
from node.core.round_trips import RoundTrips
from node.core.standings import Standings
from node.ports import Served, Streams, Swarm
from node.services.ask import SwarmReplica
from node.services.ask_peer import Vigil
from protocol.advert import ModelOffer
from protocol.ids import PeerId
from protocol.load import Load
from tests.core.routing import KEY, curve
from tests.protocol import samples, swarm_samples

MODEL = "tiny"
ME = PeerId((8 * 999 + 9).to_bytes(32, "little"))
PEERS = 8
BODY = json.dumps({
    "model": MODEL, "stream": True, "max_tokens": 100,
    "messages": [{"role": "user", "content": "What stands in the book of the seven seas? " * 10}],
}).encode()  # fmt: skip
EVENT = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
IDLE = Load(running=0, waiting=0, slots=64)
SHORT, LONG = 1, 101  # pieces of a stream
TURN = 50  # prompts between two looks at the clock


class Engine:
    """Answers at once, in so many pieces."""

    def __init__(self) -> None:
        self.pieces = SHORT

    def answer(self, prompt: Prompt) -> "Answering":
        """See `node.ports.Replica`."""
        return Answering(self.pieces)


class Answering:
    """One of its answers."""

    served = Served(node=str(ME), model=MODEL, strategy="default")
    status = 200
    headers: Headers = ((b"content-type", b"text/event-stream"),)

    def __init__(self, pieces: int) -> None:
        self._left = pieces

    async def __aenter__(self) -> "Answering":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    async def receive(self) -> bytes:
        """See `node.ports.Answer`."""
        await trio.lowlevel.checkpoint()
        self._left -= 1
        return EVENT if self._left >= 0 else b""


class Watch:
    """Looks after nobody."""

    def want(self, peers: Iterable[PeerId]) -> None:
        """Go over them, as the real one does."""
        for _ in peers:
            pass

    def attend(self, peer: PeerId) -> AbstractContextManager[Vigil]:
        """Nobody is asked here."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured: so many peers, and whether late first bytes are looked after."""

    name: str
    peers: int
    hedged: bool = False


CASES = (Case("alone", 0), Case(f"among {PEERS}", PEERS), Case("hedgeable", PEERS, hedged=True))


def node(engine: Engine, peers: int) -> SwarmReplica:
    """Return a node among so many peers that are slower than its own engine."""
    standings, shelf, trips, book = Standings(), Shelf(), RoundTrips(ME), Peerbook(ME)
    experience, now = Experience(key=KEY), trio.current_time()
    shelf.put(ME, MODEL, curve(0.05, 0.001))
    for number in range(peers):
        key = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
        advert = swarm_samples.advert(key, models=(ModelOffer(name=MODEL),), expiry=samples.NOW + 10**10)
        peer = advert.body.stamp.author
        book.hear(advert, via=None, now=now, now_us=samples.NOW)
        shelf.put(peer, MODEL, curve(5.0, 1.0))
        standings.read(peer, IDLE, now)
    return SwarmReplica(
        me=ME,
        local=engine,
        own_load=lambda: IDLE,
        own_model=lambda: MODEL,
        streams=cast(Streams, None),
        swarm=cast(Swarm, None),
        book=book,
        standings=standings,
        access=Access(),
        router=Predictive(curves=shelf, trips=trips, experience=experience),
        watch=Watch(),
        luck=random.Random(1).random,  # noqa: S311 -- the same every time
        on_change=lambda _changes: None,
        experience=experience,
        edition=lambda: 1,
    )


async def ask(replica: SwarmReplica | Engine) -> None:
    """Have prompts answered, as many as are timed together."""
    for number in range(TURN):
        prompt = Prompt(
            request_id=str(number), method="POST", target="/v1/chat/completions", headers=(), body=BODY, model=MODEL,
            stream=True, requester=OWNER, deadline=trio.current_time() + 600.0,
        )  # fmt: skip
        async with replica.answer(prompt) as answer:
            while await answer.receive():
                pass


async def cost(replica: SwarmReplica | Engine) -> float:
    """Return the µs of CPU that a prompt takes."""
    begin = time.process_time()
    await ask(replica)
    return (time.process_time() - begin) / TURN * 1e6


async def measure(rounds: int) -> list[dict[str, Any]]:
    """Return a line for each case."""
    engine = Engine()
    least = {
        (name, pieces): float("inf") for name in ("bare", *(each.name for each in CASES)) for pieces in (SHORT, LONG)
    }
    async with trio.open_nursery() as nursery:
        replicas: dict[str, SwarmReplica | Engine] = {"bare": engine}
        for case in CASES:
            replicas[case.name] = replica = node(engine, case.peers)
            if case.hedged:
                nursery.start_soon(replica.run)
        for _ in range(rounds + 1):  # the first one fills what is kept from one prompt to the next
            for (name, pieces), before in least.items():
                engine.pieces = pieces
                least[name, pieces] = min(before, await cost(replicas[name]))
        nursery.cancel_scope.cancel()
    return [
        {
            "case": case.name,
            "prompt_us": round(least[case.name, SHORT] - least["bare", SHORT], 1),
            "piece_us": round(
                (least[case.name, LONG] - least[case.name, SHORT] - least["bare", LONG] + least["bare", SHORT])
                / (LONG - SHORT),
                2,
            ),
        }
        for case in CASES
    ]


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Measure and print; return what was printed."""
    parser = argparse.ArgumentParser(description="What finding the best replica costs a prompt.")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    wish = parser.parse_args(arguments)
    lines = trio.run(measure, wish.rounds)
    for line in lines:
        words = f"{line['case']:>10}: {line['prompt_us']:6.1f} µs a prompt, {line['piece_us']:5.2f} µs a further piece"
        print(json.dumps(line) if wish.json else words)
    return lines


if __name__ == "__main__":
    main()
