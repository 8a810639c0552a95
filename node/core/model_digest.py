"""The content digest of a model: equal where configuration and weights index are, whoever downloaded them from where.

Knows the form that is hashed; reads no file. Specification: docs/protocol/performance.md, "Content digest".
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from protocol.ids import ContentDigest

DOMAIN = "metainf model 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFile:
    """What of a weight file is hashed: never its gigabytes. `head`: its safetensors header as it lies there."""

    name: str
    size: int
    head: bytes


def model_digest(config: Mapping[str, object], weights: Mapping[str, object] | Sequence[WeightFile]) -> ContentDigest:
    """Return the digest.

    Args:
        config: the model's `config.json`.
        weights: its weights index; where it has none, its weight files, in any order.
    """
    lines = [DOMAIN, f"config {_hash(_canonical(config))}"]
    if isinstance(weights, Mapping):
        lines.append(f"index {_hash(_canonical(weights))}")
    else:
        files = sorted(weights, key=lambda file: file.name)
        lines += [f"file {json.dumps(file.name)} {file.size} {_hash(file.head)}" for file in files]
    return ContentDigest(hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).digest())


def _canonical(value: Mapping[str, object]) -> bytes:
    """Return JSON in one spelling: keys sorted, no white space, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
