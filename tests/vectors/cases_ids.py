"""Vectors of identities: keys with their peer ids, spellings kept and refused, keys that anybody could sign for."""

from collections.abc import Callable, Iterable
from typing import Final

from protocol.ids import ContentDigest, InvalidId, ModelName, PeerId, RecordName, SwarmId
from tests.protocol import samples
from tests.vectors.forms import Json


def ids_vectors() -> Json:
    """Keys with their peer ids, and spellings of every sort of id, kept and refused."""
    keys = [samples.KEY, samples.OTHER_KEY]
    peers = [PeerId.from_public_key(key.public_key().public_bytes_raw()) for key in keys]
    name = RecordName(author=peers[0], epoch=samples.stamp().epoch, seq=7)
    digest = ContentDigest(bytes(range(32)))
    kept: dict[str, list[object]] = {
        "swarm": [SwarmId("public"), SwarmId("a"), SwarmId("my-swarm-2")],
        "record": [name],
        "digest": [digest],
        "model": [ModelName("HuggingFaceTB/SmolLM2-135M-Instruct"), ModelName("m", digest)],
    }
    peer = str(peers[0])
    refused_texts = {
        "peer": [
            "",
            peer[:-1],
            peer + "1",
            "2" + peer[1:],
            peer[:-1] + "0",
            " " + peer[1:],
            "Qm" + peer[2:],
            "z" * 52,
        ],
        "swarm": ["", "Public", "-a", "a-", "a_b", "a/b", "a" * 64, "ä"],
        "record": [
            f"{peer}/0",
            f"{peer}/01/7",
            f"{peer}/1/+7",
            f"{peer}/1/7/",
            f"{peer}/9007199254740992/0",
            f"/{name}",
        ],
        "digest": ["", digest.digest.hex(), "SHA256:" + "0" * 64, "sha256:" + "A" * 64, "sha256:" + "0" * 63],
        "model": ["", "a b", "-a", "a@", "a@sha256:0", f"a@{digest}@{digest}", "a\n", "模", "x" * 256],
    }
    for sort, texts in refused_texts.items():
        _all_refused(sort, texts)
    return {
        "peers": [
            {"public_key": peer.public_key().hex(), "bytes": peer.to_bytes().hex(), "text": str(peer)} for peer in peers
        ],
        "weak_keys": _weak_keys(),
        "valid": [{"sort": sort, "text": str(identity)} for sort, group in kept.items() for identity in group],
        "invalid": [{"sort": sort, "text": text} for sort, texts in refused_texts.items() for text in texts],
    }


PARSERS: Final[dict[str, Callable[[str], object]]] = {
    "peer": PeerId.from_string,
    "swarm": SwarmId,
    "record": RecordName.from_string,
    "digest": ContentDigest.from_string,
    "model": ModelName.from_string,
}


def _all_refused(sort: str, texts: Iterable[str]) -> None:
    for text in texts:
        try:
            PARSERS[sort](text)
        except InvalidId:
            continue
        raise AssertionError(f"{text!r} passes for a {sort}")


def _weak_keys() -> list[Json]:
    prime = 2**255 - 19
    order_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
    found = {
        "order 4": 0,
        "order 1": 1,
        "order 2": prime - 1,
        "order 8": order_8,
        "order 8, the other": prime - order_8,
        "order 4, not canonical": prime,
        "order 1, not canonical": prime + 1,
        "not canonical": prime + 3,
    }
    return [
        {"name": f"{name}, sign {sign}", "public_key": (y | sign << 255).to_bytes(32, "little").hex()}
        for name, y in found.items()
        for sign in (0, 1)
    ]
