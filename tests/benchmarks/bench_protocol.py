"""What the wire costs: µs per value, signature and message, best of several rounds.

Run as `python -m tests.benchmarks.bench_protocol`. A table, not a test: the machine decides. The best round is the
one least disturbed by others.
"""

import timeit
from collections.abc import Callable
from typing import Any, Final

import msgpack

from protocol import inference_events as say
from protocol import limits, records, schema, wire
from protocol.framing import Framer, frame
from protocol.ids import PUBLIC_SWARM, PeerId
from protocol.inference import Exchange, Role
from tests.protocol import samples

ROUNDS: Final = 7
ROUND_S: Final = 0.1  # long enough for the clock, short enough to fit between two disturbances


def cost_us(do: Callable[[], object]) -> float:
    """Return the µs of one call in the best of the rounds."""
    timer = timeit.Timer(do)
    once = timer.timeit(10) / 10
    number = max(1, int(ROUND_S / once))
    return min(timer.repeat(ROUNDS, number)) / number * 1e6


def body_of_a_kilobyte() -> samples.Note:
    """Return a body of the size of a performance record: 50 numbers and a text, 1,0xx bytes."""
    figures = {f"figure_{index:02}": 1000 * index for index in range(50)}
    return samples.Note(stamp=samples.stamp(), text="x" * 100, tags=("a", "b"), figures=figures)


def rows() -> list[tuple[str, int, float]]:
    """Return (what, bytes, µs) of each measured piece."""
    body = body_of_a_kilobyte()
    value: Any = schema.write(body)
    raw = wire.encode(value, limits.RECORD)
    signed = records.sign(samples.NOTE, body, samples.KEY)
    peer = str(samples.AUTHOR)
    data = say.Data(data=b"x" * 100)
    payload = say.encode(data)
    framed = frame(payload)
    batch = framed * 16

    def opened() -> object:
        return records.verify_and_open(signed.sealed, samples.NOTE, swarm=PUBLIC_SWARM, now_us=samples.NOW)

    def unframed() -> None:
        framer = Framer()
        framer.feed(batch)
        while framer.next_frame() is not None:
            pass

    asker, server = Exchange(Role.ASKER), Exchange(Role.SERVER)
    server.feed(asker.send(samples.ASK_WHOLE))
    server.next_event()
    asker.feed(server.send(samples.HEAD))
    asker.next_event()

    def chunk() -> None:
        # The answer grows without end; its bound of 256 MiB is beyond what 100 bytes a time reach in these rounds.
        asker.feed(server.send(data))
        asker.next_event()

    return [
        ("msgpack alone: pack", len(raw), cost_us(lambda: msgpack.packb(value))),
        ("msgpack alone: unpack", len(raw), cost_us(lambda: msgpack.unpackb(raw))),  # noqa: TID251 - what ours is compared to
        ("wire.encode", len(raw), cost_us(lambda: wire.encode(value, limits.RECORD))),
        ("wire.decode", len(raw), cost_us(lambda: wire.decode(raw, limits.RECORD))),
        ("schema.write", len(raw), cost_us(lambda: schema.write(body))),
        ("schema.read", len(raw), cost_us(lambda: schema.read(samples.Note, value))),
        ("Ed25519 sign alone", len(raw), cost_us(lambda: samples.KEY.sign(raw))),
        ("Ed25519 verify alone", len(raw), cost_us(_verifier(raw))),
        ("records.sign", len(signed.sealed), cost_us(lambda: records.sign(samples.NOTE, body, samples.KEY))),
        ("records.verify_and_open", len(signed.sealed), cost_us(opened)),
        ("PeerId.from_string", len(peer), cost_us(lambda: PeerId.from_string(peer))),
        ("PeerId.from_bytes", 38, cost_us(lambda: PeerId.from_bytes(samples.AUTHOR.to_bytes()))),
        ("Data message: encode", len(payload), cost_us(lambda: say.encode(data))),
        ("Data message: decode", len(payload), cost_us(lambda: say.decode(payload))),
        ("16 frames out of a Framer", len(batch), cost_us(unframed)),
        ("a Data chunk, both ends", len(framed), cost_us(chunk)),
    ]


def _verifier(raw: bytes) -> Callable[[], object]:
    signature = samples.KEY.sign(raw)
    key = samples.KEY.public_key()
    return lambda: key.verify(signature, raw)


if __name__ == "__main__":
    print(f"{'what':<28}{'bytes':>8}{'µs':>10}")
    for what, size, us in rows():
        print(f"{what:<28}{size:>8}{us:>10.1f}")
