"""Identities: one spelling each, the same as libp2p's, and none that anybody could sign for."""

import warnings
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from protocol.ids import ContentDigest, Epoch, InvalidId, ModelName, PeerId, RecordName, SwarmId
from tests.protocol.samples import AUTHOR
from tests.vectors.cases_ids import PARSERS

with warnings.catch_warnings():  # libp2p 0.8.1 imports a part of websockets that announces its end
    warnings.simplefilter("ignore", DeprecationWarning)
    from libp2p.crypto.ed25519 import Ed25519PublicKey as ForeignKey
    from libp2p.peer.id import ID

SEEDS = st.binary(min_size=32, max_size=32)


def peer_of(seed: bytes) -> PeerId:
    key = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return PeerId.from_public_key(key)


@given(SEEDS)
def test_a_peer_id_is_what_libp2p_makes_of_the_key(seed: bytes) -> None:
    ours = peer_of(seed)
    foreign = ID.from_pubkey(ForeignKey.from_bytes(ours.public_key()))
    assert str(ours) == foreign.to_base58()
    assert ours.to_bytes() == foreign.to_bytes()
    key = ID.from_base58(str(ours)).extract_public_key()
    assert key is not None
    assert key.to_bytes() == ours.public_key()


@given(SEEDS)
def test_a_peer_id_reads_back_from_its_text_and_its_bytes(seed: bytes) -> None:
    peer = peer_of(seed)
    assert PeerId.from_string(str(peer)) == peer == PeerId.from_bytes(peer.to_bytes())
    assert str(peer).startswith("12D3KooW")


@given(st.integers(0, 51), st.characters())
def test_a_peer_id_with_one_other_character_is_another_id_or_none(at: int, char: str) -> None:
    text = str(AUTHOR)[:at] + char + str(AUTHOR)[at + 1 :]
    try:
        peer = PeerId.from_string(text)
    except InvalidId:
        return
    assert str(peer) == text


@pytest.mark.parametrize("sort", PARSERS)
def test_any_text_is_refused_or_is_the_only_spelling_of_its_id(sort: str) -> None:
    @given(st.text(max_size=80) | st.from_regex(r"[a-z0-9:/@-]{1,70}", fullmatch=True))
    def holds(text: str) -> None:
        try:
            identity = PARSERS[sort](text)
        except InvalidId:
            return
        assert str(identity) == text

    holds()


@given(st.binary(max_size=40))
def test_any_bytes_are_refused_or_are_a_peer_id(raw: bytes) -> None:
    for candidate in (raw, bytes.fromhex("002408011220") + raw):
        try:
            peer = PeerId.from_bytes(candidate)
        except InvalidId:
            continue
        assert peer.to_bytes() == candidate


@given(SEEDS, st.integers(0, 2**53 - 1), st.integers(0, 2**53 - 1))
def test_a_record_name_reads_back_from_its_text(seed: bytes, start: int, seq: int) -> None:
    name = RecordName(author=peer_of(seed), epoch=Epoch(start), seq=seq)
    assert RecordName.from_string(str(name)) == name


def test_a_pin_is_part_of_a_models_name() -> None:
    pin = ContentDigest(bytes(range(32)))
    name = ModelName.from_string(f"org/model-1@{pin}")
    assert (name.name, name.pin) == ("org/model-1", pin)
    assert ModelName.from_string("org/model-1").pin is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: PeerId(b"x" * 31),
        lambda: PeerId.from_bytes(b"\x12\x20" + b"x" * 32),
        lambda: Epoch(-1),
        lambda: Epoch(2**53),
        lambda: RecordName(author=AUTHOR, epoch=Epoch(0), seq=-1),
        lambda: ContentDigest(b"x"),
        lambda: SwarmId("Public"),
        lambda: ModelName("a b"),
    ],
    ids=["short key", "another multihash", "before 1970", "epoch", "seq", "digest", "swarm", "model"],
)
def test_no_constructor_lets_a_malformed_id_in(make: Callable[[], object]) -> None:
    with pytest.raises(InvalidId):
        make()


def test_ids_sort_and_hash_so_that_they_can_be_keys() -> None:
    peers = [peer_of(bytes([seed]) * 32) for seed in range(5)]
    assert sorted(peers) == sorted(peers, key=lambda peer: peer.public_key())
    assert len({*peers, *peers}) == 5
