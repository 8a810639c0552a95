"""A network that can be cut in two: a namespace of the kernel's for each node, two bridges, one cable between them.

Knows `ip` (of iproute2) and nothing of nodes. Whoever may not make namespaces is told so by `why_not`.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

BRIDGES = ("east", "west")
INSIDE = "eth0"  # a node's own end of its cable
PREFIX = "10.77.0"  # in the namespaces alone: nothing of it is seen outside
NETNS_FILES = Path("/etc/netns")
IP_S = 10.0  # for one command: it asks the kernel and ends
_numbers = count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a node runs. `wrapper` goes before its command line, `ip` is its own address."""

    name: str
    ip: str

    @property
    def wrapper(self) -> tuple[str, ...]:
        """What is put before a command so that it runs here; the process's id stays that of the command."""
        return ("ip", "netns", "exec", self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Halves:
    """A network of two halves."""

    switch: str
    east: tuple[Place, ...]
    west: tuple[Place, ...]

    def cut(self) -> None:
        """Pull the cable between the halves: packets vanish, and nobody is told."""
        run_ip("-n", self.switch, "link", "set", "between", "down")

    def heal(self) -> None:
        """Plug it in again."""
        run_ip("-n", self.switch, "link", "set", "between", "up")


def why_not() -> str | None:
    """Say why no namespaces can be made here; None where they can."""
    if shutil.which("ip") is None:
        return "there is no `ip` (package iproute2)"
    name = fresh_name("probe")
    try:
        run_ip("netns", "add", name)
        run_ip("-n", name, "link", "add", "one", "type", "veth", "peer", "name", "other")
        run_ip("-n", name, "link", "add", "bridge", "type", "bridge")
    except OSError as error:
        return f"network namespaces are not to be had here: {error}"
    finally:
        with suppress(OSError):
            run_ip("netns", "del", name)
    return None


@contextmanager
def two_halves(east: int, west: int) -> Iterator[Halves]:
    """Build a network with so many places in each half, all within reach of each other.

    Raises:
        OSError: what `ip` said against it.
    """
    switch = fresh_name("switch")
    made: list[str] = []
    try:
        run_ip("netns", "add", switch)
        made.append(switch)
        for bridge in BRIDGES:
            run_ip("-n", switch, "link", "add", bridge, "type", "bridge")
            run_ip("-n", switch, "link", "set", bridge, "up")
        run_ip("-n", switch, "link", "add", "between", "type", "veth", "peer", "name", "other")
        for end, bridge in zip(("between", "other"), BRIDGES, strict=True):
            run_ip("-n", switch, "link", "set", end, "master", bridge, "up")
        places: dict[str, list[Place]] = {bridge: [] for bridge in BRIDGES}
        for number, bridge in enumerate(["east"] * east + ["west"] * west, start=1):
            place = Place(name=fresh_name(f"n{number}"), ip=f"{PREFIX}.{number}")
            run_ip("netns", "add", place.name)
            made.append(place.name)
            _plug(switch, bridge, f"p{number}", place)
            places[bridge].append(place)
        yield Halves(switch=switch, east=tuple(places["east"]), west=tuple(places["west"]))
    finally:
        for name in made:
            with suppress(OSError):
                run_ip("netns", "del", name)


def add_address(place: Place, ip: str) -> None:
    """Give a place another address. Raises OSError."""
    run_ip("-n", place.name, "addr", "add", f"{ip}/24", "dev", INSIDE)


@contextmanager
def cut_off(*, name_server: str | None = None) -> Iterator[Place]:
    """Make a place from which nothing leads anywhere but its own loopback.

    Args:
        name_server: the address that programs there ask for names; None leaves it as it is on this machine.

    Raises:
        OSError: what `ip` said against it, or the file system.
    """
    name = fresh_name("alone")
    run_ip("netns", "add", name)
    files = NETNS_FILES / name  # `ip netns exec` puts what lies there in the place of files in /etc
    try:
        if name_server is not None:
            files.mkdir(parents=True)
            (files / "resolv.conf").write_text(f"nameserver {name_server}\n")
        run_ip("-n", name, "link", "set", "lo", "up")
        yield Place(name=name, ip="127.0.0.1")
    finally:
        shutil.rmtree(files, ignore_errors=True)
        with suppress(OSError):
            run_ip("netns", "del", name)


def carried(pid: int) -> int | None:
    """Return the bytes in and out of a process's namespace so far, headers included; None on the host's own."""
    for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == INSIDE and _namespace(pid) != _namespace(os.getpid()):
            fields = numbers.split()
            return int(fields[0]) + int(fields[8])  # received, transmitted: see proc_net(5)
    return None


def _plug(switch: str, bridge: str, port: str, place: Place) -> None:
    run_ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", INSIDE, "netns", place.name)
    run_ip("-n", switch, "link", "set", port, "master", bridge, "up")
    run_ip("-n", place.name, "addr", "add", f"{place.ip}/24", "dev", INSIDE)
    for device in ("lo", INSIDE):
        run_ip("-n", place.name, "link", "set", device, "up")


def _namespace(pid: int) -> int:
    return Path(f"/proc/{pid}/ns/net").stat().st_ino


def fresh_name(what: str) -> str:
    """Return a name for a namespace that nobody else uses."""
    return f"metainf-{os.getpid()}-{next(_numbers)}-{what}"


def run_ip(*arguments: str) -> None:
    """Run `ip`. Raises OSError with what it says against it."""
    command: Sequence[str] = ("ip", *arguments)
    done = subprocess.run(command, capture_output=True, text=True, timeout=IP_S, check=False)
    if done.returncode:
        raise OSError(f"`{' '.join(command)}`: {done.stderr.strip() or done.returncode}")
