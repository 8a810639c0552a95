"""A model's facts from its configuration: dense, of experts, of nonsense."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from node.core.model_facts import model_on_wire
from tests.protocol.performance_samples import performance

SMOL = {
    "model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152, "max_position_embeddings": 8192,
    "dtype": "bfloat16",
}  # fmt: skip
MIXTRAL = {
    "model_type": "mixtral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "num_local_experts": 8, "num_experts_per_tok": 2,
    "torch_dtype": "bfloat16",
}  # fmt: skip


def test_a_dense_models_facts_are_those_of_its_configuration() -> None:
    model = model_on_wire(SMOL, name="SmolLM2-135M-Instruct", weight_bytes=269_060_552)
    assert (model.family, model.layers, model.head_dim, model.kv_bytes_per_token) == ("llama", 30, 64, 23_040)
    assert model.parameters == model.active_parameters == 134_530_276
    assert (model.experts, model.experts_per_token, model.max_length) == (0, 0, 8192)


def test_of_a_model_of_experts_only_the_chosen_ones_are_active() -> None:
    model = model_on_wire(MIXTRAL, weight_bytes=2 * 46_702_792_704)
    assert (model.experts, model.experts_per_token) == (8, 2)
    assert model.active_parameters is not None
    assert 12_000_000_000 < model.active_parameters < 14_000_000_000


def test_a_quantised_models_parameters_are_not_guessed_from_its_bytes() -> None:
    assert model_on_wire(SMOL | {"quantization_config": {}}, weight_bytes=100_000_000).parameters is None


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())


@given(st.fixed_dictionaries({}, optional=dict.fromkeys([*SMOL, *MIXTRAL, "head_dim", "text_config"], values)))
def test_whatever_a_configuration_says_the_facts_are_a_record_that_the_wire_takes(config: dict[str, Any]) -> None:
    performance(model=model_on_wire(config, weight_bytes=10))
