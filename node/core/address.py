"""Addresses that the node binds: parsed once, judged by how far they reach."""

import ipaddress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BindAddress:
    """A host (name or IP address, without brackets) and a TCP port; 0 takes any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "BindAddress":
        """Parse "HOST:PORT" or "[IPV6]:PORT".

        Raises:
            ValueError: with what is wrong, for a person.
        """
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not host:
            raise ValueError(f"{text!r} is no HOST:PORT")
        if not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"{port!r} is no TCP port (0 to 65535)")
        return cls(host, int(port))

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it. A name other than "localhost" counts as reaching further."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def url_host(self) -> str:
        """The host as it stands in a URL: where every interface is bound, this machine's own address."""
        if self.host in ("0.0.0.0", "::"):  # noqa: S104 -- compared, not bound
            return "127.0.0.1"
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
