"""The handshake of private swarms on real sockets: who has another key learns nothing, and is told why."""

import hmac
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from libp2p.peer.peerstore import PeerStoreError
from noise.connection import Keypair, NoiseConnection

from node.adapters.p2p.host import P2pHost, open_host
from node.adapters.p2p.private import IS_PRIVATE, IS_PUBLIC, OTHER_KEY, PRIVATE_NOISE, SwarmKey
from node.errors import OtherSwarm, Unreachable
from protocol.ids import PeerId
from tests.adapters.p2p.gossip_and_directory import TOPIC, a_number, gossiping, in_touch
from tests.adapters.p2p.hosts import ECHO, HERE, PATIENCE, a_host, echo, eventually, introduce, says

RED = SwarmKey(swarm="red", key=bytes(range(32)))
BLUE = SwarmKey(swarm="blue", key=bytes(range(1, 33)))


@asynccontextmanager
async def a_member(private: SwarmKey) -> AsyncIterator[P2pHost]:
    async with open_host(os.urandom(32), [HERE], private=private) as host:
        host.serve(ECHO, echo)
        yield host


async def everybody(_: PeerId) -> bool:
    await trio.lowlevel.checkpoint()
    return True


async def dial(host: P2pHost, other: P2pHost) -> None:
    with trio.fail_after(PATIENCE):
        await host.dial(other.addresses()[0])


async def test_two_of_one_swarm_know_each_other_and_talk() -> None:
    async with a_member(RED) as one, a_member(RED) as other:
        for host in (one, other):
            host.admit(everybody)
        await introduce(one, other)
        assert one.connected() == {other.me}
        assert await says(one, other)
        assert await says(other, one)
        assert one.strangers() == other.strangers() == 0


@pytest.mark.parametrize(
    "theirs",
    [BLUE, SwarmKey(swarm="red", key=BLUE.key), SwarmKey(swarm="blue", key=RED.key)],
    ids=["both", "another-key", "another-name"],
)
async def test_another_key_or_name_ends_at_the_handshake_and_is_named_as_the_likely_cause(theirs: SwarmKey) -> None:
    async with a_member(RED) as one, a_member(theirs) as other:
        with pytest.raises(OtherSwarm) as caught:
            await dial(one, other)
        assert caught.value.message == OTHER_KEY
        assert "metainf swarm join" in caught.value.remedy
        assert not one.connected()
        assert not other.connected()
        await eventually(lambda: other.strangers() == 1)
        assert one.strangers() == 0
        with pytest.raises(OtherSwarm):
            await dial(other, one)


async def test_a_private_node_and_a_public_one_say_what_the_other_most_likely_is() -> None:
    async with a_member(RED) as private, a_host() as public:
        with pytest.raises(OtherSwarm) as caught:
            await dial(private, public)
        assert caught.value.message == IS_PUBLIC
        with pytest.raises(OtherSwarm) as caught:
            await dial(public, private)
        assert caught.value.message == IS_PRIVATE
        assert not private.connected()
        assert not public.connected()


async def test_nobody_there_and_somebody_who_hangs_up_are_no_other_swarm() -> None:
    async with a_member(RED) as one:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

        async def hang_up(stream: trio.SocketStream) -> None:
            await stream.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, hang_up, listeners)
            port = listeners[0].socket.getsockname()[1]
            for number in (port, 1):
                with pytest.raises(Unreachable) as caught, trio.fail_after(PATIENCE):
                    await one.dial(type(HERE)("ip4", "127.0.0.1", number, PeerId(bytes(range(1, 33)))))
                assert not isinstance(caught.value, OtherSwarm)
            nursery.cancel_scope.cancel()


def line(text: str) -> bytes:
    return bytes([len(text) + 1]) + text.encode() + b"\n"


async def all_that_is_said(host: P2pHost, first: bytes) -> bytes:
    """Begin a handshake with these bytes; return what the node says after agreeing on its protocol."""
    agreed = line("/multistream/1.0.0") + line(PRIVATE_NOISE)
    stream = await trio.open_tcp_stream("127.0.0.1", host.addresses()[0].port)
    async with stream:
        await stream.send_all(agreed + len(first).to_bytes(2, "big") + first)
        said = b""
        with trio.fail_after(PATIENCE):
            while part := await stream.receive_some():
                said += part
    assert said.startswith(agreed)
    return said.removeprefix(agreed)


def first_message(key: bytes, swarm: str) -> bytes:
    state = NoiseConnection.from_name(b"Noise_XXpsk0_25519_ChaChaPoly_SHA256")
    state.set_psks(key)
    state.set_prologue(b"metainf/swarm/1\0" + swarm.encode())
    state.set_as_initiator()
    state.set_keypair_from_private_bytes(Keypair.STATIC, os.urandom(32))
    state.start_handshake()
    return bytes(state.write_message())


@pytest.mark.parametrize(
    "first",
    [
        os.urandom(48),
        os.urandom(32),
        b"",
        first_message(BLUE.key, "red"),
        first_message(RED.key, "blue"),
        bytes(32) + os.urandom(16),  # a point of small order
    ],
    ids=["garbage", "plain-xx", "nothing", "another-key", "another-name", "small-order"],
)
async def test_who_has_not_the_key_is_not_told_a_single_byte_by_the_node(first: bytes) -> None:
    async with a_member(RED) as host:
        assert await all_that_is_said(host, first) == b""
        async with a_member(RED) as friend:  # who comes after it is served
            friend.admit(everybody)
            host.admit(everybody)
            await introduce(friend, host)
            assert await says(friend, host)


class ByTheBook:
    """An initiator of XXpsk0 as revision 34 of the specification describes it, up to the second message."""

    def __init__(self, private: SwarmKey) -> None:
        self.h = self.ck = sha256(b"Noise_XXpsk0_25519_ChaChaPoly_SHA256").digest()
        self.mix_hash(b"metainf/swarm/1\0" + private.swarm.encode())
        self.ephemeral = X25519PrivateKey.generate()
        self.ck, temp_h, self.k = self.hkdf(private.key, 3)  # psk: MixKeyAndHash
        self.mix_hash(temp_h)
        self.n = 0

    def mix_hash(self, data: bytes) -> None:
        self.h = sha256(self.h + data).digest()

    def hkdf(self, material: bytes, outputs: int) -> list[bytes]:
        temp, out = hmac.digest(self.ck, material, "sha256"), [b""]
        for number in range(1, outputs + 1):
            out.append(hmac.digest(temp, out[-1] + bytes([number]), "sha256"))
        return out[1:]

    def mix_key(self, material: bytes) -> None:
        self.ck, self.k = self.hkdf(material, 2)
        self.n = 0

    def nonce(self) -> bytes:
        self.n += 1
        return bytes(4) + (self.n - 1).to_bytes(8, "little")

    def first(self) -> bytes:
        public = self.ephemeral.public_key().public_bytes_raw()
        self.mix_hash(public)
        self.mix_key(public)  # e, where a psk is used
        sealed = ChaCha20Poly1305(self.k).encrypt(self.nonce(), b"", self.h)
        self.mix_hash(sealed)
        return public + sealed

    def opened(self, sealed: bytes) -> bytes:
        plain = ChaCha20Poly1305(self.k).decrypt(self.nonce(), sealed, self.h)
        self.mix_hash(sealed)
        return plain

    def second(self, message: bytes) -> tuple[bytes, bytes]:
        """Return the responder's static key and its payload."""
        theirs = message[:32]
        self.mix_hash(theirs)
        self.mix_key(theirs)
        self.mix_key(self.ephemeral.exchange(X25519PublicKey.from_public_bytes(theirs)))  # ee
        static = self.opened(message[32:80])
        self.mix_key(self.ephemeral.exchange(X25519PublicKey.from_public_bytes(static)))  # es
        return static, self.opened(message[80:])


async def test_the_handshake_is_noise_xxpsk0_as_the_specification_has_it() -> None:
    async with a_member(RED) as host:
        agreed, book = line("/multistream/1.0.0") + line(PRIVATE_NOISE), ByTheBook(RED)
        first = book.first()
        assert len(first) == 48
        async with await trio.open_tcp_stream("127.0.0.1", host.addresses()[0].port) as stream:
            await stream.send_all(agreed + len(first).to_bytes(2, "big") + first)
            said = b""
            with trio.fail_after(PATIENCE):
                while len(said) < len(agreed) + 2 or len(said) < len(agreed) + 2 + length(said[len(agreed) :]):
                    said += await stream.receive_some()
        static, payload = book.second(said[len(agreed) + 2 :])
        assert len(static) == 32
        assert host.me.public_key() in payload  # libp2p's own payload: who it is, and its signature


def length(framed: bytes) -> int:
    return int.from_bytes(framed[:2], "big")


async def test_nothing_of_libp2ps_own_is_said_before_the_greeting_and_all_of_it_after() -> None:
    greeted = trio.Event()

    async def once_greeted(_: PeerId) -> bool:
        await greeted.wait()
        return True

    async with (
        a_member(RED) as one,
        a_member(RED) as other,
        gossiping(one) as speaker,
        gossiping(other) as listener,
        speaker.subscribe(TOPIC, a_number),
        listener.subscribe(TOPIC, a_number) as heard,
    ):
        one.admit(once_greeted)
        other.admit(everybody)  # the other end does not wait, as a hostile one would not
        await introduce(other, one)
        await speaker.publish(TOPIC, b"1")
        await listener.publish(TOPIC, b"2")
        with trio.move_on_after(2) as waited:
            await heard.receive()
        assert waited.cancelled_caught
        with pytest.raises(PeerStoreError):  # nor identified
            one.foreign.get_peerstore().get_protocols(next(iter(one.swarm.connections)))
        greeted.set()
        await in_touch((speaker, other), (listener, one))
        await speaker.publish(TOPIC, b"3")
        with trio.fail_after(PATIENCE):
            while await heard.receive() != b"3":
                pass  # what was said lately is said again to a newcomer


def test_a_key_is_not_shown() -> None:
    assert RED.key.hex() not in repr(RED)
    assert repr(RED.key) not in repr(RED)
