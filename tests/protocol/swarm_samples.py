"""Values that several tests of the swarm's wire and its vectors share: hellos, adverts, loads, heads, batches."""

from typing import Final

from protocol import records
from protocol.advert import ADVERT, SERVE, Accelerator, Advert, Engine, Hardware, ModelOffer, ServeLimits
from protocol.dht import BATCH, HEAD, Batch, Head, Mark
from protocol.hello import Hello, Part
from protocol.ids import PUBLIC_SWARM, ContentDigest, Epoch, PeerId
from protocol.load import Load, Poll, Report, Serving
from protocol.reach import Ask, Seen
from protocol.records import Signed, SigningKey
from tests.protocol import samples

OTHER: Final = PeerId.from_public_key(samples.OTHER_KEY.public_key().public_bytes_raw())
EPOCH: Final = Epoch(samples.NOW - samples.HOUR)
MINUTE: Final = 60_000_000
DIGEST: Final = ContentDigest(bytes(range(32)))
MODEL: Final = ModelOffer(
    name="HuggingFaceTB/SmolLM2-135M-Instruct", digest=DIGEST, max_length=8192, modalities=("text",)
)


def hello(**changes: object) -> Hello:
    """Return an honest greeting, but for the changes."""
    fields: dict[str, object] = {
        "swarm": PUBLIC_SWARM,
        "sender": samples.AUTHOR,
        "incarnation": EPOCH,
        "time": samples.NOW,
        "software": "metainf/0.1.0",
        "versions": {"infer": (1,), "load": (1,), "advert": (1,)},
        "features": ("resume",),
    }
    return Hello(**(fields | changes))  # type: ignore[arg-type]


HELLOS: Final = {
    "hello": hello(),
    "hello of the other": hello(sender=OTHER, time=samples.NOW + 1_000),
    "hello of a newer node": hello(
        sender=OTHER,
        software="metainf/9.0.0",
        versions={"infer": (1, 2, 3), "load": (2,), "advert": (1, 2), "telepathy": (1,)},
        features=("resume", "levitation"),
        unknown={"mood": "calm"},
    ),
    "hello without anything spoken": hello(versions={}, features=()),
    "part": Part(code="wrong_swarm", message="Hm"),
}

LOAD: Final = Load(running=3, waiting=1, queued_tokens=1024, slots=64, accepting=True, serving=Serving.READY)
LOADS: Final = {
    "poll": Poll(),
    "report": Report(load=LOAD.to_figures()),
    "report of a newer node": Report(load={"running": 0, "waiting": 0, "humidity": 7, "state": 9}),
}

REACHES: Final = {
    "ask": Ask(ports=(47470,)),
    "ask of four": Ask(ports=(47470, 1, 443, 65535)),
    "seen, and not reached": Seen(host="44.44.0.11", tried=(47470,), reached=()),
    "seen and reached, of a newer node": Seen(
        host="2606:4700:4700::1111", tried=(47470, 443), reached=(47470,), unknown={"mood": "calm"}
    ),
    "through a relay": Seen(tried=(), reached=()),
}


def advert_body(**changes: object) -> Advert:
    """Return an honest advert: changes to its stamp (`samples.stamp`) or to its own fields."""
    stamp_names = {"version", "swarm", "author", "epoch", "seq", "time", "expiry"}
    stamp = {"epoch": EPOCH, "seq": 1, "expiry": samples.NOW + 3 * MINUTE}
    stamp |= {name: value for name, value in changes.items() if name in stamp_names}
    fields: dict[str, object] = {
        "stamp": samples.stamp(**stamp),
        "addresses": ("/ip4/192.0.2.7/tcp/47470",),
        "models": (MODEL,),
        "roles": (SERVE,),
        "software": "metainf/0.1.0",
        "versions": {"infer": (1,), "load": (1,)},
    }
    return Advert(**(fields | {name: value for name, value in changes.items() if name not in stamp_names}))  # type: ignore[arg-type]


def advert(key: SigningKey = samples.KEY, **changes: object) -> Signed[Advert]:
    """Return the same, signed by the owner of the key."""
    author = PeerId.from_public_key(key.public_key().public_bytes_raw())
    return records.sign(ADVERT, advert_body(**({"author": author} | changes)), key)


FULL_ADVERT: Final = advert_body(
    seq=2,
    addresses=(
        "/ip4/192.0.2.7/tcp/47470",
        f"/ip6/2001:db8::7/tcp/47470/p2p/{samples.AUTHOR}",
        "/dns4/node.example.org/tcp/47470",
        "/ip4/192.0.2.7/udp/47470/quic-v1",
    ),
    name="attic",
    hardware=Hardware(
        accelerators=(Accelerator(name="NVIDIA GeForce RTX 3090", count=2, memory_bytes=25_769_803_776),),
        cpu_name="AMD Ryzen 9 5950X 16-Core Processor",
        cpu_cores=16,
        memory_bytes=68_719_476_736,
    ),
    engine=Engine(name="vllm", version="0.32.0"),
    strategy={"chunked_prefill": True, "max_num_seqs": 64, "speculation": {"method": "ngram", "tokens": 4}},
    limits=ServeLimits(running=64, waiting=256, concurrent=4),
    intends="switch",
    unknown={"anthem": "none"},
)
RELAY_AT: Final = f"/ip4/44.44.0.1/tcp/47470/p2p/{OTHER}"
BEHIND: Final = advert_body(
    seq=4,
    addresses=("/ip4/192.168.1.2/tcp/47470",),
    circuits=(
        f"{RELAY_AT}/p2p-circuit/p2p/{samples.AUTHOR}",
        f"{RELAY_AT}/p2p-circuit",
        f"{RELAY_AT}/p2p-circuit/p2p/{OTHER}",  # a relay that calls itself
        "/ip4/44.44.0.1/udp/47470/quic-v1/p2p-circuit",  # of a later version
    ),
)
LEAVE: Final = advert_body(seq=3, models=(), addresses=(), leaving=True)


def head(key: SigningKey = samples.KEY, seq: int = 1, **stamp: object) -> Signed[Head]:
    """Return a signed head."""
    body = Head(
        stamp=samples.stamp(epoch=EPOCH, seq=seq, **stamp),
        records=40,
        newest=Mark(epoch=EPOCH, seq=39),
        batch=Mark(epoch=EPOCH, seq=7),
    )
    return records.sign(HEAD, body, key)


def batch(seq: int = 7, content: tuple[bytes, ...] = (b"sealed",)) -> Signed[Batch]:
    """Return a signed batch; nobody looks into its records here."""
    return records.sign(BATCH, Batch(stamp=samples.stamp(epoch=EPOCH, seq=seq), records=content), samples.KEY)
