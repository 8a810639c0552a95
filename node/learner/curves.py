"""What a router needs to know of a (model, hardware, strategy) cell, as a small table that it evaluates itself.

Knows the grid and how to ask predictors for it; knows no router. Time to first token depends on the uncached tokens of
the prompt and on how many requests are outstanding; each queued prompt token beside those adds `queued_token_s`. Time
per output token depends on how many are decoded together. Both come with half the width of their 90 % interval, in
log-seconds. A router takes them between points on log scales and corrects them by what it observes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from node.learner.table import Floats, Table

Cell: TypeAlias = Mapping[str, object]  # columns model.*, hardware.*, strategy.*
Ask: TypeAlias = Callable[[Table], tuple[Floats, Floats]]  # log-seconds and half-widths, both (rows,)

PROMPTS: Final = (32, 256, 1024, 4096, 16384)  # uncached tokens
LOADS: Final = (1, 2, 4, 8, 16, 32, 64, 128)  # requests outstanding, the one that is asked about included
OUTPUT_TOKENS: Final = 128  # of a request, where the cell does not say: the middle of the chat traces
TYPICAL_PROMPT: Final = 1024  # of the others that are decoded
WAVES: Final = 8  # requests for each client: in the steady state, not in the first rush
CELLS: Final = 256  # in one call; a grid of each is 40 rows
_DIGITS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One cell.

    Attributes:
        ttft_s: by prompt and load, shape (PROMPTS, LOADS). ttft_half_width: of its logarithm, likewise.
        tpot_s, tpot_half_width: by load, shape (LOADS,).
        queued_token_s: what one more prompt token in the queue adds to the time to the first token.
    """

    ttft_s: Floats
    ttft_half_width: Floats
    tpot_s: Floats
    tpot_half_width: Floats
    queued_token_s: float

    def to_plain(self) -> dict[str, object]:
        """Return what JSON can carry, the grid included."""

        def digits(values: Floats) -> list[object]:
            return [float(f"{value:.{_DIGITS}g}") for value in values.reshape(-1)]

        return {
            "prompts": list(PROMPTS),
            "loads": list(LOADS),
            "ttft_s": digits(self.ttft_s),
            "ttft_half_width": digits(self.ttft_half_width),
            "tpot_s": digits(self.tpot_s),
            "tpot_half_width": digits(self.tpot_half_width),
            "queued_token_s": float(f"{self.queued_token_s:.{_DIGITS}g}"),
        }


def curves(cells: Sequence[Cell], ttft: Ask, tpot: Ask) -> list[Curve]:
    """Return the curve of each cell; what is foretold is made to rise with prompt and load, as queues do.

    Raises:
        ValueError: more than CELLS of them.
    """
    if len(cells) > CELLS:
        raise ValueError(f"{len(cells)} cells where {CELLS} may be asked about at once")
    if not cells:
        return []
    shape = (len(cells), len(PROMPTS), len(LOADS))
    grid = _grid(cells)
    first, first_width = (values.reshape(shape) for values in ttft(grid))
    each, each_width = (values.reshape(shape) for values in tpot(grid))
    middle = PROMPTS.index(TYPICAL_PROMPT)
    found = []
    for at in range(len(cells)):
        rising = np.maximum.accumulate(np.maximum.accumulate(np.exp(first[at]), axis=0), axis=1)
        found.append(
            Curve(
                ttft_s=rising,
                ttft_half_width=first_width[at],
                tpot_s=np.maximum.accumulate(np.exp(each[at, middle])),
                tpot_half_width=each_width[at, middle],
                queued_token_s=float((rising[-1, 0] - rising[0, 0]) / (PROMPTS[-1] - PROMPTS[0])),
            )
        )
    return found


def _grid(cells: Sequence[Cell]) -> Table:
    """Return a table with a row, each in a context of its own, for each cell, prompt and load, in this order."""
    points = [
        {
            **cell,
            "context": (at * len(PROMPTS) + p) * len(LOADS) + q,
            "workload.prompt_tokens": prompt,
            "workload.output_tokens": cell.get("workload.output_tokens") or OUTPUT_TOKENS,
            "workload.concurrency": load,
            "workload.requests": load * WAVES,
            "workload.shared_prefix_tokens": 0,
            "workload.prefix_groups": 1,
        }
        for at, cell in enumerate(cells)
        for p, prompt in enumerate(PROMPTS)
        for q, load in enumerate(LOADS)
    ]
    return Table.of_rows(points, merged=False)
