"""What strangers may see of a node's documents and logs: secrets and prompts go, addresses unless they are wished for.

Knows no file: texts and values in, the same without what is nobody's business out. Two nets, one below the other: what
is known to be secret is taken out wherever it stands, and so is whatever looks like a key. Rather too much is hidden
than too little: who reads a report misses a long model name more easily than its owner a key.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Final, TypeAlias, cast

HIDDEN: Final = "<hidden>"
SHORTEST: Final = 6  # characters of a known secret: shorter ones stand in ordinary words, and are none
RANDOM: Final = 24  # characters of what looks like a key; 128 bits have 22 in base64

Json: TypeAlias = Any

# Fields that hold what users say, or what nobody else may have, by their whole name.
_SAID: Final = frozenset(
    {"prompt", "prompts", "messages", "content", "contents", "input", "inputs", "text", "texts", "completion", "answer"}
    | {"body", "system", "query", "request_body", "response_body", "delta", "arguments", "log_tail"}
)
_SECRET_NAME: Final = re.compile(
    r"(?i)(?:^|[._-])(?:api_?keys?|keys?|tokens?|secrets?|passwords?|passphrases?|psk|seeds?|credentials?|authorization"
    r"|invitations?|invites?|sha256)$"
)

_PEM: Final = re.compile(r"-----BEGIN [^-]*-----.*?(?:-----END [^-]*-----|\Z)", re.DOTALL)
_BEARER: Final = re.compile(r"(?i)\b(bearer|basic)\s+[^\s\"',<>]+")
_PREFIXED: Final = re.compile(  # as vendors begin their keys, and this node its own
    r"\b(?:(?:sk|mi|hf|ghp|gho|ghs|glpat|github_pat|xox[abprs])[-_][A-Za-z0-9_-]{8,}|AKIA[0-9A-Z]{12,}|ya29\.[\w-]{8,})"
)
_NAMES: Final = r"(?:api[-_]?key|[-_]key|token|secret|password|passphrase|passwd|psk|seed|credential)"
_ASSIGNED: Final = re.compile(rf"(?i)({_NAMES}[\"']?\s*[=:]\s*[\"']?)([^\s\"',}}<>]{{3,}})")
_OPTION: Final = re.compile(rf"(?i)(--[a-z-]*{_NAMES}\s+)(\S+)")
_USERINFO: Final = re.compile(r"(://)[^/\s@\"']+@")
_WORD: Final = re.compile(rf"[A-Za-z0-9_+=-]{{{RANDOM},}}")
_PEER: Final = re.compile(r"12D3KooW[1-9A-HJ-NP-Za-km-z]{44}")
_HEX: Final = re.compile(r"[0-9a-fA-F]{32,}")
_BASE32: Final = re.compile(r"(?=(?:[a-z]*[2-7]){3})[a-z2-7]{32,}|(?=(?:[A-Z]*[2-7]){3})[A-Z2-7]{32,}")
_SEGMENT: Final = re.compile(r"(?=[A-Za-z0-9]*[a-z])(?=[A-Za-z0-9]*[A-Z])(?=[A-Za-z0-9]*[0-9])[A-Za-z0-9]{12,}")

_IPV6: Final = re.compile(
    r"(?<![0-9A-Za-z:.])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:(?:\d{1,3}\.){3}\d{1,3}|[0-9A-Fa-f]{1,4}|(?![0-9A-Za-z:]))"
)
_IPV4: Final = re.compile(r"(?<![0-9.])\d{1,3}(?:\.\d{1,3}){3}(?![0-9.]*\d)")
_DNS: Final = re.compile(r"(/dns(?:4|6|addr)?/)([A-Za-z0-9_.-]+)")
_URL: Final = re.compile(r"(?i)\b((?:https?|wss?)://)([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+)")

_FRAME: Final = re.compile(r'^\s*(?:[|+ -]*)File "([^"]*)", line (\d+), in (\S+)')
_RAISED: Final = re.compile(r"^[\s|+-]*((?:[A-Za-z_]\w*\.)*[A-Z]\w*)(?::|$)")


class Redactor:
    """Takes out of texts and values what is not to be shown. One for a whole report: equal addresses stay equal."""

    def __init__(
        self, secrets: Iterable[str] = (), *, addresses: bool = False, private: Mapping[str, str] | None = None
    ) -> None:
        """Prepare.

        Args:
            secrets: what is known to be secret, in every spelling in which it may stand somewhere.
            addresses: whether IP addresses and host names stay.
            private: what is to be called otherwise: the owner's folder, his name, his machine's.
        """
        known = {secret for secret in secrets if len(secret) >= SHORTEST}
        self._secrets = sorted(known, key=len, reverse=True)  # one may be part of another
        self._addresses = addresses
        self._private = sorted((private or {}).items(), key=lambda pair: len(pair[0]), reverse=True)
        self._numbers: dict[str, str] = {}
        self._hosts: set[str] = set()

    def learn(self, text: str) -> None:
        """Note the host names in a text, so that they are hidden where nothing says that they are some, too."""
        for pattern in (_DNS, _URL):
            for match in pattern.finditer(text):
                if not _is_ip(match[2]) and match[2] != "localhost":
                    self._hosts.add(match[2].lower())

    def value(self, value: Json, name: str = "") -> Json:
        """Return a JSON value without what is not to be shown.

        Args:
            name: of the field that holds it, dotted: some names alone say that nobody else may have it.
        """
        last = name.rpartition(".")[2].lower()
        # What is counted ("tokens") is no secret, and what is empty hides nothing.
        if value and not isinstance(value, (int, float)) and (last in _SAID or _SECRET_NAME.search(name)):
            return HIDDEN
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            fields = cast("dict[str, Json]", value)
            return {self.text(str(key)): self.value(each, f"{name}.{key}") for key, each in fields.items()}
        if isinstance(value, (list, tuple)):
            return self._items(cast("Sequence[Json]", value), name)
        return cast("Json", value)

    def _items(self, items: Sequence[Json], name: str) -> list[Json]:
        """Return a list; of command lines, what follows an option whose name says that it is a secret goes."""
        shown: list[Json] = []
        before = ""
        for item in items:
            follows = before.startswith("-") and "=" not in before and _SECRET_NAME.search(before.lstrip("-"))
            hide = follows and isinstance(item, str) and not item.startswith("-")
            shown.append(HIDDEN if hide else self.value(item, f"{name}[]"))
            before = item if isinstance(item, str) else ""
        return shown

    def text(self, text: str) -> str:
        """Return a text without what is not to be shown."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        text = _PEM.sub(HIDDEN, text)
        text = _BEARER.sub(rf"\1 {HIDDEN}", text)
        text = _USERINFO.sub(rf"\1{HIDDEN}@", text)
        text = _ASSIGNED.sub(rf"\1{HIDDEN}", text)
        text = _OPTION.sub(rf"\1{HIDDEN}", text)
        text = _PREFIXED.sub(HIDDEN, text)
        text = _WORD.sub(lambda match: HIDDEN if _random(match[0]) else match[0], text)
        if not self._addresses:
            text = _DNS.sub(lambda match: match[1] + self._named(match[2]), text)
            text = _URL.sub(lambda match: match[1] + self._host(match[2]), text)
            for host in sorted(self._hosts, key=len, reverse=True):
                text = re.sub(rf"(?i)(?<![\w-]){re.escape(host)}(?![\w-])", self._named(host), text)
            text = _IPV6.sub(lambda match: self._ip(match[0]), text)
            text = _IPV4.sub(lambda match: self._ip(match[0]), text)
        for real, called in self._private:
            text = text.replace(real, called)
        return text

    def traceback(self, text: str) -> str:
        """Return where an error arose and of which kind it is: its words may repeat what somebody said."""
        kept: list[str] = []
        for line in text.splitlines():
            if frame := _FRAME.match(line):
                kept.append(f'  File "{frame[1]}", line {frame[2]}, in {frame[3]}')
            elif (raised := _RAISED.match(line)) and not line.startswith("    "):
                kept.append(f"{raised[1]}: {HIDDEN}" if ":" in line else raised[1])
        return self.text("\n".join(kept))

    def _host(self, host: str) -> str:
        return host if _is_ip(host) else self._named(host)  # an address is hidden as every other, below

    def _named(self, host: str) -> str:
        return host if host == "localhost" else self._number("name", host.lower())

    def _ip(self, text: str) -> str:
        try:
            ip = ip_address(text)
        except ValueError:
            return text  # a time of day, a version
        return text if ip.is_loopback or ip.is_unspecified else self._number("ip", str(ip))

    def _number(self, kind: str, what: str) -> str:
        return self._numbers.setdefault(f"{kind} {what}", f"<{kind} {len(self._numbers) + 1}>")


def is_peer(word: str) -> bool:
    """Tell whether a word is a peer id, which is no secret and says who is who."""
    return bool(_PEER.fullmatch(word))


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _random(word: str) -> bool:
    """Tell whether a long word looks like a key: hexadecimal, base32, or a long run of both cases and digits."""
    return not is_peer(word) and bool(_HEX.fullmatch(word) or _BASE32.search(word) or _SEGMENT.search(word))
