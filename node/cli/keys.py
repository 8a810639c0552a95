"""`metainf key`: the node's identity, shown and backed up."""

import json
from pathlib import Path

import click

from node import files
from node.adapters.keystore import load
from node.cli.options import common_options, data_dir_option, json_option, places_of
from node.errors import Unavailable
from node.places import Places
from protocol.ids import PeerId


@click.group()
def key() -> None:
    """Show or back up the node's identity."""


def _existing(where: Places) -> Path:
    if not where.identity_file.exists():
        raise Unavailable(
            f"there is no identity in {where.data} yet", remedy="`metainf up` makes one at its first start"
        )
    return where.identity_file


@key.command("show")
@common_options
def show(data_dir: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Print the peer id and the public key. The private key is not shown."""
    file = _existing(places_of(data_dir))
    identity = load(file)
    facts = {
        "peer_id": str(PeerId.from_public_key(identity.public_key)),
        "public_key": identity.public_key.hex(),
        "file": str(file),
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        click.echo(f"{name:<11} {value}")


@key.command("backup")
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--encrypt", is_flag=True, help="Ask for a passphrase and encrypt the copy.")
@data_dir_option
@json_option
def backup(target: Path, encrypt: bool, data_dir: Path | None, as_json: bool) -> None:
    """Write a copy of the private key to TARGET (mode 0600), which must not exist.

    To restore, see docs/operations.md. Whoever holds the copy can speak as this node.
    """
    identity = load(_existing(places_of(data_dir)))
    passphrase = click.prompt("Passphrase", hide_input=True, confirmation_prompt=True).encode() if encrypt else None
    try:
        files.write_new(target.absolute(), identity.to_pem(passphrase))
    except FileExistsError as error:
        raise Unavailable(f"{target} exists and was left as it is", remedy="name another file") from error
    except OSError as error:
        raise Unavailable(f"cannot write {target}: {error.strerror}", remedy="name another folder") from error
    peer_id = str(PeerId.from_public_key(identity.public_key))
    if as_json:
        click.echo(json.dumps({"peer_id": peer_id, "file": str(target.absolute()), "encrypted": encrypt}))
        return
    click.echo(f"the private key of {peer_id} is in {target}: keep it secret")
