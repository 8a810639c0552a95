"""What the Ed25519 underneath lets through, and that peer ids close it.

The first test is about `cryptography` and OpenSSL, not about us: should it fail one day, the library has become
stricter, and the paragraph on weak keys in docs/protocol/ids.md can say so.
"""

import json

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from protocol.ids import InvalidId, PeerId
from tests.protocol import samples
from tests.vectors.make import HERE

WEAK = [(case["name"], case["public_key"]) for case in json.loads((HERE / "ids.json").read_text())["weak_keys"]]
NEUTRAL = (1).to_bytes(32, "little")
ORDER = 2**252 + 27742317777372353535851937790883648493


def test_under_a_key_of_small_order_one_signature_holds_for_every_message() -> None:
    key = Ed25519PublicKey.from_public_bytes(NEUTRAL)
    for index in range(20):
        key.verify(NEUTRAL + bytes(32), b"message %d" % index)


@pytest.mark.parametrize(("name", "key"), WEAK)
def test_no_peer_id_is_made_of_a_weak_key(name: str, key: str) -> None:
    assert name
    with pytest.raises(InvalidId):
        PeerId.from_public_key(bytes.fromhex(key))
    with pytest.raises(InvalidId):
        PeerId.from_bytes(bytes.fromhex("002408011220" + key))


def test_a_signature_has_one_spelling() -> None:
    signature = samples.KEY.sign(b"x")
    malleated = signature[:32] + (int.from_bytes(signature[32:], "little") + ORDER).to_bytes(32, "little")
    with pytest.raises(InvalidSignature):
        samples.KEY.public_key().verify(malleated, b"x")


def test_a_key_off_the_curve_makes_an_id_under_which_nothing_verifies() -> None:
    off = (2).to_bytes(32, "little")
    peer = PeerId.from_public_key(off)
    for scalar in (bytes(32), NEUTRAL):
        with pytest.raises(InvalidSignature):
            Ed25519PublicKey.from_public_bytes(peer.public_key()).verify(NEUTRAL + scalar, b"x")
