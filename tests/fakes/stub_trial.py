"""Stands in for scripts/trial.py and misbehaves as its folder's file `fate` says. Standard library only."""

import json
import os
import sys
import time
from pathlib import Path


def say(**message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    fate = Path(__file__).with_name("fate").read_text()
    Path(__file__).with_name("pid").write_text(str(os.getpid()))
    print("a library's greeting")
    if fate == "no vllm":
        sys.exit("ModuleNotFoundError: No module named 'vllm'")
    say(progress={"doing": "importing vLLM"})
    say(ready={"vllm": "1", "torch": "2", "seconds": 0})
    for line in sys.stdin:
        run = json.loads(line)["run"]
        say(built={"run": run, "seconds": 1.0, "max_model_len": 2048})
        print('{"half a line', "\x00\x01")
        print("[1, 2]")
        if fate == "dies":
            sys.exit("Segmentation fault")
        if fate == "hangs":
            time.sleep(600)
        say(failed={"run": "another", "load": None, "kind": "crashed", "reason": "not yours"})
        say(failed={"run": run, "load": "bursty", "kind": "of a later version", "reason": "x"})
        say(done={"run": run, "seconds": 2.0})


main()
