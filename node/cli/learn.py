"""`metainf learn`: what the meta-learner knows, and how well. What each verb does is imported when it is asked for."""

from pathlib import Path
from typing import Final

import click

from node.cli.options import data_dir_option, json_option, places_of

ALL_METHODS: Final = "all"


@click.group()
def learn() -> None:
    """Train and judge the meta-learner: evaluate. No node needs to run."""


@learn.command()
@click.option("--table", "table_file", required=True, type=click.Path(dir_okay=False, exists=True, path_type=Path),
              help="Observations to judge on: Parquet or JSON Lines.")  # fmt: skip
@click.option("--train", "train_file", type=click.Path(dir_okay=False, exists=True, path_type=Path),
              help="Learn from this table, not from the rest of the other; --group then only splits.")  # fmt: skip
@click.option("--group", required=True, metavar="COLUMN", help="Left out together: hardware.family, model.name, ...")
@click.option("--objective", default="latency", show_default=True, metavar="WORDS",
              help="latency, tail, throughput, cost, energy, slo, or a mix: latency:0.5,cost:0.5.")  # fmt: skip
@click.option("--methods", default=ALL_METHODS, show_default=True, metavar="NAMES", help="Which, with commas.")
@click.option("--seed", default=0, show_default=True, help="Of all luck.")
@click.option("--fresh", is_flag=True, help="Judge anew what was judged before: finished folds are kept otherwise.")
@data_dir_option
@json_option
def evaluate(
    table_file: Path,
    train_file: Path | None,
    group: str,
    objective: str,
    methods: str,
    seed: int,
    fresh: bool,
    data_dir: Path | None,
    as_json: bool,
) -> int:
    """Leave groups out, choose in each of their contexts, and print how good the choices were.

    Several seeds: run it once for each. What was finished before an interruption is not done again.
    """
    from node.cli import learning  # noqa: PLC0415 -- numpy and what stands on it: a second

    asked = learning.Asked(
        table=table_file, train=train_file, group=group, objective=objective, methods=methods, seed=seed,
        folds=None if fresh else places_of(data_dir).cache / "folds",
    )  # fmt: skip
    return learning.evaluate_tables(asked, as_json=as_json)
