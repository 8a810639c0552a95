"""Who asks: the holder of a key, or the owner at this very machine.

Knows no quota's state and keeps no key: only their SHA-256. Keys are random (256 bits), so a plain hash is enough;
comparing goes over all of them in constant time, so that nothing can be learnt from how long a refusal takes.
"""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from node.core.prompt import OWNER, Requester, RequesterKind
from node.core.quota import UNLIMITED, QuotaLimits
from node.errors import Refusal
from node.http.asgi import Scope, header, is_local

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key of this node, by its hash. `name` is shown in logs and counted by; it is not secret."""

    name: str
    sha256: bytes
    limits: QuotaLimits = UNLIMITED


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A requester and what it may use."""

    requester: Requester
    limits: QuotaLimits


_OWNER = Caller(requester=OWNER, limits=UNLIMITED)


class KeyRing:
    """The node's keys. Without any, whoever is at this machine is the owner and nobody else is let in."""

    def __init__(self, keys: Iterable[ApiKey] = (), *, hosts: Iterable[str] = ()) -> None:
        self._keys = tuple(keys)
        self._hosts = LOOPBACK_NAMES | {host.lower() for host in hosts}

    def identify(self, scope: Scope) -> Caller | Refusal:
        """Tell who sends a request, or why it is not taken (401, 403)."""
        if not self._keys:
            return self._without_keys(scope)
        token = _token(scope)
        if token is None:
            return _unauthorized("No API key was given: send it as 'Authorization: Bearer KEY'.")
        caller = self._find(token)
        return caller if caller is not None else _unauthorized("The API key is not one of this node's.")

    def _without_keys(self, scope: Scope) -> Caller | Refusal:
        if not is_local(scope):
            return _unauthorized("This node has no API keys, so it answers its own machine only.")
        host = (header(scope, b"host") or b"").decode("latin-1").lower()
        if scope.get("client") is None or _without_port(host) in self._hosts:
            return _OWNER
        # A web page that had its name resolve to this machine (DNS rebinding) would speak here as the owner.
        return Refusal(
            status=403,
            type="permission_error",
            code="unknown_host",
            message=f"Without a key this node answers under loopback names only, not as {host[:100]!r}.",
        )

    def _find(self, token: bytes) -> Caller | None:
        digest = hashlib.sha256(token).digest()
        found: Caller | None = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                requester = Requester(RequesterKind.KEY, key.name)
                found = Caller(requester=requester, limits=key.limits)
        return found


def hash_key(key: str) -> bytes:
    """Hash a key as `ApiKey.sha256` holds it."""
    return hashlib.sha256(key.encode("utf-8")).digest()


def _token(scope: Scope) -> bytes | None:
    authorization = header(scope, b"authorization")
    if authorization is not None:
        scheme, _, token = authorization.partition(b" ")
        return token.strip() if scheme.lower() == b"bearer" and token.strip() else None
    return header(scope, b"x-api-key")  # Anthropic's clients


def _unauthorized(message: str) -> Refusal:
    return Refusal(status=401, type="invalid_request_error", code="invalid_api_key", message=message)


def _without_port(host: str) -> str:
    name, separator, port = host.rpartition(":")
    return name if separator and port.isdigit() and (name.endswith("]") or ":" not in name) else host
