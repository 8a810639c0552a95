"""`metainf api-key`: who may use the API. Only hashes are kept; a key is shown once, when it is made."""

import hashlib
import json
import secrets
from collections.abc import Callable
from pathlib import Path

import click

from node import files
from node.cli.options import data_dir_option, json_option, places_of
from node.errors import NodeError, Unavailable
from node.settings import ApiKey, format_api_keys, parse_api_keys

KEY_BYTES = 32  # of randomness: guessing is hopeless, so a plain hash of the key is safe to keep

Keys = tuple[ApiKey, ...]


@click.group("api-key")
def api_key() -> None:
    """Make, list and revoke keys of the OpenAI-compatible API. A running node wants a restart to know of a change."""


def read_keys(file: Path) -> Keys:
    """Return the keys kept in `file`; none where there is no file.

    Raises:
        ConfigError: the file is damaged.
        Unavailable: it cannot be read.
    """
    try:
        return parse_api_keys(file.read_bytes(), str(file))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise Unavailable(f"cannot read {file}: {error.strerror}", remedy="check its permissions") from error


def _change(file: Path, edit: Callable[[Keys], Keys]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with files.exclusive(file):
            files.replace(file, format_api_keys(edit(read_keys(file))))
    except OSError as error:
        raise Unavailable(f"cannot write {file}: {error.strerror}", remedy="check the folder's permissions") from error


@api_key.command("add")
@click.argument("name")
@click.option("--requests-per-minute", type=click.IntRange(min=1))
@click.option("--tokens-per-minute", type=click.IntRange(min=1))
@click.option("--concurrent", type=click.IntRange(min=1), help="Requests at the same time.")
@data_dir_option
@json_option
def add(
    name: str,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    concurrent: int | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Make a key called NAME and print it, once."""
    secret = "mi-" + secrets.token_urlsafe(KEY_BYTES)
    made = ApiKey(
        name=name,
        sha256=hashlib.sha256(secret.encode()).hexdigest(),
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        concurrent=concurrent,
    )

    def with_it(keys: Keys) -> Keys:
        if any(key.name == name for key in keys):
            raise NodeError(f"there is a key called {name!r} already", remedy=f"`metainf api-key revoke {name}` first")
        return (*keys, made)

    _change(places_of(data_dir).api_keys_file, with_it)
    if as_json:
        click.echo(json.dumps({"name": name, "key": secret}))
        return
    click.echo(secret)
    click.echo("This is the only time that it is shown. Restart the node to let it in.", err=True)


@api_key.command("list")
@data_dir_option
@json_option
def list_keys(data_dir: Path | None, as_json: bool) -> None:
    """List the keys made here, with their limits."""
    keys = read_keys(places_of(data_dir).api_keys_file)
    if as_json:
        click.echo(json.dumps([{**_limits(key), "name": key.name} for key in keys]))
        return
    if not keys:
        click.echo("no keys: programs on this machine need none; others cannot use the API", err=True)
    for key in keys:
        limits = ", ".join(f"{name} {value}" for name, value in _limits(key).items() if value is not None)
        click.echo(f"{key.name:<24} {limits or 'no limits'}")


def _limits(key: ApiKey) -> dict[str, int | None]:
    return {
        "requests_per_minute": key.requests_per_minute,
        "tokens_per_minute": key.tokens_per_minute,
        "concurrent": key.concurrent,
    }


@api_key.command("revoke")
@click.argument("name")
@data_dir_option
@json_option
def revoke(name: str, data_dir: Path | None, as_json: bool) -> None:
    """Take the key called NAME away."""

    def without_it(keys: Keys) -> Keys:
        left = tuple(key for key in keys if key.name != name)
        if len(left) == len(keys):
            raise NodeError(f"there is no key called {name!r}", remedy="`metainf api-key list` shows them")
        return left

    _change(places_of(data_dir).api_keys_file, without_it)
    click.echo(json.dumps({"revoked": name}) if as_json else f"{name} is revoked; restart the node to shut it out")
