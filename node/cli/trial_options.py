"""What `metainf profile --trials` may be told. Imports nothing heavy: the trials themselves are `node.cli.trials`'s."""

from collections.abc import Callable
from typing import Any

import click

from node.core.trial_plan import FOREIGN_LIMIT, WAITED_LIMIT
from node.core.trial_request import MINUTES, PPM_PER_PERCENT
from node.core.workloads import KINDS

_OPTIONS = (
    click.option("--trials", is_flag=True, help="Measure the real engine under a set of strategies and workloads."),
    click.option("--budget", type=click.FloatRange(min=0.1), default=MINUTES, show_default=True, metavar="MINUTES",
                 help="Begin no further trial after so long; the next run goes on."),
    click.option("--repetitions", type=click.IntRange(1, 100), default=3, show_default=True),
    click.option("--workload", "workloads", type=click.Choice(KINDS), multiple=True, default=KINDS[:3],
                 show_default=True, help="May be repeated."),
    click.option("--strategies", type=click.IntRange(min=1), metavar="N", help="Only the first N strategies."),
    click.option("--wide", is_flag=True, help="More strategies: number formats, drafts, budgets, parallelism."),
    click.option("--new-trials", "fresh", is_flag=True, help="Start the trials anew instead of going on."),
    click.option("--foreign-load", "foreign", type=click.FloatRange(0, 100), show_default=True, metavar="PERCENT",
                 default=FOREIGN_LIMIT / PPM_PER_PERCENT, help="Discard trials while others use more of the cores."),
    click.option("--core-wait", "waited", type=click.FloatRange(0, 100), show_default=True, metavar="PERCENT",
                 default=WAITED_LIMIT / PPM_PER_PERCENT, help="Discard trials that waited longer for a core."),
)  # fmt: skip


def trial_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --trials and what goes with it; the command gets `trials` and the fields of `TrialRequest`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
