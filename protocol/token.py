"""The token by which a machine joins a private swarm, as text to copy. Specification: docs/protocol/membership.md.

Knows no file and no terminal. A token holds the swarm's key, and mostly an invitation with its own key: whoever has
it can join. So it is shown to nobody by itself: `repr` has nothing secret.
"""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated, Final

from protocol import limits, schema, wire
from protocol.addresses import MULTIADDR
from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId, SwarmId
from protocol.membership import PEER_ID, is_administrator
from protocol.schema import Blob, Id, Int, Items, Unknown, no_unknown

PREFIX: Final = "metainf-join-"
_CHECK_BYTES: Final = 4  # of a digest: shows that a character was lost or changed on the way, and no more
_BOUNDS: Final = limits.Bounds(size=limits.TOKEN_BYTES, depth=2, values=64, blob=limits.CERTIFICATE_BYTES)
_SPELT: Final = re.compile(r"[A-Za-z0-9_-]{16,8192}")


class InvalidToken(ValueError):
    """The text is no token, or not all of one; says so for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What a machine needs to join a private swarm.

    Attributes:
        key: the swarm's, pre-shared.
        addresses: nodes to join through, peer ids included.
        invitation, secret: sealed, and the private key of its holder: makes whoever joins a member.
        certificate: instead of these: makes one node a member, and is of no use to others.
            With none of the three the token brings a new key to those who are members already.
    """

    version: Annotated[int, Int(1, 255)]
    swarm: Annotated[SwarmId, Id(str, SwarmId, str)]
    administrator: Annotated[PeerId, PEER_ID]
    key: Annotated[bytes, Blob(limits.SWARM_KEY_BYTES, limits.SWARM_KEY_BYTES)] = field(repr=False)
    addresses: Annotated[tuple[str, ...], Items(MULTIADDR, limits.TOKEN_ADDRESSES)]
    invitation: Annotated[bytes | None, Blob(1, limits.INVITATION_BYTES)] = field(default=None, repr=False)
    secret: Annotated[bytes | None, Blob(32, 32)] = field(default=None, repr=False)
    certificate: Annotated[bytes | None, Blob(1, limits.CERTIFICATE_BYTES)] = field(default=None, repr=False)
    unknown: Unknown = field(default_factory=no_unknown, hash=False)


def spell(token: Token) -> str:
    """Return a token as text: one word of letters, digits, `-` and `_`.

    Raises:
        LocalProtocolError: a field does not keep its own rule.
    """
    raw = wire.encode(schema.write(token), _BOUNDS)
    return PREFIX + urlsafe_b64encode(raw + _check(raw)).decode().rstrip("=")


def parse(text: str) -> Token:
    """Read a token; white space, which mail and terminals put in, does not count.

    Raises:
        InvalidToken: with what is wrong, for a person.
    """
    word = "".join(text.split())
    if not word.startswith(PREFIX):
        raise InvalidToken(f"a token begins with {PREFIX}")
    spelt = word.removeprefix(PREFIX)
    if not _SPELT.fullmatch(spelt) or len(spelt) % 4 == 1:
        raise InvalidToken("a part of the token is missing, or something else is in it")
    raw = urlsafe_b64decode(spelt + "=" * (-len(spelt) % 4))
    raw, check = raw[:-_CHECK_BYTES], raw[-_CHECK_BYTES:]
    if check != _check(raw):
        raise InvalidToken("a character of the token was lost or changed on the way")
    try:
        token = schema.read(Token, wire.decode(raw, _BOUNDS))
    except RemoteProtocolError as error:
        raise InvalidToken(f"it was not made by metainf, or by another version ({error})") from None
    if token.version != 1:
        raise InvalidToken(f"it is of version {token.version}, which a newer metainf makes")
    if not is_administrator(token.swarm, token.administrator):
        raise InvalidToken("the swarm in it is not its administrator's")
    if (token.invitation is None) != (token.secret is None):
        raise InvalidToken("it has an invitation without its key, or a key without an invitation")
    return token


def _check(raw: bytes) -> bytes:
    return sha256(b"metainf/token/1\0" + raw).digest()[:_CHECK_BYTES]
