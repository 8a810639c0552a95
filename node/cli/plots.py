"""Figures of an evaluation as PNG files. Knows matplotlib, from the extra `plots`; knows no table and no head.

The colours of methods can be told apart without colour vision too (Okabe and Ito, 2008), and have marks of their own.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from node.errors import Unavailable

COLOURS: Final = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#8C8C8C", "#F0E442", "#661100",
    "#A6CEE3",
)  # fmt: skip
MARKS: Final = "osD^v<>PX*h"
DOTS_PER_INCH: Final = 130
GROUP_INCHES: Final = 1.6  # of width that a group's bars take
POINTS: Final = 4000  # of one group in a scatter: more is a blot


@dataclass(frozen=True, slots=True, kw_only=True)
class Scatter:
    """What was foretold and observed of one group's rows, in the objective's unit; both of one length."""

    group: str
    observed: Sequence[float]
    foretold: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Figures of one method that learnt from so many contexts; None where there are none."""

    method: str
    contexts: int
    regret: float | None
    error: float | None


def hold_matplotlib() -> None:
    """Make sure, before hours of work, that there is something to draw with.

    Raises:
        Unavailable: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise Unavailable(
            "plots need matplotlib, which is not installed", remedy="pip install 'metainf[plots]', or leave --plots out"
        )


def draw_scatter(file: Path, parts: Sequence[Scatter], *, title: str, unit: str) -> None:
    """Draw predicted against observed, both logarithmic, a colour for each group; raises as `_figure`."""
    with _figure(file, 6.5, 6.0) as axes:
        for at, part in enumerate(parts):
            every = max(-(-len(part.observed) // POINTS), 1)
            axes.scatter(
                part.observed[::every], part.foretold[::every], s=8, alpha=0.45, linewidths=0,
                color=COLOURS[at % len(COLOURS)], marker=MARKS[at % len(MARKS)], label=part.group,
            )  # fmt: skip
        values = [value for part in parts for value in (*part.observed, *part.foretold)]
        ends = (min(values), max(values))
        axes.plot(ends, ends, color="0.3", linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel=f"observed, {unit}", ylabel=f"predicted, {unit}", title=title)
        axes.legend(fontsize="small", markerscale=2)


def draw_regret(file: Path, groups: Mapping[str, Mapping[str, float | None]], *, title: str) -> None:
    """Draw mean regret, a bar for each method in each group; raises as `_figure`."""
    methods = list(dict.fromkeys(method for found in groups.values() for method in found))
    with _figure(file, max(6.5, GROUP_INCHES * len(groups) + 2.5), 4.5) as axes:
        width = 0.8 / max(len(methods), 1)
        for at, method in enumerate(methods):
            left = [place - 0.4 + (at + 0.5) * width for place in range(len(groups))]
            heights = [found.get(method) or 0.0 for found in groups.values()]
            axes.bar(left, heights, width, label=method, color=COLOURS[at % len(COLOURS)])
        axes.set_xticks(range(len(groups)), list(groups), rotation=20, ha="right", fontsize="small")
        axes.set(ylabel="mean regret (0.1: 10 % dearer than the best)", title=title)
        axes.legend(fontsize="small")


def draw_curve(file: Path, steps: Sequence[Step], *, title: str) -> None:
    """Draw error and regret against the number of contexts learnt from; raises as `_figure`."""
    with _figure(file, 9.0, 4.0, beside=2) as axes:
        for panel, (figure, words) in zip(axes, (("regret", "mean regret"), ("error", "median error")), strict=True):
            for at, method in enumerate(dict.fromkeys(step.method for step in steps)):
                drawn = [(s.contexts, getattr(s, figure)) for s in steps if s.method == method]
                known = sorted((x, y) for x, y in drawn if y is not None)
                if known:
                    panel.plot(*zip(*known, strict=True), marker=MARKS[at % len(MARKS)],
                               color=COLOURS[at % len(COLOURS)], label=method)  # fmt: skip
            panel.set(xscale="log", xlabel="contexts learnt from", ylabel=words, ylim=(0, None))
            places = sorted({step.contexts for step in steps})
            panel.set_xticks(places, [str(place) for place in places])
            panel.minorticks_off()
        axes[0].legend(fontsize="small")
        axes[0].figure.suptitle(title)


@contextmanager
def _figure(file: Path, width: float, height: float, *, beside: int = 1) -> Iterator[Any]:
    """Yield axes to draw on, and write them.

    Raises:
        Unavailable: the disk refused.
    """
    import matplotlib as mpl  # noqa: PLC0415 -- may not be there, and takes a second

    mpl.use("agg")  # files only: no screen is looked for
    from matplotlib import pyplot  # noqa: PLC0415

    figure, axes = pyplot.subplots(1, beside, figsize=(width, height), layout="constrained")
    try:
        yield axes
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=DOTS_PER_INCH)
    except OSError as error:
        raise Unavailable(f"{file} cannot be written: {error}", remedy="name another folder") from error
    finally:
        pyplot.close(figure)
