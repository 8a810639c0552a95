"""Identities of the swarm, each parsed once into a small frozen value. Specification: docs/protocol/ids.md.

Knows no network and no trust: a well-formed id says nothing about whether its owner exists. Each id has exactly
one spelling; whatever else a lenient parser might accept is refused, so ids can be compared as text.
"""

import re
from dataclasses import dataclass
from typing import Final, Self

from protocol import limits

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE58_DIGIT = {char: digit for digit, char in enumerate(_BASE58)}

# libp2p: identity multihash (code 0, length 36) of the protobuf {1: KeyType Ed25519 = 1, 2: 32 bytes}.
_PEER_ID_PREFIX = bytes.fromhex("002408011220")

_FIELD_PRIME = 2**255 - 19
_SIGN_BIT = 1 << 255
# y of the eight points of small order. Under such a "key" some signatures hold for any message without a secret:
# whoever owned it would be everybody. OpenSSL accepts them (tests/protocol/test_weak_keys.py), we do not.
_SMALL_ORDER_Y: Final = frozenset(
    {
        0,  # order 4
        1,  # order 1: the neutral element
        _FIELD_PRIME - 1,  # order 2
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,  # order 8
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,  # order 8
    }
)

_SWARM = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_MODEL = re.compile(r"[A-Za-z0-9._/][A-Za-z0-9._:/+~=-]{0,254}")
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,15}")


class InvalidId(ValueError):
    """The text or bytes are no id of this sort. Whose fault that is depends on where they came from."""


@dataclass(frozen=True, slots=True, order=True, repr=False)
class PeerId:
    """A node: libp2p's peer id of its Ed25519 public key, from which the key can be read back.

    Raises:
        InvalidId: the 32 bytes are no key that a signature could be trusted under (not canonical, small order).
    """

    key: bytes

    def __post_init__(self) -> None:
        if len(self.key) != limits.PUBLIC_KEY_BYTES:
            raise InvalidId(f"an Ed25519 public key has {limits.PUBLIC_KEY_BYTES} bytes, not {len(self.key)}")
        y = int.from_bytes(self.key, "little") & ~_SIGN_BIT
        if y >= _FIELD_PRIME or y in _SMALL_ORDER_Y:
            raise InvalidId("this public key is not canonical or of small order: anybody could sign for it")

    @classmethod
    def from_public_key(cls, key: bytes) -> Self:
        """Return the id of the owner of this raw public key (32 bytes)."""
        return cls(key)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Read the 38 bytes that stand for the id on the wire."""
        if len(raw) != limits.PEER_ID_BYTES or not raw.startswith(_PEER_ID_PREFIX):
            raise InvalidId("not the peer id of an Ed25519 key")
        return cls(raw[len(_PEER_ID_PREFIX) :])

    @classmethod
    def from_string(cls, text: str) -> Self:
        """Read the text that people see, `12D3KooW...`."""
        if len(text) != limits.PEER_ID_CHARS:
            raise InvalidId(f"a peer id has {limits.PEER_ID_CHARS} characters, not {len(text)}")
        return cls.from_bytes(_base58_decode(text, limits.PEER_ID_BYTES))

    def public_key(self) -> bytes:
        """Return the raw public key, 32 bytes."""
        return self.key

    def to_bytes(self) -> bytes:
        """Return the 38 bytes of the wire."""
        return _PEER_ID_PREFIX + self.key

    def __str__(self) -> str:
        return _base58_encode(self.to_bytes())

    def __repr__(self) -> str:
        return f"PeerId({self})"


@dataclass(frozen=True, slots=True, order=True)
class SwarmId:
    """Which swarm a signed body belongs to: a lower-case DNS label; `public` unless the swarm is private."""

    text: str

    def __post_init__(self) -> None:
        if not _SWARM.fullmatch(self.text):
            raise InvalidId(f"a swarm id is 1 to {limits.SWARM_ID_CHARS} lower-case letters, digits and inner hyphens")

    def __str__(self) -> str:
        return self.text


PUBLIC_SWARM: Final = SwarmId("public")


@dataclass(frozen=True, slots=True, order=True)
class Epoch:
    """When an installation's history began, in microseconds since 1970.

    A restored back-up or a cloned key begins a new epoch, and so is no fork of the old one.
    """

    start_us: int

    def __post_init__(self) -> None:
        if not 0 <= self.start_us <= limits.TIME_MAX_US:
            raise InvalidId(f"an epoch lies between 0 and {limits.TIME_MAX_US} µs")

    def __str__(self) -> str:
        return str(self.start_us)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class RecordName:
    """What a signed record is called: nobody but its author can give the name, and only to one body."""

    author: PeerId
    epoch: Epoch
    seq: int

    def __post_init__(self) -> None:
        if not 0 <= self.seq <= limits.SEQ_MAX:
            raise InvalidId(f"a sequence number lies between 0 and {limits.SEQ_MAX}")

    @classmethod
    def from_string(cls, text: str) -> Self:
        """Read `author/epoch/seq`."""
        parts = text.split("/", maxsplit=3)
        if len(parts) != 3 or not all(_DECIMAL.fullmatch(number) for number in parts[1:]):
            raise InvalidId("a record's name is AUTHOR/EPOCH/SEQ, the last two in plain decimal")
        author, epoch, seq = parts
        return cls(author=PeerId.from_string(author), epoch=Epoch(int(epoch)), seq=int(seq))

    def __str__(self) -> str:
        return f"{self.author}/{self.epoch}/{self.seq}"


@dataclass(frozen=True, slots=True, order=True)
class ContentDigest:
    """SHA-256 of some content: a body, a model's config and weights index."""

    digest: bytes

    def __post_init__(self) -> None:
        if len(self.digest) != limits.DIGEST_BYTES:
            raise InvalidId(f"a digest has {limits.DIGEST_BYTES} bytes, not {len(self.digest)}")

    @classmethod
    def from_string(cls, text: str) -> Self:
        """Read `sha256:` and 64 lower-case hexadecimal digits."""
        algorithm, _, digits = text.partition(":")
        if algorithm != "sha256" or not re.fullmatch("[0-9a-f]{64}", digits):
            raise InvalidId("a digest is sha256: and 64 lower-case hexadecimal digits")
        return cls(bytes.fromhex(digits))

    def __str__(self) -> str:
        return f"sha256:{self.digest.hex()}"


@dataclass(frozen=True, slots=True)
class ModelName:
    """What a client asks for: a served name, and the exact content where `pin` is set (`name@sha256:...`)."""

    name: str
    pin: ContentDigest | None = None

    def __post_init__(self) -> None:
        if not _MODEL.fullmatch(self.name):
            raise InvalidId(
                f"a model's name is 1 to {limits.MODEL_NAME_CHARS} of the characters A-Z a-z 0-9 . _ / - : + ~ =,"
                " the first a letter, a digit or one of . _ /"
            )

    @classmethod
    def from_string(cls, text: str) -> Self:
        """Read `name` or `name@digest`."""
        name, at, pin = text.partition("@")
        return cls(name, ContentDigest.from_string(pin) if at else None)

    def __str__(self) -> str:
        return self.name if self.pin is None else f"{self.name}@{self.pin}"


def _base58_encode(raw: bytes) -> str:
    """Encode in base58btc: each leading zero byte is a `1`, the rest is one big number."""
    number, digits = int.from_bytes(raw, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = _BASE58[digit] + digits
    zeros = len(raw) - len(raw.lstrip(b"\0"))
    return "1" * zeros + digits


def _base58_decode(text: str, size: int) -> bytes:
    """Decode base58btc into `size` bytes. Of texts of one length no two mean the same: the caller has checked it."""
    number = 0
    for char in text:
        digit = _BASE58_DIGIT.get(char)
        if digit is None:
            raise InvalidId("not base58: it has no 0, O, I, l and no punctuation")
        number = number * 58 + digit
    if number >> (8 * size):
        raise InvalidId(f"more than {size} bytes of base58")
    return number.to_bytes(size, "big")
