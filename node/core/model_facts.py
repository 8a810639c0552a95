"""What a performance record says of a model: facts of its architecture, from its own `config.json`.

Knows the words that configurations of the Hugging Face kind use; knows no file. What a configuration does not say, or
says in a way that no model can have, is unknown.
"""

import re
from collections.abc import Mapping
from typing import Final, cast

from protocol import limits
from protocol.ids import ContentDigest
from protocol.performance import DUMMY, REAL, Model

_BYTES: Final = {"bfloat16": 2, "float16": 2, "float32": 4}  # of one parameter
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+:/-]{0,63}")
_MATRICES: Final = 3  # of one expert: gate, up, down


def model_on_wire(
    config: Mapping[str, object],
    *,
    name: str | None = None,
    digest: ContentDigest | None = None,
    weight_bytes: int | None = None,
    dummy: bool = False,
) -> Model:
    """Return the model's facts.

    Args:
        name: as others know it, never a path.
        weight_bytes: of all weight files; unknown where they are not at hand, or where the model is quantised.
        dummy: whether the weights are random.
    """
    nested = config.get("text_config")  # of models that see, the part that speaks
    text = cast("Mapping[str, object]", nested) if isinstance(nested, Mapping) else config
    hidden, layers, heads = (_count(text, key) for key in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
    kv_heads = _count(text, "num_key_value_heads") or heads
    width = _count(text, "head_dim") or (hidden // heads if hidden and heads else None)
    dtype = _word(text, "dtype") or _word(text, "torch_dtype")
    size = _BYTES.get(dtype or "")
    experts = next((found for key in _EXPERTS if (found := _count(text, key)) is not None), 0)
    chosen = _count(text, "num_experts_per_tok") or 0
    parameters = weight_bytes // size if weight_bytes and size and "quantization_config" not in config else None
    each = _count(text, "moe_intermediate_size") or _count(text, "intermediate_size")
    idle: int | None = 0
    if experts:
        idle = _product(_MATRICES, layers, max(experts - chosen, 0) or None, hidden, each)
    return Model(
        weights=DUMMY if dummy else REAL,
        name=name,
        digest=digest,
        family=_word(text, "model_type"),
        layers=layers,
        hidden=hidden,
        intermediate=_count(text, "intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=width,
        vocab=_count(text, "vocab_size"),
        experts=experts,
        experts_per_token=chosen if experts else 0,
        parameters=parameters,
        active_parameters=parameters - idle if parameters and idle is not None and parameters > idle else None,
        weight_bytes=weight_bytes,
        weight_dtype=dtype,
        kv_bytes_per_token=_product(2, layers, kv_heads, width, size),
        max_length=_count(text, "max_position_embeddings") or None,
    )


_EXPERTS: Final = ("num_experts", "num_local_experts", "n_routed_experts")


def _count(config: Mapping[str, object], key: str) -> int | None:
    value = config.get(key)
    return value if type(value) is int and 0 <= value <= limits.CONTEXT_MAX else None


def _product(*factors: int | None) -> int | None:
    """Return it, where every factor is known and a model could have so much."""
    whole = 1
    for factor in factors:
        if not factor:
            return None
        whole *= factor
    return whole if whole <= limits.COUNT_MAX else None


def _word(config: Mapping[str, object], key: str) -> str | None:
    value = config.get(key)
    text = value.removeprefix("torch.") if isinstance(value, str) else ""
    return text if _WORD.fullmatch(text) else None
