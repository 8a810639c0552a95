"""The content digest of a model, against the form that docs/protocol/ids.md gives."""

import hashlib
from typing import Any

import pytest

from node.core.model_digest import WeightFile, model_digest

CONFIG = {"b": [1, 2.5], "a": "ü"}
CANONICAL = b'{"a":"\\u00fc","b":[1,2.5]}'


def h(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_it_is_what_the_page_says_with_an_index_and_without() -> None:
    head = f"metainf model 1\nconfig {h(CANONICAL)}\n"
    indexed = head + f"index {h(b'{}')}\n"
    assert model_digest(CONFIG, {}).digest.hex() == h(indexed.encode())
    files = (WeightFile(name="y", size=2, head=b"{}"), WeightFile(name='x"', size=10, head=b""))
    filed = head + f'file "x\\"" 10 {h(b"")}\nfile "y" 2 {h(b"{}")}\n'
    assert model_digest(CONFIG, files).digest.hex() == h(filed.encode())


@pytest.mark.parametrize(
    ("weights", "digest"),
    [
        ({}, "sha256:4d547ac9332c18f3ff809c52b193cdea3c6cf44a1713f34fcb32c9ac2e369179"),
        (
            (WeightFile(name="model.safetensors", size=8, head=b"{}"),),
            "sha256:95b1badf7990184d95fd003e15b3f23f8d826a3fb0434b45f8f242c081d3fd09",
        ),
    ],
)
def test_it_stays_the_same_from_version_to_version(weights: Any, digest: str) -> None:
    assert str(model_digest(CONFIG, weights)) == digest
