"""Homes behind routers: namespaces of the kernel's, each behind one that translates addresses, on a network between.

Knows `ip` (of iproute2) and `nft` (of nftables) and nothing of nodes. The network between has addresses that look like
anybody's (44.44.0.0/24, in the namespaces alone): private ones a node does not take for the world. A router lets out
whatever begins inside and lets in only what belongs to it; `KEEPS` leaves port numbers as they are where it can, as
most home routers do, `DRAWS` draws a new one for each connection, as carriers' do.
"""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from tests.e2e import namespaces
from tests.e2e.namespaces import INSIDE, Place, fresh_name, run_ip

KEEPS, DRAWS = "keeps", "draws"  # kinds of routers
WORLD: Final = "44.44.0"
OUTSIDE: Final = "wan0"  # a router's end of its cable to the world
NFT_S: Final = 10.0
RULES: Final = """
table ip nat {
  chain out {
    type nat hook postrouting priority 100;
    oifname "%(outside)s" masquerade %(how)s
  }
}
table ip filter {
  chain through {
    type filter hook forward priority 0; policy drop;
    iifname "%(inside)s" accept
    ct state established,related accept
  }
  chain to_router {
    type filter hook input priority 0; policy accept;
    iifname "%(outside)s" ct state new drop
  }
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Places that everybody reaches, and homes that nobody does."""

    public: tuple[Place, ...]
    homes: tuple[Place, ...]
    routers: tuple[str, ...]  # namespaces, one for each home


def why_not() -> str | None:
    """Say why no such world can be made here; None where it can."""
    if (reason := namespaces.why_not()) is not None:
        return reason
    if shutil.which("nft") is None:
        return "there is no `nft` (package nftables), so there are no routers"
    name = fresh_name("probe")
    try:
        run_ip("netns", "add", name)
        _rules(name, KEEPS)
    except OSError as error:
        return f"the kernel translates no addresses here: {error}"
    finally:
        with suppress(OSError):
            run_ip("netns", "del", name)
    return None


@contextmanager
def a_world(*, public: int, homes: Sequence[str]) -> Iterator[World]:
    """Build a network with so many public places, and a home behind a router of each of these kinds.

    Raises:
        OSError: what `ip` or `nft` said against it.
    """
    made: list[str] = []

    def add(what: str) -> str:
        name = fresh_name(what)
        run_ip("netns", "add", name)
        made.append(name)
        run_ip("-n", name, "link", "set", "lo", "up")
        return name

    try:
        world = add("world")
        run_ip("-n", world, "link", "add", "bridge", "type", "bridge")
        run_ip("-n", world, "link", "set", "bridge", "up")
        places = [Place(name=add(f"p{number}"), ip=f"{WORLD}.{number}") for number in range(1, public + 1)]
        for place in places:
            _plug(world, place.name, INSIDE, place.ip)
        behind, routers = [], []
        for number, kind in enumerate(homes, start=1):
            router, home = add(f"r{number}"), Place(name=add(f"h{number}"), ip=f"192.168.{number}.2")
            _plug(world, router, OUTSIDE, f"{WORLD}.{10 + number}")
            run_ip("-n", router, "link", "add", "lan0", "type", "veth", "peer", "name", INSIDE, "netns", home.name)
            for name, device, ip in ((router, "lan0", f"192.168.{number}.1"), (home.name, INSIDE, home.ip)):
                run_ip("-n", name, "addr", "add", f"{ip}/24", "dev", device)
                run_ip("-n", name, "link", "set", device, "up")
            run_ip("-n", home.name, "route", "add", "default", "via", f"192.168.{number}.1")
            _run("ip", "netns", "exec", router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
            _rules(router, kind)
            behind.append(home)
            routers.append(router)
        yield World(public=tuple(places), homes=tuple(behind), routers=tuple(routers))
    finally:
        for name in made:
            with suppress(OSError):
                run_ip("netns", "del", name)


def _plug(world: str, name: str, device: str, ip: str) -> None:
    port = f"v{ip.rpartition('.')[2]}"
    run_ip("-n", world, "link", "add", port, "type", "veth", "peer", "name", device, "netns", name)
    run_ip("-n", world, "link", "set", port, "master", "bridge", "up")
    run_ip("-n", name, "addr", "add", f"{ip}/24", "dev", device)
    run_ip("-n", name, "link", "set", device, "up")


def _rules(router: str, kind: str) -> None:
    how = "fully-random" if kind == DRAWS else ""
    rules = RULES % {"outside": OUTSIDE, "inside": "lan0", "how": how}
    _run("ip", "netns", "exec", router, "nft", "-f", "-", said=rules)


def _run(*command: str, said: str = "") -> None:
    done = subprocess.run(command, input=said, capture_output=True, text=True, timeout=NFT_S, check=False)
    if done.returncode:
        raise OSError(f"`{' '.join(command)}`: {done.stderr.strip() or done.returncode}")
