"""What the MetaInf head reads: vectors of sentences, in sequences of one context and the strategies tried there.

Knows tables, the sentences of their columns and an embedder; knows no network. Rows of a context differ in strategy
alone, so what is said about model, hardware and workload stands once in a sequence.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from node.learner.table import Floats, Ints, Table
from node.learner.texts import UNSAID, Embedder, Said, say

Tokens = NDArray[np.float32]

STRATEGY: Final = "strategy"  # the part that differs within a context
AT_ONCE: Final = 64  # strategies in a sequence; a context of more takes several
DIRECTIONS: Final = 16  # of a column's sentences: a column that says twenty things is told by them
LEAST_SIZE: Final = 0.01  # of a direction, against the largest


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """The directions in which the sentences of one column differ that were learnt from.

    What a new sentence has beyond these is left out: no record taught what it means. Sentences of one column differ
    little as vectors, hence the centring. One scale for all directions: of eight machines a direction's own is luck.
    """

    part: str
    centre: NDArray[np.float32]  # (dimensions,)
    along: NDArray[np.float32]  # (dimensions, DIRECTIONS); zeros where there are fewer

    @staticmethod
    def of(said: Said, vectors: Tokens) -> "Column":
        """Learn from the distinct sentences of a column, whose vectors have shape (sentences, dimensions)."""
        centre = vectors.mean(axis=0)
        _, sizes, along = np.linalg.svd(vectors - centre, full_matrices=False)
        kept = min(int((sizes > LEAST_SIZE * sizes[0]).sum()), DIRECTIONS) if len(vectors) > 1 else 0
        scale = np.sqrt((sizes[:kept] ** 2).sum() / len(vectors) / max(kept, 1))  # mean square 1 for each, on average
        padded = np.zeros((vectors.shape[1], DIRECTIONS), dtype=np.float32)
        padded[:, :kept] = along[:kept].T / max(scale, 1e-6)
        return Column(part=said.part, centre=centre, along=padded)

    def read(self, said: Said, vectors: Tokens) -> Tokens:
        """Return (rows, DIRECTIONS); zeros where nothing is said."""
        known = ((vectors - self.centre) @ self.along)[said.which]
        return np.where((said.which == UNSAID)[:, None], np.float32(0), known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Columns by name, as they were learnt from."""

    embedder: Embedder
    columns: dict[str, Column]

    @staticmethod
    def of(embedder: Embedder, table: Table) -> "Reader":
        """Learn what the columns of a table say."""
        found = {said.column: Column.of(said, embedder(said.sentences)) for said in say(table.columns, table.rows)}
        return Reader(embedder=embedder, columns=found)

    @property
    def about_contexts(self) -> tuple[str, ...]:
        """The parts of the columns that a context's rows agree in, one for each column."""
        return tuple(column.part for column in self.columns.values() if column.part != STRATEGY)

    def read(self, table: Table, first: Ints) -> tuple[Tokens, Tokens]:
        """Return what is said about contexts, of the rows `first`, and about strategies, of all rows.

        Shapes (len(first), columns, DIRECTIONS) and (rows, columns, DIRECTIONS).
        """
        heard = {said.column: said for said in say(table.columns, table.rows) if said.column in self.columns}
        about: dict[bool, list[Tokens]] = {False: [], True: []}
        for name, column in self.columns.items():
            strategy = column.part == STRATEGY
            rows = np.arange(table.rows) if strategy else first
            if (said := heard.get(name)) is None:
                about[strategy].append(np.zeros((len(rows), DIRECTIONS), dtype=np.float32))
            else:
                about[strategy].append(column.read(said, self.embedder(said.sentences))[rows])
        empty = {False: (len(first), 0, DIRECTIONS), True: (table.rows, 0, DIRECTIONS)}
        contexts, strategies = (np.stack(a, 1) if a else np.zeros(empty[s], np.float32) for s, a in about.items())
        return contexts, strategies


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences:
    """Sequences: a context and strategies in it."""

    parts: tuple[str, ...]  # of the columns about contexts
    contexts: Tokens  # (sequences, columns, DIRECTIONS)
    strategies: Tokens  # (rows, columns, DIRECTIONS)
    rows: Ints  # (sequences, the most strategies): numbers of rows, a sequence's first where it has fewer
    real: NDArray[np.bool_]  # the same shape: False there
    target: NDArray[np.float32]  # (rows,)
    weight: NDArray[np.float32]

    @staticmethod
    def of(reader: Reader, table: Table, target: Floats | None = None, weight: Floats | None = None) -> "Sequences":
        """Lay out a table; target and weight of each row where they are known."""
        pieces = [group[at : at + AT_ONCE] for group in table.context_groups() for at in range(0, len(group), AT_ONCE)]
        widest = max((len(piece) for piece in pieces), default=0)
        rows = np.array([np.pad(p, (0, widest - len(p)), constant_values=p[0]) for p in pieces], dtype=np.int64)
        rows = rows.reshape(len(pieces), widest)
        sizes = np.array([len(piece) for piece in pieces], dtype=np.int64)
        contexts, strategies = reader.read(table, rows[:, :1].reshape(-1))
        return Sequences(
            parts=reader.about_contexts,
            contexts=contexts,
            strategies=strategies,
            rows=rows,
            real=np.arange(widest) < sizes[:, None],
            target=np.zeros(table.rows, np.float32) if target is None else target.astype(np.float32),
            weight=np.ones(table.rows, np.float32) if weight is None else weight.astype(np.float32),
        )

    def inputs(self, which: Ints) -> tuple[Tokens, Tokens, Ints, NDArray[np.bool_]]:
        """Return contexts, strategies, the rows' numbers and which of them are real, of some sequences."""
        widest = int(self.real[which].sum(axis=1).max())
        rows = self.rows[which, :widest]
        return self.contexts[which], self.strategies[rows], rows, self.real[which, :widest]
