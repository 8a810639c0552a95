"""The operating system: memory, disk, cores, who holds a port, the clock's health, private folders, the node's lock.

One foreign library: `psutil`. Keeps the `Machine` port.
"""

import ctypes
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import psutil

from node.errors import Unavailable

NVIDIA = "0x10de"  # its number as a vendor of PCI devices
DISPLAYS = "0x03"  # the PCI class of display and 3D controllers


class LocalMachine:
    """The machine that this process runs on."""

    def disk_free(self, path: str) -> int:
        """Bytes free for this user where `path` lies or would lie."""
        place = Path(path)
        while not place.exists():
            place = place.parent
        return psutil.disk_usage(str(place)).free

    def memory_total(self) -> int:
        """Bytes of RAM, or the control group's limit where that is lower."""
        total = psutil.virtual_memory().total
        return min(total, _cgroup_memory_limit() or total)

    def memory_available(self) -> int:
        """Bytes that can be had without swapping."""
        return min(psutil.virtual_memory().available, self.memory_total())

    def cpu_cores(self) -> int:
        """Cores in this process's affinity mask."""
        return len(os.sched_getaffinity(0))


def _cgroup_memory_limit() -> int | None:
    for file in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        try:
            text = file.read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            return int(text)
    return None


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a TCP port, in words, and whether somebody listens there or it is one end of a connection."""

    words: str
    listens: bool


def port_owner(port: int) -> str | None:
    """Say which process listens on a TCP port ("nginx, pid 812"); None where that cannot be seen."""
    found = port_holder(port)
    return found.words if found is not None and found.listens and "pid" in found.words else None


def port_holder(port: int) -> Holder | None:
    """Return who has a TCP port of this machine, a listener first; None where nobody does, or it cannot be seen."""
    try:
        here = [each for each in psutil.net_connections(kind="tcp") if each.laddr and each.laddr.port == port]
    except (psutil.Error, OSError):
        return None
    listening = next((each for each in here if each.status == psutil.CONN_LISTEN), None)
    if listening is not None:
        return Holder(_process(listening.pid) or "a program of another user", listens=True)
    passing = next((each for each in here if each.pid), next(iter(here), None))
    if passing is None:
        return None
    whose = _process(passing.pid)
    words = f"a connection of {whose}" if whose else "a connection of another user, or one that has just ended"
    return Holder(f"{words} ({passing.status}), not by a listener", listens=False)


def _process(pid: int | None) -> str | None:
    if not pid:
        return None
    try:
        return f"{psutil.Process(pid).name()}, pid {pid}"
    except psutil.Error:
        return f"pid {pid}"


def port_free(host: str, port: int) -> bool:
    """Whether this process could listen on the address now.

    Raises:
        OSError: the address is none of this machine's, or the port is for root alone.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
    return True


def clock_synchronised() -> bool | None:
    """Whether the kernel's clock is kept by NTP or the like (adjtimex(2)); None where that cannot be seen."""
    time_error = 5  # the call's result when the clock is not synchronised
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        state = libc.adjtimex(ctypes.create_string_buffer(512))  # modes = 0: only asks
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != time_error


def private_folder(folder: Path) -> Path:
    """Make a folder that only this user may enter, or check that it is one.

    Raises:
        Unavailable: it belongs to somebody else, or is open to others: a stranger could answer in the node's name.
    """
    try:
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise Unavailable(f"cannot make {folder}: {error.strerror}", remedy="set XDG_RUNTIME_DIR") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise Unavailable(f"{folder} belongs to somebody else", remedy="set XDG_RUNTIME_DIR to a folder of your own")
    if status.st_mode & 0o077:
        folder.chmod(0o700)
    return folder


@contextmanager
def node_lock(file: Path, *, holder: str = "a node") -> Iterator[None]:
    """Hold the lock that makes this the only node on its data folder. The kernel frees it when the process ends.

    Args:
        holder: who we are, in the words that whoever finds it locked is told.

    Raises:
        Unavailable: somebody else has it, with who that is and its pid.
    """
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with file.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            handle.seek(0)
            pid, _, who = handle.read(64).strip().partition(" ")
            raise Unavailable(
                f"{who or 'a node'} already runs on {file.parent} (pid {pid or 'unknown'})",
                remedy="`metainf status` shows it; use another --data-dir for a second node"
                if who in ("", "a node")
                else "wait for its end, or end it",
            ) from error
        handle.truncate(0)
        handle.write(f"{os.getpid()} {holder}\n")
        handle.flush()
        yield


def lock_holder(file: Path) -> str | None:
    """Return the pid of who holds a node's lock, as it wrote it; None where nobody does."""
    try:
        with file.open("r") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return handle.read(64).strip().partition(" ")[0] or "unknown"
    except OSError:
        pass  # there is none, or it is another user's
    return None


def routes() -> tuple[bool, bool]:
    """Tell whether the kernel knows a way to addresses of the internet, by IPv4 and by IPv6. Sends nothing."""
    # Addresses of documentation: nobody has them, and they go by the default route.
    return _routed(socket.AF_INET, "192.0.2.1"), _routed(socket.AF_INET6, "2001:db8::1")


def _routed(family: socket.AddressFamily, host: str) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))  # of a datagram's socket: the way is looked up, and that is all
    except OSError:
        return False
    return True


def nvidia_hardware(root: Path = Path("/")) -> tuple[int, bool]:
    """Return how many GPUs of NVIDIA's the bus shows, and whether the kernel has a driver of theirs.

    Args:
        root: where /sys and /proc are.
    """
    devices = 0
    for device in (root / "sys/bus/pci/devices").glob("*"):
        try:
            vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
        except OSError:
            continue
        devices += vendor == NVIDIA and kind.startswith(DISPLAYS)
    return devices, (root / "proc/driver/nvidia/version").exists()


def local_addresses() -> tuple[str, ...]:
    """Return the IP addresses of the interfaces that are up, loopback last.

    Link-local IPv6 ones mean nothing without the zone, which is of this machine, and stay out.
    """
    up = {name for name, facts in psutil.net_if_stats().items() if facts.isup}
    found = {
        each.address.partition("%")[0]
        for name, addresses in psutil.net_if_addrs().items()
        if name in up
        for each in addresses
        if each.family in (socket.AF_INET, socket.AF_INET6)
    }
    usable = [ip for ip in map(ip_address, found) if not (ip.version == 6 and ip.is_link_local)]
    return tuple(str(ip) for ip in sorted(usable, key=lambda ip: (ip.is_loopback, ip.version, int(ip))))
