"""Starts vLLM as a guarded child process that listens on loopback with a key of its own.

Keeps the `EngineLauncher` port. Knows where the interpreter, the logs and the embedded model lie; what the
command line says is `command`'s, how nothing is left behind is `guarded`'s.
"""

import os
import secrets
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import trio

from node.adapters.engine import embedded_model, leftovers, model_folder
from node.adapters.engine.command import SERVER_MODULE, Launch, arguments, environment
from node.adapters.engine.guarded import GuardedProcess, Order, guarded
from node.adapters.engine.install import EngineInstall, check_python, describe
from node.adapters.engine.leftovers import Mark
from node.core.capabilities import UNKNOWN, Capabilities
from node.core.engine_flags import lacking
from node.core.strategy import Setting, objections
from node.errors import EngineUnavailable
from node.ports import Endpoint, EngineExit, LaunchPlan, Machine

HOST = "127.0.0.1"
CORES_KEPT = 1  # for the node and its owner. On two cores: 33 tokens/s on one thread, 40 on both, at a fifth more CPU
KEY_BYTES = 32  # of randomness in the key between node and engine


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmSetup:
    """Where things are and what the operator allows.

    Attributes:
        python: the interpreter of the environment that holds vLLM.
        command: what to run in place of `python -m vllm...`; it gets the same flags. Its first part is a path.
        logs: folder of `engine.log` and its rotated elders; of a second engine beside the first, `engine-2.log`.
        work: folder of the engines' scratch folders; its name is one of the marks that leftovers are found by.
        cache: folder that the embedded model is unpacked into.
        tag: the data folder's name in the environment of every process that belongs to it; no dot in it.
        port: 0 takes any free one.
        capabilities: what is known of vLLM of that version without asking it; may block for the disk.
    """

    python: Path
    logs: Path
    work: Path
    cache: Path
    tag: str
    command: tuple[str, ...] = ()
    port: int = 0
    trust_remote_code: bool = False
    allow_remote_media: bool = False
    log_bytes: int = 10 << 20
    log_files: int = 3  # beside the current one
    capabilities: Callable[[str], Capabilities] = lambda _: UNKNOWN
    inherited: dict[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)


class VllmProcess:
    """A running vLLM server. Keeps the `EngineProcess` port."""

    def __init__(self, guarding: GuardedProcess, endpoint: Endpoint) -> None:
        self._guarding = guarding
        self._endpoint = endpoint

    @property
    def pid(self) -> int:
        """Process id of the API server."""
        return self._guarding.pid

    @property
    def endpoint(self) -> Endpoint:
        """Where it will listen."""
        return self._endpoint

    async def wait(self) -> EngineExit:
        """See the port."""
        return await self._guarding.wait()

    async def stop(self, *, grace: float) -> EngineExit:
        """See the port."""
        return await self._guarding.stop(grace=grace)

    def log_tail(self) -> tuple[str, ...]:
        """See the port."""
        return self._guarding.log_tail()


class VllmLauncher:
    """Starts vLLM servers, one after another or side by side. Keeps the `EngineLauncher` port.

    The daemon holds its data folder's lock: no other living daemon has the same tag.
    """

    def __init__(self, setup: VllmSetup, machine: Machine) -> None:
        self._setup = setup
        self._machine = machine
        self._launches = 0
        self._logs: set[str] = set()  # names of the logs that are being written
        self._swept = False

    async def prepare(self, plan: LaunchPlan, *, tell: Callable[[str], None]) -> None:
        """End what an earlier run left, and unpack the embedded model where the plan wants it."""
        if not self._swept:
            if found := await self.sweep():
                tell(f"ended {found} engine processes that an earlier run had left")
            self._swept = True
        if plan.model == embedded_model.EMBEDDED:
            await embedded_model.unpack(self._setup.python, self._setup.cache, tell=tell)

    async def sweep(self) -> int:
        """End every process that carries this data folder's mark; return how many there were."""
        found = await leftovers.end(Mark(tag=self._setup.tag, folder=self._setup.work))
        shutil.rmtree(self._setup.work, ignore_errors=True)
        return found

    @asynccontextmanager
    async def launch(self, plan: LaunchPlan) -> AsyncIterator[VllmProcess]:
        """See the port. Every launch takes a fresh port and a fresh key."""
        launch = await self._decide(plan)
        self._launches += 1
        name = f"{os.getpid()}-{self._launches}"
        folder = self._setup.work / name
        try:
            folder.mkdir(parents=True, mode=0o700)
            self._setup.logs.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise EngineUnavailable(f"cannot make the engine's folders: {error}") from error
        # Two that live at once (a switch) must not rotate each other's log away, nor be blamed for each other's lines.
        log = next(each for each in _log_names() if each not in self._logs)
        order = Order(
            arguments=arguments(plan, launch),
            environment=environment(plan, launch, self._setup.inherited),
            folder=folder,
            log=self._setup.logs / log,
            log_bytes=self._setup.log_bytes,
            log_files=self._setup.log_files,
            tag=f"{self._setup.tag}.{name}",
        )
        self._logs.add(log)
        try:
            async with guarded(order) as guarding:
                yield VllmProcess(guarding, launch.endpoint)
        finally:
            self._logs.discard(log)
            shutil.rmtree(folder, ignore_errors=True)

    async def _decide(self, plan: LaunchPlan) -> Launch:
        """Find out what the plan means on this machine; raises EngineUnavailable where it cannot work."""
        install = None if self._setup.command else await describe(self._setup.python)
        if self._setup.command:
            check_python(Path(self._setup.command[0]))
        model, offline, shape = self._model(plan)
        build = install.build if install else "cpu"
        setting = Setting(
            build=build,
            max_model_len=plan.max_model_len or (shape.max_length if shape else None),
        )
        capabilities = UNKNOWN
        if install is not None:
            capabilities = await trio.to_thread.run_sync(self._setup.capabilities, install.vllm)
        # Where vLLM was not asked yet, it judges its flags itself.
        unheard = lacking(plan.strategy, build, capabilities) if capabilities.known else ()
        if wrong := (*objections(plan.strategy, setting), *unheard):
            raise EngineUnavailable(
                f"the strategy {plan.strategy.name} cannot run here: {'; '.join(wrong)}",
                remedy="Change [engine.strategy], or leave it out for the engine's own defaults.",
                permanent=True,
            )
        return Launch(
            command=self._setup.command or (str(self._setup.python), "-m", SERVER_MODULE),
            install=install,
            endpoint=Endpoint(host=HOST, port=self._port(), api_key=secrets.token_urlsafe(KEY_BYTES)),
            model=model,
            offline=offline,
            kv_cache_bytes=plan.kv_cache_bytes or self._default_kv(install, shape, plan),
            threads=max(self._machine.cpu_cores() - CORES_KEPT, 1),
            trust_remote_code=self._setup.trust_remote_code,
            allow_remote_media=self._setup.allow_remote_media,
            capabilities=capabilities,
        )

    def _model(self, plan: LaunchPlan) -> tuple[str, bool, model_folder.ModelShape | None]:
        """Return what to load, whether it is a folder of this machine, and its shape where it is."""
        if plan.model == embedded_model.EMBEDDED:
            folder = embedded_model.folder_in(self._setup.cache)
        elif _looks_local(plan.model):
            folder = Path(plan.model).expanduser().absolute()
        else:
            return plan.model, False, None
        return str(folder), True, model_folder.shape(model_folder.check(folder))

    def _default_kv(
        self, install: EngineInstall | None, shape: model_folder.ModelShape | None, plan: LaunchPlan
    ) -> int | None:
        if install is None or install.build == "cuda":
            return None  # vLLM measures the GPU's memory itself
        return model_folder.kv_cache_bytes(
            shape, max_model_len=plan.max_model_len, memory_available=self._machine.memory_available()
        )

    def _port(self) -> int:
        """Return a port that is free now. Somebody may take it before the engine does: the next start takes another."""
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the engine's server does
                probe.bind((HOST, self._setup.port))
                return probe.getsockname()[1]
        except OSError as error:
            raise EngineUnavailable(
                f"the engine's port {HOST}:{self._setup.port} cannot be had: {error.strerror}",
                remedy="Stop what listens there, or leave the engine's port to the node.",
            ) from error


def _log_names() -> Iterator[str]:
    yield "engine.log"
    for number in count(2):
        yield f"engine-{number}.log"


def _looks_local(model: str) -> bool:
    # A hub id has one slash inside, and neither dot nor slash in front.
    return model.startswith(("/", "./", "../", "~")) or Path(model).is_dir()


def default_served_name(model: str) -> str:
    """Return the name that clients use where the operator gives none: the model's own, a folder's last part."""
    if model == embedded_model.EMBEDDED:
        return embedded_model.SERVED_NAME
    return Path(model).expanduser().absolute().name if _looks_local(model) else model
