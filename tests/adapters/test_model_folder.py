"""What a model's folder must hold, and the memory that its cache gets."""

import json
from pathlib import Path

import pytest

from node.adapters.engine.model_folder import SMALLEST_KV, check, kv_cache_bytes, shape
from node.errors import EngineUnavailable

SMOLLM2 = {
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "hidden_size": 576,
    "max_position_embeddings": 8192,
}
LLAMA_8B = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "max_position_embeddings": 131072,
}
GIB = 1 << 30


@pytest.mark.parametrize("content", [None, "", "{", "[1]", "\0"])
def test_a_folder_without_a_configuration_is_refused_for_good(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(EngineUnavailable) as caught:
        check(tmp_path)
    assert caught.value.permanent
    assert caught.value.remedy


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="does not exist"):
        check(tmp_path / "nowhere")


def test_a_configuration_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMOLLM2))
    assert check(tmp_path) == SMOLLM2


def test_a_tokens_keys_and_values_are_counted() -> None:
    small, large = shape(SMOLLM2), shape(LLAMA_8B)
    assert small is not None
    assert large is not None
    assert small.bytes_per_token == 2 * 30 * 3 * 64 * 2
    assert large.bytes_per_token == 131072
    assert shape({"text_config": LLAMA_8B}) == large


@pytest.mark.parametrize("config", [{}, {**SMOLLM2, "num_attention_heads": 0}, {**SMOLLM2, "hidden_size": "big"}])
def test_a_strange_configuration_gives_no_shape(config: dict[str, object]) -> None:
    assert shape(config) is None


def test_the_cache_has_room_for_eight_requests_within_a_quarter_of_the_memory() -> None:
    small, large = shape(SMOLLM2), shape(LLAMA_8B)
    assert kv_cache_bytes(small, max_model_len=2048, memory_available=16 * GIB) == 8 * 2048 * 23040
    assert kv_cache_bytes(small, max_model_len=512, memory_available=16 * GIB) == SMALLEST_KV
    assert kv_cache_bytes(large, max_model_len=None, memory_available=16 * GIB) == 4 * GIB
    assert kv_cache_bytes(large, max_model_len=None, memory_available=GIB // 2) == SMALLEST_KV
    assert kv_cache_bytes(None, max_model_len=None, memory_available=64 * GIB) == SMALLEST_KV
