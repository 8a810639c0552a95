"""What records say of a model, from its files: the same for equal content, wherever it lies; nothing where unsure."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from node.adapters.engine.model_content import HEAD_LIMIT, load_format, model_of
from node.core.strategy import DEFAULT
from node.ports import LaunchPlan
from protocol.performance import Model

CONFIG: dict[str, Any] = {
    "model_type": "llama", "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "dtype": "bfloat16",
}  # fmt: skip
WEIGHTS = "model.safetensors"
INDEX = {"metadata": {"total_size": 4096}, "weight_map": {"a": "model-1.safetensors"}}


def weights(head: bytes, size: int) -> bytes:
    return len(head).to_bytes(8, "little") + head + bytes(size)


def folder(
    where: Path, *, config: dict[str, Any] = CONFIG, spaces: int | None = None, files: Mapping[str, bytes] | None = None
) -> Path:
    where.mkdir(parents=True, exist_ok=True)
    (where / "config.json").write_text(json.dumps(config, indent=spaces))
    for name, content in (files or {}).items():
        (where / name).write_bytes(content)
    return where


def seen(model: str, *arguments: str, cache: Path = Path("/nowhere"), served: str = "m", **environment: str) -> Model:
    plan = LaunchPlan(model=model, served_name=served, strategy=DEFAULT, extra_arguments=arguments)
    return model_of(plan, cache=cache, environment=environment)


def test_equal_content_has_one_digest_wherever_it_lies_and_unlike_content_another(tmp_path: Path) -> None:
    one = seen(str(folder(tmp_path / "a", files={WEIGHTS: weights(b'{"a": 1}', 512)})))
    turned = dict(reversed(CONFIG.items()))
    same = seen(str(folder(tmp_path / "b", config=turned, spaces=2, files={WEIGHTS: weights(b'{"a": 1}', 512)})))
    assert one.digest is not None
    assert one == same
    assert (one.name, one.layers, one.weight_bytes, one.parameters) == ("m", 2, 528, 264)
    others = [
        seen(str(folder(tmp_path / "c", files={WEIGHTS: weights(b'{"a": 2}', 512)}))),
        seen(str(folder(tmp_path / "d", files={WEIGHTS: weights(b'{"a": 1}', 513)}))),
        seen(str(folder(tmp_path / "e", config={**CONFIG, "x": 1}, files={WEIGHTS: weights(b'{"a": 1}', 512)}))),
    ]
    assert len({each.digest for each in [one, *others]}) == 4


def test_where_there_is_an_index_it_counts_and_the_weights_need_not_be_here(tmp_path: Path) -> None:
    index = {"model.safetensors.index.json": json.dumps(INDEX).encode()}
    whole = seen(str(folder(tmp_path / "a", files={**index, WEIGHTS: weights(b"{}", 100)})))
    without = seen(str(folder(tmp_path / "b", files=index)))
    assert without.digest == whole.digest
    assert (whole.weight_bytes, without.weight_bytes) == (110, 4096)


def test_random_weights_and_quantised_ones_are_not_taken_for_more_than_they_are(tmp_path: Path) -> None:
    bare = folder(tmp_path / "bare")
    dummy = seen(str(bare), "--load-format", "dummy")
    assert (dummy.weights, dummy.digest, dummy.weight_bytes, dummy.layers) == ("dummy", None, None, 2)
    assert seen(str(bare)).weights == "real"
    small = folder(tmp_path / "q", config={**CONFIG, "quantization_config": {}}, files={WEIGHTS: weights(b"{}", 9)})
    quantised = seen(str(small))
    assert (quantised.weight_bytes, quantised.parameters) == (None, None)
    assert quantised.digest is not None


def test_a_hub_s_model_is_read_from_its_local_cache_and_else_is_a_name(tmp_path: Path) -> None:
    hub = tmp_path / "hf" / "hub" / "models--org--name"
    folder(hub / "snapshots" / "abc", files={WEIGHTS: weights(b"{}", 9)})
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text("abc\n")
    where = str(tmp_path / "hf")
    assert seen("org/name", served="org/name", HF_HOME=where).layers == 2
    assert seen("org/name", "--revision=abc", HF_HOME=where).layers == 2
    assert seen("org/name", "--revision", "other", HF_HOME=where).layers is None
    assert seen("org/name", "--revision", "../../x", HF_HOME=where).layers is None
    unknown = seen("org/other", served="org/other", HF_HOME=where)
    assert unknown == Model(weights="real", name="org/other")


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": b"{"},
        {"config.json": b"[" * 100_000},
        {"model.safetensors.index.json": b"[]"},
        {"model.safetensors": (HEAD_LIMIT + 1).to_bytes(8, "little")},
    ],
)
def test_a_folder_that_cannot_be_understood_leaves_a_name(files: dict[str, bytes], tmp_path: Path) -> None:
    assert seen(str(folder(tmp_path / "m", files=files))) == Model(weights="real", name="m")
    assert seen(str(tmp_path / "gone"), served="not a name") == Model(weights="real")


@pytest.mark.parametrize(
    ("arguments", "found"),
    [((), None), (("--load-format", "dummy"), "dummy"), (("--load_format=auto", "--load-format=dummy"), "dummy"),
     (("--load-format",), None), (("load-format", "dummy"), None)],
)  # fmt: skip
def test_how_weights_are_loaded_is_read_off_the_operators_flags(arguments: tuple[str, ...], found: str | None) -> None:
    assert load_format(arguments) == found
