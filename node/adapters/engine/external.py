"""An OpenAI server that already runs elsewhere, in the shape of an engine: attached to, never started or stopped.

Keeps the `EngineLauncher` port. Knows a URL and a key. What the server serves is what its `/v1/models` says: the
keeper of the engine asks it while it makes sure that the server answers.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import trio

from node.errors import ConfigError
from node.ports import Endpoint, EngineExit, LaunchPlan

REMEDY = "Give the server's address as http://HOST[:PORT][/BASE] or https://..., without /v1."
DEFAULT_PORTS = {"http": 80, "https": 443}


def parse_engine_url(url: str, key: str | None) -> Endpoint:
    """Read the address of a server. A trailing /v1, as OpenAI clients write it, is taken off.

    Raises:
        ConfigError: it is no such address.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"the engine's URL {url!r} cannot be read: {error}", remedy=REMEDY) from error
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        raise ConfigError(f"the engine's URL {url!r} is no http or https address", remedy=REMEDY)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            "the engine's URL may carry neither user, password, query nor fragment",
            remedy="Give a key as engine.url_key.",
        )
    return Endpoint(
        host=parts.hostname,
        port=port or DEFAULT_PORTS[parts.scheme],
        tls=parts.scheme == "https",
        base_path=parts.path.rstrip("/").removesuffix("/v1"),
        api_key=key,
    )


class ExternalProcess:
    """The connection to it. It has no process here: `pid` is 0, and its end is ours to declare."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._stopped = trio.Event()

    @property
    def pid(self) -> int:
        """Zero: the process is not on this machine, or not ours."""
        return 0

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens."""
        return self._endpoint

    async def wait(self) -> EngineExit:
        """Return once `stop` was called; the server itself is watched by its health alone."""
        await self._stopped.wait()
        return EngineExit(code=0, signal=None, log_tail=())

    async def stop(self, *, grace: float) -> EngineExit:
        """Let go of the server, which runs on; there is nothing to be patient with."""
        del grace
        self._stopped.set()
        return await self.wait()

    def log_tail(self) -> tuple[str, ...]:
        """Nothing: its log is elsewhere."""
        return ()


class ExternalLauncher:
    """Attaches to one server."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def prepare(self, plan: LaunchPlan, *, tell: Callable[[str], None]) -> None:
        """Nothing is to be made ready."""
        del plan, tell
        await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def launch(self, plan: LaunchPlan) -> AsyncIterator[ExternalProcess]:
        """Enter at once; whether the server answers is found out by asking it."""
        del plan
        process = ExternalProcess(self._endpoint)
        try:
            yield process
        finally:
            await process.stop(grace=0)
