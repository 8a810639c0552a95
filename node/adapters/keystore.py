"""The node's private key: an Ed25519 key in a PEM file that nobody else may read.

One foreign library: `cryptography`. The file is PKCS#8, so that any tool can check, copy or convert it.
"""

import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from node import files
from node.errors import ConfigError, Unavailable

MAX_FILE_BYTES = 4096  # a PEM of this key has 119 bytes, encrypted some 500; a disk image was put here by mistake


class Identity:
    """The private half stays in here: callers get signatures. `repr` shows no secret."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)  # 32 bytes

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature (RFC 8032) of `message`."""
        return self._key.sign(message)

    def signing_key(self) -> Ed25519PrivateKey:
        """Return the power to sign records as this node (`protocol.records.sign`)."""
        return self._key

    def secret_seed(self) -> bytes:
        """Return the 32-byte seed, for the transport's handshake. Never log it."""
        return self._key.private_bytes_raw()

    def to_pem(self, passphrase: bytes | None = None) -> bytes:
        """Return the key as PKCS#8 PEM, encrypted where a passphrase is given."""
        encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def generate() -> Identity:
    """Return a new key, kept nowhere yet."""
    return Identity(Ed25519PrivateKey.generate())


def from_seed(seed: bytes) -> Identity:
    """Return the key of a 32-byte seed."""
    return Identity(Ed25519PrivateKey.from_private_bytes(seed))


def keep(file: Path, identity: Identity) -> None:
    """Write a key to a new file that only its owner may read.

    Raises:
        Unavailable: the file system refused, or the file is there already.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.write_new(file, identity.to_pem())
    except OSError as error:
        raise Unavailable(f"cannot make {file}: {error.strerror or error}", remedy="check its folder") from error


def load_or_create(file: Path) -> tuple[Identity, bool]:
    """Return the node's identity and whether it was made just now.

    Raises:
        ConfigError: the file is readable by others, or holds no such key. It is never overwritten.
        Unavailable: the file system refused.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if file.exists():
            return load(file), False
        identity = Identity(Ed25519PrivateKey.generate())
        files.write_new(file, identity.to_pem())
    except OSError as error:
        raise Unavailable(
            f"cannot make or read {file}: {error.strerror or error}", remedy="choose another folder with --data-dir"
        ) from error
    return identity, True


def load(file: Path, passphrase: bytes | None = None) -> Identity:
    """Read an identity.

    Raises:
        ConfigError: what is wrong with the file, and how to mend it.
        OSError: as the file system says.
    """
    status = file.stat()
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(
            f"other users of this machine can read {file}: whoever has it can speak as this node",
            remedy=f"chmod 600 {file}; if somebody may have copied it, move it away (a new one is made)",
        )
    pem = file.read_bytes() if status.st_size <= MAX_FILE_BYTES else b""
    try:
        key = load_pem_private_key(pem, passphrase)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{file} holds no readable private key ({error})",
            remedy="put a back-up in its place (docs/operations.md), or move it away to start as a new node",
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{file} holds a key of another kind than Ed25519", remedy="move it away")
    return Identity(key)
