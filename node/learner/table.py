"""Observation tables in memory: columns of numbers and words, one row for one strategy in one context.

Knows the names of the columns' rooms (`model.* hardware.* workload.* strategy.* outcome.*`) and no file: adapters read
them. Numbers are float64 with NaN for unknown (truths are 0 and 1), words are object arrays with None for unknown.
Columns that nobody knows are kept: they cost nothing, and a later version may learn from them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Column: TypeAlias = NDArray[Any]
Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

CONTEXT: Final = "context"
WHERE: Final = ("model.", "hardware.", "workload.")  # what makes a context, where no column numbers it
STRATEGY: Final = "strategy."
OUTCOME: Final = "outcome."
# No choices: the name follows from the rest, and nobody picks a version per workload.
NOT_CHOSEN: Final = ("strategy.name", "strategy.engine_version", "strategy.is_default")
SIZED: Final = ("model.", "hardware.", "workload.requests_per_s")  # columns in which zero tells nothing
ZERO_TELLS: Final = ("model.experts", "model.experts_per_token", "model.mixture_of_experts")  # but in these
UNKNOWN_CODE: Final = -1
_FIRST_COMPUTED: Final = 1 << 53  # beyond every number that a record's digest gives: computed contexts meet none


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns of one length, and the number of each row's context.

    Attributes:
        columns: name to array of shape (rows,); float64, or object for words.
        contexts: shape (rows,). Rows of one context differ in strategy alone.
    """

    columns: Mapping[str, Column]
    contexts: Ints

    @staticmethod
    def of(columns: Mapping[str, Sequence[object] | Column], *, merged: bool = True) -> "Table":
        """Build a table from raw columns: kinds settled, contexts numbered, repeats merged by median.

        Args:
            columns: of one length each; None, NaN, infinity and the empty text are unknown, and nothing of what has a
                size or a rate (a model, a machine, arrivals): strangers wrote it, and physics divides by it.
            merged: False keeps repeats apart (who weighs authors needs every voice).

        Raises:
            ValueError: columns of unlike length.
        """
        ready = {name: _told(name, as_column(values)) for name, values in columns.items() if name != CONTEXT}
        lengths = {len(column) for column in ready.values()}
        if len(lengths) > 1:
            raise ValueError(f"columns of {sorted(lengths)} rows in one table")
        rows = lengths.pop() if lengths else 0
        table = Table(columns=ready, contexts=_contexts(ready, columns.get(CONTEXT), rows))
        return table.merge_repeats() if merged else table

    @staticmethod
    def of_rows(rows: Iterable[Mapping[str, object]], *, merged: bool = True) -> "Table":
        """Build a table from rows that name their own columns, as adapters read them; absent is unknown."""
        held = list(rows)
        names = dict.fromkeys(name for row in held for name in row)
        return Table.of({name: [row.get(name) for row in held] for name in names}, merged=merged)

    @property
    def rows(self) -> int:
        """How many rows."""
        return len(self.contexts)

    def __len__(self) -> int:
        return self.rows

    def take(self, which: Column) -> "Table":
        """Return the rows that a mask (bool) or an index (int) names, in its order."""
        return Table(columns={name: c[which] for name, c in self.columns.items()}, contexts=self.contexts[which])

    def with_columns(self, more: Mapping[str, Column]) -> "Table":
        """Return the same rows with these columns added or put in place of those of the same names."""
        return Table(columns={**self.columns, **more}, contexts=self.contexts)

    def without(self, *prefixes: str) -> "Table":
        """Return the same rows without the columns that begin so: what a predictor must not see."""
        kept = {name: column for name, column in self.columns.items() if not name.startswith(prefixes)}
        return Table(columns=kept, contexts=self.contexts)

    def numbers(self, name: str) -> Floats:
        """Return a numeric column; all NaN where the table has none of that name or it holds words."""
        column = self.columns.get(name)
        if column is None or column.dtype == object:
            return np.full(self.rows, np.nan)
        return column

    def words(self, name: str) -> Column:
        """Return a column of words; all None where the table has none, numbers as their shortest text."""
        column = self.columns.get(name)
        if column is None:
            return np.full(self.rows, None, dtype=object)
        if column.dtype == object:
            return column
        return np.array([None if np.isnan(value) else f"{value:g}" for value in column], dtype=object)

    def has(self, name: str) -> bool:
        """Tell whether a column is there with at least one value known."""
        column = self.columns.get(name)
        return column is not None and bool(np.any(_codes(column)[0] != UNKNOWN_CODE))

    def groups(self, column: str) -> dict[str, Ints]:
        """Return the row numbers of each value of a column, by the value's text, sorted; unknown is ''."""
        labels = np.array([word or "" for word in self.words(column)], dtype=object)
        return {str(label): np.flatnonzero(labels == label) for label in sorted(set(labels))}

    def context_groups(self) -> list[Ints]:
        """Return the row numbers of each context, by rising number of the context."""
        order = np.argsort(self.contexts, kind="stable")
        edges = np.flatnonzero(np.diff(self.contexts[order])) + 1
        return np.split(order, edges) if self.rows else []

    @cached_property
    def context_index(self) -> Ints:
        """For each row, which of the distinct contexts it belongs to: 0, 1, 2 ... by rising number."""
        return np.unique(self.contexts, return_inverse=True)[1].astype(np.int64)

    @cached_property
    def choices(self) -> Ints:
        """For each row, a number of its strategy: equal where every `strategy.*` column that is chosen agrees."""
        return _joint_codes(self.columns, [name for name in self.columns if _is_choice(name)], self.rows)

    @property
    def choice_names(self) -> Column:
        """For each row, words for its strategy: `strategy.name`, or what tells it from the others."""
        if self.has("strategy.name"):
            return self.words("strategy.name")
        return np.array([f"strategy {number}" for number in self.choices], dtype=object)

    @property
    def is_default(self) -> NDArray[np.bool_]:
        """Which rows are the engine's default."""
        return self.numbers("strategy.is_default") == 1

    def merge_repeats(self) -> "Table":
        """Return one row for each (context, strategy): outcomes by median, the rest from the earliest row."""
        keys = self.context_index * (int(self.choices.max(initial=0)) + 1) + self.choices
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        if len(first) == self.rows:
            return self
        order = np.argsort(first)  # the order of the rows stays
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        where = place[inverse]
        merged = self.take(first[order])
        medians = {
            name: _medians(column, where, len(first))
            for name, column in self.columns.items()
            if name.startswith(OUTCOME) and column.dtype != object
        }
        return merged.with_columns(medians)


def stack(upper: Table, lower: Table) -> Table:
    """Return the rows of both, one under the other; what one of them lacks is unknown there. Merges nothing."""
    names = dict.fromkeys([*upper.columns, *lower.columns])
    columns = {name: np.concatenate(_alike(name, upper, lower)) for name in names}
    return Table(columns=columns, contexts=np.concatenate([upper.contexts, lower.contexts]))


def _told(name: str, column: Column) -> Column:
    if column.dtype == object:
        return column
    sized = name.startswith(SIZED) and name not in ZERO_TELLS
    return np.where(np.isfinite(column) & ((column > 0) | (not sized)), column, np.nan)


def as_column(values: Sequence[object] | Column) -> Column:
    """Return values as a column: float64 if all that are known are numbers or truths, else words."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        return values.astype(np.float64)
    known = [value for value in values if value is not None and value != ""]
    if any(isinstance(value, str) for value in known):
        return np.array([None if v is None or v == "" or v != v else str(v) for v in values], dtype=object)
    numbers = [np.nan if value is None or value == "" else value for value in values]
    return np.array(numbers, dtype=np.float64)


def _alike(name: str, upper: Table, lower: Table) -> list[Column]:
    kinds = {table.columns[name].dtype for table in (upper, lower) if name in table.columns}
    texts = np.dtype(object) in kinds
    return [table.words(name) if texts else table.numbers(name) for table in (upper, lower)]


def _contexts(ready: Mapping[str, Column], given: Sequence[object] | Column | None, rows: int) -> Ints:
    computed = _joint_codes(ready, [name for name in ready if name.startswith(WHERE)], rows)
    if given is None:
        return computed
    numbers = [-1 if value is None or value != value else int(value) for value in given]  # type: ignore[call-overload]
    stated = np.array(numbers, dtype=np.int64)
    return np.where(stated < 0, computed + _FIRST_COMPUTED, stated)


def _is_choice(name: str) -> bool:
    return name.startswith(STRATEGY) and name not in NOT_CHOSEN


def _codes(column: Column) -> tuple[Ints, int]:
    """Return a number for each value of a column, and how many there are; unknown is -1."""
    if column.dtype == object:
        seen = {word: number for number, word in enumerate(sorted({word for word in column if word is not None}))}
        return np.array([seen.get(word, UNKNOWN_CODE) for word in column], dtype=np.int64), len(seen)
    values, codes = np.unique(column, return_inverse=True)
    return np.where(np.isnan(column), UNKNOWN_CODE, codes).astype(np.int64), len(values)


def _joint_codes(columns: Mapping[str, Column], names: Sequence[str], rows: int) -> Ints:
    joint = np.zeros(rows, dtype=np.int64)
    for name in names:
        codes, count = _codes(columns[name])
        joint = np.unique(joint * (count + 1) + codes + 1, return_inverse=True)[1].astype(np.int64)  # stays small
    return joint


def _medians(column: Column, where: Ints, count: int) -> Floats:
    """Return the median of what is known among the rows of each place; NaN where nothing is."""
    order = np.lexsort((column, where))  # NaN sorts last within its place
    known = np.bincount(where, weights=~np.isnan(column), minlength=count).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(np.bincount(where, minlength=count))[:-1]])
    ordered = column[order]
    low, high = starts + np.maximum((known - 1) // 2, 0), starts + known // 2
    high = np.minimum(high, len(column) - 1)
    return np.where(known > 0, (ordered[low] + ordered[high]) / 2, np.nan)
