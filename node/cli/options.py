"""Options that several verbs share, and how they become settings and places."""

import os
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

import click

from node.adapters import membership_file
from node.errors import ConfigError
from node.places import Places, places
from node.settings import Effective, effective

SOURCE_VERSION = "0.1.0"  # of a checkout that is not installed; a test holds it to pyproject.toml


def _version() -> str:
    try:
        return installed_version("metainf")
    except PackageNotFoundError:
        return SOURCE_VERSION


VERSION = _version()

data_dir_option = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="METAINF_DATA_DIR",
    help="Keep everything of this node in this folder instead of the XDG folders.",
)
config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="METAINF_CONFIG",
    help="Configuration file (TOML).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")


def common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --data-dir, --config and --json."""
    return data_dir_option(config_option(json_option(command)))


def places_of(data_dir: Path | None) -> Places:
    """Return the places of the node that the options mean."""
    return places(os.environ, uid=os.getuid(), data_dir=data_dir)


def settings_of(where: Places, config_file: Path | None, command_line: Mapping[str, object] | None = None) -> Effective:
    """Read and merge the settings.

    Raises:
        ConfigError: a named file that is not there, or anything wrong in it, or in the membership of a private swarm.
    """
    file = config_file or where.config_file
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        if config_file is not None:
            raise ConfigError(f"there is no file {config_file}", remedy="check the path given with --config") from error
        text = None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}", remedy="check its permissions and encoding") from error
    return effective(
        command_line=command_line or {},
        environment=os.environ,
        file_text=text,
        file_name=str(file),
        joined=_joined(where),
    )


def _joined(where: Places) -> tuple[str, str] | None:
    """Return the private swarm that this node belongs to, and the file that says so."""
    membership = membership_file.load(where.membership_file)
    return None if membership is None else (str(membership.swarm), str(where.membership_file))
