"""Asks the vLLM under the engine's interpreter what it can be asked for.

Knows the script that finds it out, its deadline and how much it may say; what the answer means is the core's to read.
"""

from typing import Final

from node.adapters.engine.measure import Interpreter, Order, run
from node.core.capabilities import Capabilities, NotCapabilities, parse
from node.errors import EngineUnavailable

# s. Importing vLLM takes 10 to 15 on an idle core, a minute where the files are cold and the core is shared; nobody
# waits for the answer as one waits for an engine.
DEADLINE: Final = 180.0
LINES: Final = 64  # of the script; it prints seven


async def probe(engine: Interpreter, *, threads: int) -> Capabilities:
    """Return what the engine takes; some 15 s of one core. Cancelled, it leaves no process behind.

    Raises:
        EngineUnavailable: it could not be found out; the message says why.
    """
    lines: list[bytes] = []

    def hear(raw: bytes) -> None:
        if len(lines) < LINES:
            lines.append(raw)

    await run(engine, Order(script="capabilities.py", arguments=(), threads=threads, deadline=DEADLINE), hear)
    try:
        return parse(lines)
    except NotCapabilities as error:
        raise EngineUnavailable(str(error)) from error
