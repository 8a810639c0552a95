"""What is held out together: families of hardware, and architectures whatever their repositories call them.

Knows columns that describe a model or a machine; knows no fold and no head.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

import numpy as np

from node.learner.table import Column, Floats, Table

# Sizes that two names of one architecture share; formats (an FP8 copy) change none of them.
SHAPE: Final = ("model.layers", "model.hidden", "model.experts", "model.mixture_of_experts", "model.parameters")
_ENDINGS: Final = re.compile(
    r"[-_.](instruct|chat|it|hf|base|fp8|fp4|nvfp4|mxfp4|int8|int4|w4a16|w8a8|awq|gptq|bf16|fp16|gguf|dynamic|\d{4})$"
)
UNKNOWN: Final = ""
FEWEST: Final = 3  # groups, below which finer ones are sought: weights learnt on one left-out family are luck
MOST_FOLDS: Final = 8  # of hardware families
MODEL_FOLDS: Final = 4  # that architectures are put in when weights are learnt: each costs a fit of every head


def labels(table: Table, column: str) -> Column:
    """Return the hold-out group of each row: the value of a column, architectures and unknown families settled."""
    if column == "model.name":
        return architectures(table)
    words = table.words(column)
    if column == "hardware.family":
        words = np.array([word or name for word, name in zip(words, table.words("hardware.name"), strict=True)])
    return np.array([word or UNKNOWN for word in words], dtype=object)


def architectures(table: Table) -> Column:
    """Return a name for each row's architecture: the first (by the alphabet) with its shape, else the plain name."""
    names = [plain_name(word or UNKNOWN) for word in table.words("model.name")]
    shapes = np.column_stack([np.round(np.log(np.maximum(table.numbers(n), 0.5)), 2) for n in SHAPE])
    keys = [tuple(None if value != value else value for value in shape) for shape in shapes.tolist()]
    told = [sum(number is not None for number in key) >= 3 for key in keys]
    first: dict[tuple[object, ...], str] = {}
    for key, name in zip(keys, names, strict=True):
        first[key] = min(name, first.get(key, name))
    return np.array([first[k] if t else n for k, t, n in zip(keys, told, names, strict=True)], dtype=object)


def plain_name(name: str) -> str:
    """Return a model's name without its owner and without what says how it was tuned or packed."""
    plain = name.rsplit("/", 1)[-1]
    while (shorter := _ENDINGS.sub("", plain.lower())) != plain.lower():
        plain = plain[: len(shorter)]
    return plain


def inner_folds(table: Table, rng: np.random.Generator) -> Iterator[Column]:
    """Yield masks of rows to leave out, by which weights are learnt: hardware families, then bins of architectures.

    Of one model on one machine, which is a node's first history, kinds of workload are left out.
    """
    found = [*hardware_folds(table), *_binned(labels(table, "model.name"), MODEL_FOLDS, rng)]
    yield from found or _binned(labels(table, "workload.kind"), MODEL_FOLDS, rng)


def hardware_folds(table: Table) -> Iterator[Column]:
    """Yield masks of the rows of each family of hardware; of each device where there are few families."""
    found = labels(table, "hardware.family")
    if len(set(found)) < FEWEST:
        found = labels(table, "hardware.name")
    yield from _each(found)


def _each(found: Column) -> Iterator[Column]:
    """Yield the rows of each of the largest groups, then those of all others: names are free, and a fold is dear."""
    counts = Counter(found.tolist())
    large = sorted(name for name, _ in counts.most_common(MOST_FOLDS if len(counts) <= MOST_FOLDS else MOST_FOLDS - 1))
    if len(counts) > 1:
        for name in large:
            yield found == name
        if len(counts) > len(large):
            yield ~np.isin(found.astype(str), np.array(large, dtype=str))


def _binned(found: Column, bins: int, rng: np.random.Generator) -> Iterator[Column]:
    names = np.array(sorted(set(found)), dtype=object)
    if len(names) < 2:
        return
    for part in np.array_split(rng.permutation(names), min(bins, len(names))):
        yield np.isin(found.astype(str), part.astype(str))


def voices(found: Column) -> Floats:
    """Return a share for each row, all adding up to 1, so that each group has one voice: the largest must not rule."""
    names, inverse, counts = np.unique(found.astype(str), return_inverse=True, return_counts=True)
    return 1.0 / (counts[inverse] * len(names))
