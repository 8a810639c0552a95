"""What a router needs to know of a (model, hardware, strategy) cell, as a small table that it evaluates itself.

Knows how to ask predictors for the router's grid (`node.core.curves`); knows no router. Time to first token depends on
the uncached tokens of the prompt and on how many requests are outstanding; each queued prompt token beside those adds
`queued_token_s`. Time per output token depends on how many are decoded together. Both come with half the width of their
90 % interval, in log-seconds. A router takes them between points on log scales and corrects them by what it observes.

Theory. Records tell of loads whose prompts are all alike; a router asks for one prompt among others that are not like
it. A prompt of 16,000 tokens among seven of a thousand waits for those, not for seven like itself, which would be
twenty times as long. So the predictors are asked for its own work, alone, and for what a typical prompt waits among so
many typical ones; the time to its first token is the sum, and its interval the mean of both by their shares.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from node.core.curves import LEARNER, LOADS, PHYSICS, PROMPTS
from node.learner.table import Floats, Table

Cell: TypeAlias = Mapping[str, object]  # columns model.*, hardware.*, strategy.*
Ask: TypeAlias = Callable[[Table], tuple[Floats, Floats]]  # log-seconds and half-widths, both (rows,)

OUTPUT_TOKENS: Final = 128  # of a request, where the cell does not say: the middle of the chat traces
TYPICAL_PROMPT: Final = 1024  # of the others, where the cell does not say: the mean of the chat traces
ROOM_FOR_PROMPT: Final = 0.75  # of a short context
WAVES: Final = 8  # requests for each client: in the steady state, not in the first rush
LONG_PROMPT: Final = 4096  # up to it a prompt's tokens cost about alike; beyond, attention to what stands before grows
CELLS: Final = 256  # in one call; of each 15 rows are foretold
_DIGITS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One cell.

    Attributes:
        ttft_s: by prompt and load, shape (PROMPTS, LOADS). ttft_half_width: of its logarithm, likewise.
        tpot_s, tpot_half_width: by load, shape (LOADS,).
        queued_token_s: what one more prompt token in the queue adds to the time to the first token.
        learnt: whether records speak of both times, or physics of one at least.
    """

    ttft_s: Floats
    ttft_half_width: Floats
    tpot_s: Floats
    tpot_half_width: Floats
    queued_token_s: float
    learnt: bool = False

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
            "source": LEARNER if self.learnt else PHYSICS,
        }


def curves(cells: Sequence[Cell], ttft: Ask, tpot: Ask, *, learnt: bool = False) -> list[Curve]:
    """Return the curve of each cell; what is foretold is made to rise with prompt and load, as queues do.

    Args:
        learnt: whether records speak of both times.

    Raises:
        ValueError: more than CELLS of them.
    """
    if len(cells) > CELLS:
        raise ValueError(f"{len(cells)} cells where {CELLS} may be asked about at once")
    if not cells:
        return []
    asked = _points(cells)
    first, first_width = _by_cell(*ttft(asked))
    each, each_width = _by_cell(*tpot(asked))
    alone = slice(0, len(PROMPTS))
    among = slice(len(PROMPTS), len(PROMPTS) + len(LOADS))
    return [
        _curve(
            own=np.maximum.accumulate(np.exp(first[at, alone])),
            own_width=first_width[at, alone],
            typical=np.maximum.accumulate(np.exp(first[at, among])),
            typical_width=first_width[at, among],
            tpot=np.maximum.accumulate(np.exp(each[at, among])),
            tpot_width=each_width[at, among],
            learnt=learnt,
        )
        for at in range(len(cells))
    ]


def _curve(  # noqa: PLR0913 -- what was foretold, whole
    *,
    own: Floats,
    own_width: Floats,
    typical: Floats,
    typical_width: Floats,
    tpot: Floats,
    tpot_width: Floats,
    learnt: bool,
) -> Curve:
    """Put a curve together: `own` by prompt, alone; `typical` by load, of a typical prompt among such."""
    wait = (typical - typical[0])[None, :]
    ttft = own[:, None] + wait
    share = wait / ttft
    long = PROMPTS.index(LONG_PROMPT)
    return Curve(
        ttft_s=ttft,
        ttft_half_width=(1 - share) * own_width[:, None] + share * typical_width[None, :],
        tpot_s=tpot,
        tpot_half_width=tpot_width,
        queued_token_s=float((own[long] - own[0]) / (LONG_PROMPT - PROMPTS[0])),
        learnt=learnt,
    )


def _by_cell(values: Floats, widths: Floats) -> tuple[Floats, Floats]:
    points = len(PROMPTS) + len(LOADS)
    return values.reshape(-1, points), widths.reshape(-1, points)


def _points(cells: Sequence[Cell]) -> Table:
    """Return a table with a row, each in a context of its own, for each point of each cell, in their order.

    Of a cell: each prompt alone, then a typical one at each load.
    """
    rows: list[dict[str, object]] = []
    for cell in cells:
        typical = _typical(cell)
        output = cell.get("workload.output_tokens") or OUTPUT_TOKENS
        for prompt, load in [*((prompt, 1) for prompt in PROMPTS), *((typical, load) for load in LOADS)]:
            rows.append(
                {
                    **cell,
                    "context": len(rows),
                    "workload.prompt_tokens": prompt,
                    "workload.output_tokens": output,
                    "workload.concurrency": load,
                    "workload.requests": load * WAVES,
                    "workload.shared_prefix_tokens": 0,
                    "workload.prefix_groups": 1,
                }
            )
    return Table.of_rows(rows, merged=False)


def _typical(cell: Cell) -> float:
    """Return the tokens of the others' prompts: no more than the model's context has room for."""
    said, most = cell.get("workload.prompt_tokens"), cell.get("model.max_length")
    typical = float(said) if isinstance(said, int | float) and said >= 1 else float(TYPICAL_PROMPT)
    return min(typical, max(most * ROOM_FOR_PROMPT, 1.0)) if isinstance(most, int | float) and most >= 1 else typical
