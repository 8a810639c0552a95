import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from node.adapters.keystore import load, load_or_create
from node.errors import ConfigError, Unavailable


def test_the_first_start_makes_a_private_key_and_the_second_finds_it(tmp_path: Path) -> None:
    file = tmp_path / "data" / "identity.pem"
    first, made = load_or_create(file)
    second, made_again = load_or_create(file)
    assert (made, made_again) == (True, False)
    assert first.public_key == second.public_key
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_its_signatures_verify_under_its_public_key(tmp_path: Path) -> None:
    identity, _ = load_or_create(tmp_path / "identity.pem")
    Ed25519PublicKey.from_public_bytes(identity.public_key).verify(identity.sign(b"message"), b"message")


def test_a_key_that_others_can_read_is_refused_with_the_command_that_mends_it(tmp_path: Path) -> None:
    file = tmp_path / "identity.pem"
    load_or_create(file)
    file.chmod(0o644)
    with pytest.raises(ConfigError) as caught:
        load_or_create(file)
    assert "chmod 600" in caught.value.remedy


def _other_kind() -> bytes:
    return X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize("content", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\n", _other_kind(), b"x" * 5000])
def test_a_damaged_key_is_refused_and_never_overwritten(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "identity.pem"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(ConfigError):
        load_or_create(file)
    assert file.read_bytes() == content


def test_an_encrypted_copy_opens_with_its_passphrase_alone(tmp_path: Path) -> None:
    identity, _ = load_or_create(tmp_path / "identity.pem")
    copy = tmp_path / "copy.pem"
    copy.touch(mode=0o600)
    copy.write_bytes(identity.to_pem(b"correct horse"))
    assert load(copy, b"correct horse").public_key == identity.public_key
    with pytest.raises(ConfigError):
        load(copy, b"wrong")
    with pytest.raises(ConfigError):
        load(copy)


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="identity"):
        load_or_create(tmp_path / "file" / "identity.pem")


def test_the_private_key_does_not_show_in_its_repr(tmp_path: Path) -> None:
    identity, _ = load_or_create(tmp_path / "identity.pem")
    assert identity.secret_seed().hex() not in repr(identity)
