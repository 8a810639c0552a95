"""The room for peers' prompts: whoever fills it, under however many names, leaves room for a small one."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.core.holdings import Holdings
from protocol.ids import PeerId

MIB = 1024 * 1024


def peer(number: int) -> PeerId:
    key = Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))
    return PeerId.from_public_key(key.public_key().public_bytes_raw())


def test_one_machine_under_a_hundred_names_leaves_room_for_the_prompt_of_another() -> None:
    room = Holdings(whole=128 * MIB, each=64 * MIB)
    for _ in range(64):
        for number in range(1, 101):
            if room.refusal(peer(number), MIB) is None:
                room.take(peer(number), MIB)
    assert room.refusal(peer(200), 64 * 1024) is None


def test_a_peer_alone_may_hold_its_whole_share_and_no_more() -> None:
    room = Holdings(whole=128 * MIB, each=64 * MIB)
    for _ in range(64):
        assert room.refusal(peer(1), MIB) is None
        room.take(peer(1), MIB)
    assert room.refusal(peer(1), 1) is not None
    room.give_back(peer(1), 64 * MIB)
    assert room.held == 0
