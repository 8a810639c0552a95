"""A swarm's shared history seen from outside: what nodes were given and acknowledged, and what lies in their files.

Knows the command line, the control socket and the store's file, and nothing of how records travel. What a node
acknowledged is written down here: in another process than the node's, which a SIGKILL does not reach.
"""

import os
import signal
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from threading import Event
from typing import Any, Self

from node.adapters.keystore import load
from node.adapters.store.reader import read_history
from node.adapters.store.tables import Query
from node.cli.control_client import get_json
from node.clock import wall_us
from node.errors import NodeError
from node.places import places
from protocol.ids import PUBLIC_SWARM, Epoch, RecordName
from tests.e2e.children import eventually
from tests.e2e.daemon import Daemon, running_node
from tests.e2e.namespaces import Place
from tests.protocol.performance_samples import LIFETIME, performance

MEET_S = 60.0  # for daemons to know each other, on a busy machine
WRITE_S = 60.0  # for all records of one node, all others writing too
STARTING = 2  # daemons that start at a time: each is a second and a half of imports
LOOK_S = 0.2  # between two looks at what all hold: a question costs a node 3 ms of the CPU that is measured
BATCH = 8  # records that are brought together: a trial's worth
PAGE = 1000  # records read from a file at a time

Log = dict[RecordName, bytes]  # the SHA-256 of each record


class Gone(Exception):
    """The node did not answer; what it was given last it may have kept or not."""


class Writer:
    """Writes records in a node's name, as fast as it acknowledges them, and keeps the log of that."""

    def __init__(self, data: Path) -> None:
        """`data`: the data folder of a node that has been up once."""
        where = places(os.environ, uid=os.getuid(), data_dir=data)
        self.data = data
        self._socket = where.control_socket
        self._key = load(where.identity_file).signing_key()
        self._epoch = Epoch(wall_us())
        self._seq = 0
        self._unsaid: deque[tuple[RecordName, bytes]] = deque()
        self.acknowledged: Log = {}
        self.known = 0  # that were on the disk when the node died, and not acknowledged before
        self.last = time.monotonic()  # when the last one was acknowledged

    def sign(self, records: int) -> None:
        """Make records; they are written later."""
        for _ in range(records):
            now = wall_us()
            signed = performance(self._key, seq=self._seq, epoch=self._epoch, time=now, expiry=now + LIFETIME)
            self._unsaid.append((signed.name, signed.sealed))
            self._seq += 1

    def write(self, *, batch: int = BATCH, before: Callable[[int], object] = bool) -> None:
        """Write what is signed and not acknowledged yet, so many at a time. After `Gone` it goes on where it was.

        Args:
            before: called before each batch with how many are left, that one among them.

        Raises:
            Gone: the node is not there, or died meanwhile.
        """
        while self._unsaid:
            before(len(self._unsaid))
            some = [self._unsaid[at] for at in range(min(batch, len(self._unsaid)))]
            standings = bring(self._socket, [sealed for _, sealed in some])
            # Known: it was kept, and the node died before it could say so.
            assert set(standings) <= {"new", "known"}, f"its own records were not taken: {standings}"
            self.last = time.monotonic()
            self.known += standings.count("known")
            for name, sealed in some:
                self.acknowledged[name] = sha256(sealed).digest()
                self._unsaid.popleft()


def bring(socket: Path, sealed: Iterable[bytes]) -> list[str]:
    """Give records to a node; return what became of each, once that is on its disk.

    Raises:
        Gone: it is not there, or died meanwhile.
    """
    body = {"records": [b64encode(each).decode() for each in sealed]}
    try:
        answer = get_json(socket, "/records", method="POST", body=body)
    except NodeError as error:
        raise Gone(error.message) from error
    return [each["standing"] for each in answer["verdicts"]]


def held(data: Path) -> Log:
    """Return what lies in a node's file, whether the node is up or not."""
    file = places(os.environ, uid=os.getuid(), data_dir=data).history_file(PUBLIC_SWARM)
    found: Log = {}
    query = Query()
    with read_history(file) as tables:
        while page := tables.browse(query, most=PAGE):
            found |= {each.name: sha256(each.sealed).digest() for each in page}
            query = Query(after=page[-1].place)
    return found


def lacking(data: Path, log: Log) -> list[RecordName]:
    """Return what a node's file lacks of a log, or has otherwise."""
    there = held(data)
    return sorted(name for name, digest in log.items() if there.get(name) != digest)


class Swarm:
    """Nodes without engines that come and go; each keeps its name, its folder and its writer. Leave it to end them."""

    def __init__(self, folder: Path, places: Mapping[str, Place] | None = None) -> None:
        """`places`: where nodes of these names run; the others run on loopback."""
        self._folder = folder
        self._places = places or {}
        self._running: dict[str, ExitStack] = {}
        self._addresses: list[str] = []  # of the first that were started: what all others join by
        self.daemons: dict[str, Daemon] = {}
        self.writers: dict[str, Writer] = {}

    def __enter__(self) -> Self:
        """Return the swarm, empty as yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all nodes: told all at once, because each takes its time to say good-bye."""
        for daemon in self.daemons.values():
            if daemon.child.running():
                daemon.signal(signal.SIGTERM)
        with ExitStack() as all_of_them:
            for running in self._running.values():
                all_of_them.push(running)

    def start(self, *names: str, meet: bool = True) -> None:
        """Start nodes, those of earlier lives among them; return when they are ready, or when everybody has met."""
        some = deque(names)
        if not self._addresses:
            self._start(some.popleft())
        with ThreadPoolExecutor(STARTING) as pool:
            list(pool.map(self._start, some))
        if meet:
            self.wait_until_met(self.daemons)

    def wait_until_met(self, names: Collection[str], *, within: float = MEET_S) -> None:
        """Wait until each of these knows all of these, and is connected with them."""
        some = list(names)
        children = [self.daemons[name].child for name in some]
        others = len(some) - 1
        eventually(
            lambda: all(min(self.status(name)["peers"].values()) >= others for name in some),
            within=within,
            what=f"{', '.join(some)} knowing each other",
            children=children,
        )

    def _start(self, name: str) -> None:
        place = self._places.get(name)
        running = ExitStack()
        daemon = running.enter_context(
            running_node(
                self._folder,
                *("--no-engine", *(option for address in self._addresses for option in ("--join", address))),
                name=name,
                wrapper=place.wrapper if place else (),
                extra_environment={"METAINF_P2P_LISTEN": f"{place.ip}:0"} if place else None,
            )
        )
        self._running[name] = running
        self.daemons[name] = daemon
        if name not in self.writers:
            self.writers[name] = Writer(daemon.data)
        if not self._addresses:
            self._addresses.append(daemon.address)

    def end(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End a node and wait until it is gone."""
        daemon = self.daemons.pop(name)
        daemon.signal(number)
        self._running.pop(name).close()

    def kill_while_it_writes(self, name: str, *, left: int, batch: int) -> None:
        """Write what is signed for a node, and kill it when so many are left of that, mostly with some on their way.

        `left` is more than `batch`. The last batch waits for the node's death, so that it is always in the middle.
        """
        due, dead = Event(), Event()

        def before(remaining: int) -> None:
            if remaining <= left:
                due.set()
            if remaining <= batch:
                dead.wait(WRITE_S)

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(self.writers[name].write, batch=batch, before=before)
            try:
                due.wait(WRITE_S)
                self.end(name, signal.SIGKILL)
            finally:
                dead.set()
            gone = writing.exception()
            assert isinstance(gone, Gone), f"{name} was to be killed in the middle: {gone!r}"

    def status(self, name: str) -> dict[str, Any]:
        """Return what `metainf status --json` prints, without a new interpreter for it."""
        where = places(os.environ, uid=os.getuid(), data_dir=self.daemons[name].data)
        return get_json(where.control_socket, "/status")

    def write(self, names: Collection[str], records: int) -> None:
        """Have these nodes given so many new records each, all at once; return when all are acknowledged."""
        for name in names:
            self.writers[name].sign(records)
        with ThreadPoolExecutor(len(names)) as pool:
            list(pool.map(lambda name: self.writers[name].write(), names))

    def acknowledged(self) -> Log:
        """Return what was acknowledged by anybody, ever."""
        return {name: digest for writer in self.writers.values() for name, digest in writer.acknowledged.items()}

    def last(self) -> float:
        """Return the time, by `time.monotonic`, of the last acknowledgement."""
        return max(writer.last for writer in self.writers.values())

    def wait_until_held(self, names: Collection[str], records: int, *, within: float) -> dict[str, float]:
        """Wait until each of these says that it holds so many; return when each did, by `time.monotonic`."""
        reached: dict[str, float] = {}

        def all_do() -> bool:
            time.sleep(LOOK_S)
            for name in names:
                if name not in reached and self.status(name)["records"]["total"] >= records:
                    reached[name] = time.monotonic()
            return len(reached) == len(names)

        try:
            eventually(all_do, within=within, what=f"{records} records everywhere")
        except AssertionError as late:
            told = {name: self.status(name)["records"] for name in names if name not in reached}
            raise AssertionError(f"{late}\nnot there yet: {told}") from late
        return reached

    def compare(self, names: Collection[str], log: Log) -> None:
        """Hold the files of these nodes against a log: all of it is there, as it was given, and nothing else."""
        for name in names:
            data = self.daemons[name].data
            lost = lacking(data, log)
            assert not lost, f"{name} lacks {len(lost)} of {len(log)}, {lost[0]} the first"
            assert held(data).keys() == log.keys(), f"{name} holds what was never acknowledged"
