"""Peers that are remembered: bounded, private, and never a reason not to start."""

import stat
from pathlib import Path

import pytest

from node.adapters import peer_file
from tests.contracts.test_streams import a_peer
from tests.places import at


def test_addresses_read_back_in_their_order(tmp_path: Path) -> None:
    file = tmp_path / "state" / "peers.json"
    peers = (at("10.0.0.1", 1, a_peer()), at("::1", 2, a_peer()), at("10.0.0.1", 1, a_peer()))
    peer_file.save(file, peers)
    assert peer_file.load(file) == peers
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_few_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    peer_file.save(file, [at("10.0.0.1", port, a_peer()) for port in range(1, 400)])
    assert len(peer_file.load(file)) == peer_file.ADDRESSES


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"peers": 3}', b'{"peers": {"x": []}}', b"\xff", b"[" * 100_000, b" " * 2_000_000],
)
def test_a_broken_file_is_as_good_as_none(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    file.write_bytes(content)
    assert peer_file.load(file) == ()


def test_what_is_no_address_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    file.write_text('{"peers": ["/unix/x", 7, null, "/ip4/10.0.0.1/tcp/1"]}')
    assert peer_file.load(file) == (at("10.0.0.1", 1),)


def test_no_file_and_a_folder_that_cannot_be_written_are_borne(tmp_path: Path) -> None:
    assert peer_file.load(tmp_path / "none") == ()
    (tmp_path / "file").write_text("")
    peer_file.save(tmp_path / "file" / "peers.json", ())
