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


def test_a_row_is_told_in_four_sentences_and_the_outcome_in_none() -> None:
    said = [texts.describe(part, ROW) for part in texts.PARTS]
    assert said == [
        "Task chat, Prompts of 1654 tokens",
        "Tiny-1B, 1.24 billion parameters",
        "2 x, Card 80GB, memory bandwidth 3350 gigabytes per second",
        "prefix caching, prefill in one piece, at most 64 sequences per batch",
    ]


def test_what_is_unknown_is_left_out_and_a_part_of_which_nothing_is_known_says_so() -> None:
    table = Table.of_rows([ROW, {"model.name": "Other", "strategy.prefix_caching": False}])
    assert texts.sentences("model", table.columns, table.rows) == ["Tiny-1B, 1.24 billion parameters", "Other"]
    assert texts.sentences("hardware", table.columns, table.rows)[1] == "unknown hardware"
    assert texts.sentences("hardware", {}, 2) == ["unknown hardware"] * 2


def test_a_sentence_is_encoded_once_in_a_life_and_never_again_with_the_caller_s_store() -> None:
    first, encoded, store = counting()
    table = Table.of_rows([{**ROW, "strategy.max_num_seqs": seqs} for seqs in (1, 2, 4)])
    tokens = first.parts(table.columns, table.rows)
    assert tokens.shape == (3, 4, 2)
    assert len(encoded) == 3 + 3  # three parts are equal in all rows
    again: list[str] = []
    assert np.array_equal(embedder(again, store).parts(table.columns, table.rows), tokens)
    assert again == []


def test_a_vector_of_the_wrong_length_in_the_store_is_made_anew() -> None:
    maker, encoded, store = counting()
    maker(["a text"])
    store.update(dict.fromkeys(store, b"broken"))
    assert embedder(encoded, store)(["a text"]).tolist() == [[6.0, 1.0]]
    assert encoded == ["a text"] * 2
