"""A daemon in miniature, to be killed: launches the stub under a guardian as the real one does, and waits.

Run as `python launching_daemon.py FOLDER STUB_JSON` with the repository on the path; prints `ready PID` once the
engine exists.
"""

import json
import sys
from pathlib import Path

import trio

from node.adapters.engine.vllm import VllmLauncher
from node.adapters.system import LocalMachine
from tests.fakes.stub_launch import stub_plan, stub_setup


async def main() -> None:
    folder = Path(sys.argv[1])
    launcher = VllmLauncher(stub_setup(folder, json.loads(sys.argv[2])), LocalMachine())
    async with launcher.launch(stub_plan(folder)) as process:
        sys.stdout.write(f"ready {process.pid}\n")
        sys.stdout.flush()
        await process.wait()


if __name__ == "__main__":
    trio.run(main)
