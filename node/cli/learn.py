"""`metainf learn`: what the meta-learner knows, and how well. What each verb does is imported when it is asked for."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from node.cli.options import common_options, data_dir_option, json_option, places_of, settings_of
from node.errors import Unavailable
from protocol.ids import SwarmId

if TYPE_CHECKING:
    from node.cli.learn_advice import Wish

ALL_METHODS: Final = "all"
FILE: Final = click.Path(dir_okay=False, exists=True, path_type=Path)
THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
OBJECTIVE_HELP: Final = "latency, tail, throughput, cost, energy, slo, or a mix: latency:0.5,cost:0.5."


@click.group()
def learn() -> None:
    """Train, ask and judge the meta-learner: train, predict, explain, evaluate. No node needs to run."""


@contextmanager
def _learner() -> Iterator[None]:
    """Let numeric libraries use one thread, and say what to install where they are not there.

    To be entered before they are imported: they read the environment once, then.
    """
    # Their matrices are small, and threads that wait for each other spin: where others use the cores too, torch on as
    # many threads as there are cores took 60 times as long as on one. Who set a number themselves keeps it.
    for name in THREADS:
        os.environ.setdefault(name, "1")
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith(("node", "protocol")):
            raise
        raise Unavailable(
            f"the learner needs {error.name}, which is not installed", remedy="pip install 'metainf[learner]'"
        ) from error


def source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what is learnt from."""
    for option in (
        click.option("--seed", default=0, show_default=True, help="Of all luck."),
        click.option("--contexts", type=click.IntRange(min=1), metavar="N",
                     help="Learn from N contexts only, drawn at random: quicker, and worse."),
        click.option("--table", "table_file", type=FILE,
                     help="Learn from this: observations or exported records, Parquet or JSON Lines. "
                          "Default: this node's history."),
    ):  # fmt: skip
        command = option(command)
    return command


def question_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what is asked about."""
    for option in (
        click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="Strategies shown."),
        click.option("--between/--no-between", default=True, show_default=True,
                     help="Look between the known strategies too: token budgets, batch caps, drafts."),
        click.option("--lossy", is_flag=True, help="Allow strategies that change answers (quantised caches, weights)."),
        click.option("--unseen", metavar="COLUMN",
                     help="Learn without what agrees with the question in it: context, hardware.family, model.name."),
        click.option("--promise", "promises", multiple=True, metavar="NAME=SECONDS",
                     help="With --objective slo: ttft_s, tpot_s or latency_s. Repeatable."),
        click.option("--objective", default="latency", show_default=True, metavar="WORDS", help=OBJECTIVE_HELP),
        click.option("--set", "set_columns", multiple=True, metavar="COLUMN=VALUE",
                     help="Set a column: workload.concurrency=32. Repeatable, after all else."),
        click.option("--workload", metavar="KIND", help="The table's workload of this kind, the commonest of them."),
        click.option("--hardware", metavar="NAME",
                     help="The table's device of this name, or `this`: this machine, as `metainf profile` knows it."),
        click.option("--model-config", type=FILE, help="A model's config.json, in place of --model."),
        click.option("--model", metavar="NAME", help="The table's model of this name, or with this in it."),
        click.option("--like", type=int, metavar="NUMBER", help="This context of the table, with its strategies."),
        click.option("--context", "context_file",
                     type=click.Path(dir_okay=False, exists=True, allow_dash=True, path_type=Path),
                     help="Rows as JSON under the tables' names, a strategy in each; - is standard input."),
    ):  # fmt: skip
        command = option(command)
    return command


@learn.command()
@source_options
@click.option("--objective", "objectives", multiple=True, default=("latency",), show_default=True, metavar="WORDS",
              help=f"{OBJECTIVE_HELP} Repeatable.")  # fmt: skip
@common_options
def train(
    table_file: Path | None,
    contexts: int | None,
    seed: int,
    objectives: tuple[str, ...],
    data_dir: Path | None,
    config_file: Path | None,
    as_json: bool,
) -> int:
    """Learn once, and say how it went. Nothing is kept: predict and explain learn anew, and a node learns by itself.

    It takes seconds for hundreds of rows, and a minute or two for thousands.
    """
    with _learner():
        from node.cli import learn_source, learn_training  # noqa: PLC0415 -- numpy and what stands on it: a second

        where = places_of(data_dir)
        source = learn_source.Source(
            table=table_file, where=where, swarm=SwarmId(settings_of(where, config_file).settings.p2p.swarm),
            contexts=contexts, seed=seed,
        )  # fmt: skip
        return learn_training.train(source, objectives, as_json=as_json)


@learn.command()
@source_options
@question_options
@common_options
def predict(**options: Any) -> int:  # noqa: ANN401 -- the options above; `_wish` names them
    """Rank the strategies for a model on hardware under a workload, with what each would cost and save.

    Say what is meant by --like or --context, or by --model, --hardware and --workload; --set changes any column of it.
    Without strategies in the question, those of the table come into question, or else the ones that trials try.
    Gains are against the engine's default. It learns anew first: seconds to minutes.
    """
    with _learner():
        from node.cli import learn_advice  # noqa: PLC0415 -- numpy and what stands on it: a second

        return learn_advice.predict(_wish(**options))


@learn.command()
@source_options
@question_options
@common_options
def explain(**options: Any) -> int:  # noqa: ANN401 -- the options above; `_wish` names them
    """Say why the choice for a model on hardware under a workload is what it is, and how sure that is.

    Asked as predict is. It compares the choice with the default, or with the next best where it is that: what physics
    says and what was learnt, the features that moved it, the heads and their weights, and how far from all that was
    seen it lies.
    """
    with _learner():
        from node.cli import learn_advice  # noqa: PLC0415 -- numpy and what stands on it: a second

        return learn_advice.explain_choice(_wish(**options))


def _wish(
    table_file: Path | None,
    contexts: int | None,
    seed: int,
    data_dir: Path | None,
    config_file: Path | None,
    context_file: Path | None,
    set_columns: tuple[str, ...],
    like: int | None,
    model: str | None,
    model_config: Path | None,
    hardware: str | None,
    workload: str | None,
    **rest: Any,  # noqa: ANN401 -- fields of Wish
) -> "Wish":
    from node.cli.learn_advice import Wish  # noqa: PLC0415 -- likewise
    from node.cli.learn_asking import Question  # noqa: PLC0415 -- likewise
    from node.cli.learn_source import Source  # noqa: PLC0415 -- likewise

    where = places_of(data_dir)
    swarm = SwarmId(settings_of(where, config_file).settings.p2p.swarm)
    return Wish(
        source=Source(table=table_file, where=where, swarm=swarm, contexts=contexts, seed=seed),
        question=Question(
            context=context_file, like=like, model=model, model_config=model_config, hardware=hardware,
            workload=workload, settings=set_columns,
        ),
        **rest,
    )  # fmt: skip


@learn.command()
@click.option("--table", "table_file", required=True, type=FILE,
              help="Observations to judge on: Parquet or JSON Lines.")  # fmt: skip
@click.option("--train", "train_file", type=FILE,
              help="Learn from this table, not from the rest of the other; --group then only splits.")  # fmt: skip
@click.option("--group", required=True, metavar="COLUMN", help="Left out together: hardware.family, model.name, ...")
@click.option("--objective", default="latency", show_default=True, metavar="WORDS", help=OBJECTIVE_HELP)
@click.option("--methods", default=ALL_METHODS, show_default=True, metavar="NAMES", help="Which, with commas.")
@click.option("--seed", default=0, show_default=True, help="Of all luck.")
@click.option("--fresh", is_flag=True, help="Judge anew what was judged before: finished folds are kept otherwise.")
@click.option("--plots", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
              help="Draw predictions and regret by group, as PNG; some groups are learnt again for it.")  # fmt: skip
@click.option("--curve", is_flag=True,
              help="With --plots: draw how it learns, from 1/16 to all contexts; 15 fits a method.")  # fmt: skip
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
    plots: Path | None,
    curve: bool,
    data_dir: Path | None,
    as_json: bool,
) -> int:
    """Leave groups out, choose in each of their contexts, and print how good the choices were.

    Several seeds: run it once for each. What was finished before an interruption is not done again.
    """
    if curve and plots is None:
        raise click.UsageError("--curve draws into the folder of --plots: name one")
    with _learner():
        from node.cli import learning  # noqa: PLC0415 -- numpy and what stands on it: a second

        asked = learning.Asked(
            table=table_file, train=train_file, group=group, objective=objective, methods=methods, seed=seed,
            folds=None if fresh else places_of(data_dir).cache / "folds", plots=plots, curve=curve,
        )  # fmt: skip
        return learning.evaluate_tables(asked, as_json=as_json)
