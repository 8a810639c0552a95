"""A node's membership of a private swarm on disk: key and certificate in one file, revocations in another.

One foreign thing: the file system. Whoever can read the first file has the swarm's key, so nobody else may: a file
that others can read is refused, as the node's own key is.
"""

import json
import stat
from base64 import b64decode, b64encode
from pathlib import Path

from node import files
from node.core.membership import Membership
from node.errors import ConfigError, Unavailable
from protocol import limits
from protocol.addresses import Address, parse_address
from protocol.ids import InvalidId, PeerId, SwarmId
from protocol.membership import is_administrator

VERSION = 1
FILE_BYTES = 64 * 1024  # key, certificate and eight addresses have 4 KiB
ADDRESSES = limits.TOKEN_ADDRESSES


def load(file: Path) -> Membership | None:
    """Return the membership that is kept; None where the node is of the public swarm.

    Raises:
        ConfigError: the file is readable by others, or damaged, or the file system refused.
    """
    try:
        status = file.stat()
        raw = file.read_bytes() if status.st_size <= FILE_BYTES else b""
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}", remedy="check its permissions") from error
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(
            f"other users of this machine can read {file}, which holds the key of a private swarm",
            remedy=f"chmod 600 {file}; if somebody may have copied it, have the key rotated: metainf swarm rotate",
        )
    try:
        return _parse(json.loads(raw))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{file} holds no membership of a private swarm ({type(error).__name__})",
            remedy="restore a back-up, or `metainf swarm leave` and join with a new token",
        ) from error


def save(file: Path, membership: Membership) -> None:
    """Keep a membership, readable by this user alone.

    Raises:
        Unavailable: the file system refused.
    """
    content = {
        "version": VERSION,
        "swarm": str(membership.swarm),
        "administrator": str(membership.administrator),
        "key": b64encode(membership.key).decode(),
        "certificate": b64encode(membership.certificate).decode(),
        "addresses": [str(each) for each in membership.addresses[:ADDRESSES]],
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.replace(file, json.dumps(content, indent=1).encode() + b"\n")
    except OSError as error:
        raise Unavailable(f"cannot write {file}: {error.strerror}", remedy="check the folder's permissions") from error


def load_revocations(file: Path) -> bytes | None:
    """Return the list of revocations that was kept, sealed and unverified; None where there is none.

    Raises:
        Unavailable: the file system refused: without the list, who was put out would be let in again.
    """
    try:
        return file.read_bytes() if file.stat().st_size <= limits.RECORD_BYTES else None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unavailable(f"cannot read {file}: {error.strerror}", remedy="check its permissions") from error


def save_revocations(file: Path, sealed: bytes) -> None:
    """Keep a list of revocations for the next run. Blocks for the disk.

    Raises:
        Unavailable: the file system refused.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.replace(file, sealed)
    except OSError as error:
        raise Unavailable(f"cannot write {file}: {error.strerror}", remedy="check the folder's permissions") from error


def _parse(content: dict[str, object]) -> Membership:
    if content["version"] != VERSION:
        raise ValueError("another version")
    swarm, administrator = SwarmId(str(content["swarm"])), PeerId.from_string(str(content["administrator"]))
    key = b64decode(str(content["key"]), validate=True)
    if len(key) != limits.SWARM_KEY_BYTES or not is_administrator(swarm, administrator):
        raise InvalidId("not a private swarm's key and administrator")
    addresses = content["addresses"]
    if not isinstance(addresses, list):
        raise TypeError("addresses")
    found: list[Address | None] = [parse_address(str(each)) for each in addresses[:ADDRESSES]]
    return Membership(
        swarm=swarm,
        administrator=administrator,
        key=key,
        certificate=b64decode(str(content["certificate"]), validate=True),
        addresses=tuple(each for each in found if each is not None and each.peer is not None),
    )
