"""Sentences about rows, and their vectors."""

import numpy as np
from numpy.typing import NDArray

from node.learner import texts
from node.learner.table import Table
from node.learner.texts import Embedder

ROW = {
    "workload.kind": "chat",
    "workload.prompt_tokens": 1653.66,
    "model.name": "Tiny-1B",
    "model.parameters": 1.24e9,
    "model.experts": 0,
    "hardware.name": "Card 80GB",
    "hardware.count": 2,
    "hardware.spec_bytes_per_s": 3.35e12,
    "strategy.prefix_caching": True,
    "strategy.chunked_prefill": False,
    "strategy.max_num_seqs": 64,
    "outcome.latency_mean_s": 1.0,
}


def counting() -> tuple[Embedder, list[str], dict[str, bytes]]:
    encoded: list[str] = []
    store: dict[str, bytes] = {}
    return embedder(encoded, store), encoded, store


def embedder(encoded: list[str], store: dict[str, bytes]) -> Embedder:
    def encode(batch: list[str]) -> NDArray[np.float32]:
        encoded.extend(batch)
        return np.array([[len(text), text.count("a")] for text in batch], dtype=np.float32)

    return Embedder(encode, "letters", 2, store)


def told(rows: list[dict[str, object]]) -> dict[str, list[str]]:
    """Return what each column says of each row; "" for nothing."""
    table = Table.of_rows(rows)
    said = texts.say(table.columns, table.rows)
    return {each.column: [each.sentences[at] if at != texts.UNSAID else "" for at in each.which] for each in said}


def test_a_row_is_told_in_a_sentence_for_each_column_and_the_outcome_in_none() -> None:
    assert told([ROW]) == {
        "workload.kind": ["Task chat"],
        "workload.prompt_tokens": ["long prompts of about 1.4 thousand tokens"],
        "model.name": ["Tiny-1B"],
        "model.parameters": ["a tiny model of about 1.1 billion parameters"],
        "model.experts": ["dense"],
        "hardware.count": ["two devices"],
        "hardware.name": ["Card 80GB"],
        "hardware.spec_bytes_per_s": ["high memory bandwidth, about 2.8 terabytes per second"],
        "strategy.prefix_caching": ["prefix caching"],
        "strategy.chunked_prefill": ["prefill in one piece"],
        "strategy.max_num_seqs": ["at most 64 sequences per batch"],
    }


def test_sizes_that_are_close_are_said_alike_and_what_a_strategy_sets_is_said_to_the_token() -> None:
    said = told(
        [
            {"workload.prompt_tokens": prompt, "strategy.max_num_batched_tokens": budget}
            for prompt, budget in ((1007.3, 2048), (1024.6, 2050), (7001.0, 2048))
        ]
    )
    assert said["workload.prompt_tokens"][0] == said["workload.prompt_tokens"][1] != said["workload.prompt_tokens"][2]
    assert said["strategy.max_num_batched_tokens"][:2] == [
        "at most 2048 tokens per step",
        "at most 2050 tokens per step",
    ]


def test_what_is_unknown_or_no_number_where_one_belongs_is_left_out() -> None:
    said = told([{**ROW, "model.parameters": "many"}, {"model.name": "Other", "workload.prompt_tokens": float("inf")}])
    assert said["model.name"] == ["Tiny-1B", "Other"]
    assert "model.parameters" not in said
    assert said["workload.prompt_tokens"][1] == said["hardware.name"][1] == ""
    assert told([{"a.column": 3.0, "workload.prompt_tokens": 0.0}]) == {
        "workload.prompt_tokens": ["tiny prompts of about no tokens"]
    }


def test_a_sentence_is_encoded_once_in_a_life_and_never_again_with_the_caller_s_store() -> None:
    first, encoded, store = counting()
    vectors = first(["one", "two", "one"])
    assert vectors.shape == (3, 2)
    assert len(encoded) == 2
    again: list[str] = []
    assert np.array_equal(embedder(again, store)(["one", "two", "one"]), vectors)
    assert again == []


def test_a_vector_of_the_wrong_length_in_the_store_is_made_anew() -> None:
    maker, encoded, store = counting()
    maker(["a text"])
    store.update(dict.fromkeys(store, b"broken"))
    assert embedder(encoded, store)(["a text"]).tolist() == [[6.0, 1.0]]
    assert encoded == ["a text"] * 2
