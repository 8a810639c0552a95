"""`metainf profile`: what this machine is and what it can do. Works without a running node."""

from pathlib import Path
from typing import Any

import click

from node.cli.options import common_options, places_of, settings_of
from node.cli.trial_options import trial_options
from node.core.trial_request import TrialRequest


@click.command()
@common_options
@click.option("--again", is_flag=True, help="Measure anew, even where the kept figures still hold.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.2, 60.0),
    default=4.0,
    show_default=True,
    help="How long to measure; beside it, torch takes some seconds to load.",
)
@trial_options
def profile(
    data_dir: Path | None,
    config_file: Path | None,
    as_json: bool,
    again: bool,
    seconds: float,
    trials: bool,
    **chosen: Any,  # noqa: ANN401 -- the fields of TrialRequest, as its own options hand them over
) -> int:
    """Show this machine's hardware, and measure it where that was not done yet or something changed.

    The figures are kept until driver, clocks, software or hardware change, or for a month.
    """
    where = places_of(data_dir)
    settings = settings_of(where, config_file).settings
    # Both bring trio and rich along: the quick verbs must not pay for them.
    if trials:
        from node.cli.trials import profile_trials

        return profile_trials(where, settings, TrialRequest(**chosen), as_json=as_json)
    from node.cli.profiling import Wish, show_profile

    return show_profile(where, Wish(engine=settings.engine, again=again, seconds=seconds, as_json=as_json))
