"""`metainf config`: each setting in force with where it came from, and a check of a file."""

import json
from pathlib import Path

import click

from node.cli.options import common_options, places_of, settings_of


@click.group()
def config() -> None:
    """Show or check the configuration."""


@config.command("show")
@common_options
def show(data_dir: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Print each setting in force, and where it came from."""
    where = places_of(data_dir)
    rows = list(settings_of(where, config_file).rows())
    if as_json:
        document = {key: {"value": value, "source": source} for key, value, source in rows}
        whole = {"file": str(config_file or where.config_file), "settings": document}
        click.echo(json.dumps(whole, indent=2, default=list))
        return
    width = max(len(key) for key, _, _ in rows)
    for key, value, source in rows:
        mark = "" if source == "default" else click.style(f"   # {source}", fg="cyan")
        click.echo(f"{key:<{width}} = {_toml(value)}{mark}")


def _toml(value: object) -> str:
    return "(not set)" if value is None else json.dumps(value, default=list)


@config.command("validate")
@common_options
def validate(data_dir: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Check the configuration without starting anything. Exit code 78 if something is wrong."""
    where = places_of(data_dir)
    in_force = settings_of(where, config_file)
    changed = len(in_force.sources)
    if as_json:
        click.echo(json.dumps({"valid": True, "set": changed}))
    else:
        click.echo(f"the configuration is valid ({changed} of its values are not defaults)")
