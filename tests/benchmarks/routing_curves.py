"""What our learner foretells of a swarm's cells, never having seen their hardware family or their model.

Knows the observation tables and the brain; knows no simulation. For each hardware family of the swarm a brain is taught
with every row of all tables but those of that family, and but those of a model of the same size and depth (one model
has several names there); it is asked for the curves of that family's cells from their specifications.
"""

import json
from collections.abc import Mapping, Sequence
from math import log
from pathlib import Path
from typing import Any, Final

import numpy as np

from node.cli.learning import read_rows
from node.learner.brain import Brain, trees
from node.learner.table import Table
from tests.benchmarks.routing_cells import MIXES, Cell, Row

TABLES: Final = ("strategies_simulated.parquet", "inferencex_measured.parquet", "argonne_measured.parquet")
EVERY: Final = 4  # contexts of the simulated table: one in so many, for time
SAME_SIZE: Final = 0.05  # log-parameters
APART: Final = 10_000_000  # between the context numbers of the tables


def curves(folder: Path, mix: str, seed: int, cells: Sequence[Cell], kept: Path | None) -> list[Mapping[str, Any]]:
    """Return what the learner's process would say of each cell; kept in a file, as learning takes a minute."""
    file = None if kept is None else kept / f"curves-{mix}-{seed % len(MIXES[mix].models)}.json"
    if file is not None and file.exists():
        return json.loads(file.read_text(encoding="utf-8"))
    rows = [row for number, name in enumerate(TABLES) for row in _rows(folder / name, number)]
    found: dict[str, Mapping[str, Any]] = {}
    for family in sorted({cell.family for cell in cells}):
        asked = [cell for cell in cells if cell.family == family]
        brain = taught([row for row in rows if not held_out(row, family, asked[0].columns)], seed)
        said = brain.curves([cell.columns for cell in asked])
        found |= {cell.name: curve.to_plain() for cell, curve in zip(asked, said, strict=True)}
    answer = [found[cell.name] for cell in cells]
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(answer), encoding="utf-8")
    return answer


def taught(rows: Sequence[Row], seed: int) -> Brain:
    """Return a brain that has learnt the times of these rows."""
    table = Table.of_rows(rows, merged=False)
    return Brain(make_heads=trees).taught(table, {}, [], np.random.default_rng(seed))


def _rows(file: Path, number: int) -> list[Row]:
    held = read_rows(file)
    sparse = EVERY if number == 0 else 1
    return [
        {**row, "context": APART * number + int(row["context"])} for row in held if int(row["context"]) % sparse == 0
    ]


def held_out(row: Row, family: str, model: Mapping[str, Any]) -> bool:
    """Tell whether a row is of the hardware family or of the model, whatever it is called."""
    same_size = abs(log(float(row["model.parameters"]) / float(model["model.parameters"]))) < SAME_SIZE
    same = same_size and row["model.layers"] == model["model.layers"]
    return bool(row["hardware.family"] == family or same)
