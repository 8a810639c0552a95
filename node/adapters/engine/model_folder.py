"""A model's folder on disk: whether vLLM can load it, and how much memory its KV cache wants.

Knows the few fields of `config.json` that give the size of a token's keys and values; knows no engine.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.errors import EngineUnavailable

CONFIG_LIMIT = 1 << 20  # bytes of a config.json; real ones have some kilobytes
KV_ELEMENT_BYTES = 2  # bfloat16 or float16, what vLLM keeps keys and values in unless told otherwise
FULL_LENGTH_REQUESTS = 8  # the cache has room for this many requests of full length: what a node serves well on CPU
SMALLEST_KV = 256 << 20  # bytes: enough for small models, and what a machine with 4 GiB can spare
LARGEST_KV_SHARE = 4  # at most a quarter of the memory that is free: the rest is weights, activations and the owner's
DEFAULT_LENGTH = 4096  # tokens, where the configuration does not say


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What decides the size of a KV cache."""

    bytes_per_token: int
    max_length: int


def check(folder: Path) -> Mapping[str, Any]:
    """Return the folder's `config.json`.

    Raises:
        EngineUnavailable: it is missing, unreadable or no model's folder.
    """
    remedy = "Give --model a folder with config.json and weights, a hub id, or `embedded`."
    if not folder.is_dir():
        raise EngineUnavailable(f"the model folder {folder} does not exist", remedy=remedy, permanent=True)
    try:
        with (folder / "config.json").open("rb") as file:
            config: Any = json.loads(file.read(CONFIG_LIMIT))
    except FileNotFoundError as error:
        message = f"{folder} has no config.json, so it is no model's folder"
        raise EngineUnavailable(message, remedy=remedy, permanent=True) from error
    except (OSError, ValueError) as error:
        message = f"the model's configuration {folder / 'config.json'} cannot be read: {error}"
        raise EngineUnavailable(message, remedy=remedy, permanent=True) from error
    if not isinstance(config, dict):
        raise EngineUnavailable(f"{folder / 'config.json'} is no configuration", remedy=remedy, permanent=True)
    return config


def shape(config: Mapping[str, Any]) -> ModelShape | None:
    """Return the model's shape, None where the configuration does not tell."""
    text = config.get("text_config", config)  # of models that see, the part that speaks
    try:
        layers, heads, hidden = (int(text[key]) for key in ("num_hidden_layers", "num_attention_heads", "hidden_size"))
        kv_heads = int(text.get("num_key_value_heads") or heads)
        width = int(text.get("head_dim") or hidden // heads)
        length = int(text.get("max_position_embeddings") or DEFAULT_LENGTH)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError):
        return None
    return ModelShape(bytes_per_token=2 * layers * kv_heads * width * KV_ELEMENT_BYTES, max_length=length)


def kv_cache_bytes(model: ModelShape | None, *, max_model_len: int | None, memory_available: int) -> int:
    """Return the size of the KV cache on a CPU machine.

    Without one, vLLM wants nine tenths of all memory and refuses to start beside anything else. Room for eight
    requests of full length is enough to batch; never less than 256 MiB, which small models need anyway to share
    prefixes, and never more than a quarter of what is free now.
    """
    most = max(memory_available // LARGEST_KV_SHARE, SMALLEST_KV)
    if model is None:
        return SMALLEST_KV
    wanted = FULL_LENGTH_REQUESTS * (max_model_len or model.max_length) * model.bytes_per_token
    return min(max(wanted, SMALLEST_KV), most)
