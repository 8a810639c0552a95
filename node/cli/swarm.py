"""`metainf swarm`: a private swarm created, invited to, joined, looked at, and parted from."""

import json
import re
import shutil
import sys
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from node.cli import control_client, founding
from node.cli.founding import Invited
from node.cli.options import data_dir_option, json_option, places_of
from node.errors import ConfigError, NodeError
from node.places import Places
from protocol import limits
from protocol.ids import InvalidId, PeerId
from protocol.membership import MemberRole

ROLES: Final = tuple(sorted(role.value for role in MemberRole))
TOKEN_READ: Final = 16 << 10  # characters of standard input that a token may be somewhere in
RESTART: Final = "restart the node, if it runs: it reads this at its start"
_LIFE = re.compile(r"(\d{1,4})([hdw])", re.ASCII)
_UNITS: Final = {"h": 3600, "d": 86_400, "w": 7 * 86_400}


class Life(click.ParamType):
    """How long something counts: `12h`, `30d`, `8w`. Microseconds."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read one."""
        if isinstance(value, int):
            return value
        found = _LIFE.fullmatch(str(value).strip())
        life = 0 if found is None else int(found[1]) * _UNITS[found[2]] * limits.SECOND_US
        if not 0 < life <= limits.LIFETIME_MAX_US:
            self.fail(
                f"{value!r}: write 12h, 30d or 8w, at most {limits.LIFETIME_MAX_US // limits.DAY_US}d", param, ctx
            )
        return life


address_option = click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="MULTIADDR",
    help="Where newcomers find the swarm; may be repeated.",
)


@click.group()
def swarm() -> None:
    """Have a swarm to yourselves: with a key of its own, and members by invitation.

    \b
      metainf swarm create my-team        found it, on the machine that is to administer it
      metainf swarm invite                a token for a newcomer: send it as you would a password
      metainf swarm join -                join, with the token on standard input
      metainf swarm members               who belongs to it
      metainf swarm revoke PEER           put a member out
    """  # noqa: D301 -- click's mark for text that is not to be re-wrapped


@swarm.command()
@click.argument("name")
@data_dir_option
@json_option
def create(name: str, data_dir: Path | None, as_json: bool) -> None:
    """Found a private swarm called NAME; this node becomes its administrator's, and its first member."""
    where = places_of(data_dir)
    membership = founding.create(where, name)
    file = where.administrator_file(membership.swarm)
    facts = {
        "swarm": str(membership.swarm),
        "administrator": str(membership.administrator),
        "administrator_key_file": str(file),
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    click.echo(f"the private swarm {membership.swarm} is founded")
    click.echo(f"its administrator's key is in {file}: keep a copy in a safe place", err=True)
    click.echo(f"{RESTART}; then `metainf swarm invite`", err=True)


@swarm.command()
@click.option("--role", "roles", multiple=True, type=click.Choice(ROLES), help="May be repeated; default: every one.")
@click.option("--expires", "life", type=Life(), default="90d", show_default=True, metavar="TIME", help="12h, 30d, 8w.")
@click.option("--peer", metavar="PEER", help="For the node of this peer id alone: of no use to anybody else.")
@click.option("--qr", is_flag=True, help="Draw the token as a QR code, too.")
@address_option
@data_dir_option
@json_option
def invite(
    roles: tuple[str, ...],
    life: int,
    peer: str | None,
    qr: bool,
    addresses: tuple[str, ...],
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Print a token that makes a node a member, as often as it is used until it expires, unless --peer is given.

    Nobody needs to be asked when it is used. Membership ends when the token expires. Make one for each person: then
    it can be revoked without harm to the others.
    """
    where = places_of(data_dir)
    invited = founding.invite(
        where,
        roles=roles or ROLES,
        life_us=life,
        addresses=addresses or _reached(where),
        peer=None if peer is None else _peer(peer),
    )
    _print_token(invited, as_json)
    if as_json:
        return
    if qr:
        _draw(invited.token)
    whose = "the node that it names" if invited.peer else "whoever has it"
    click.echo(
        f"{whose} can join {invited.swarm} with it until {_day(invited.until)}: {', '.join(invited.roles)}", err=True
    )
    if invited.invitation is not None:
        click.echo(f"to take it back, and whoever came by it: metainf swarm revoke {invited.invitation}", err=True)
    click.echo("it holds the swarm's key: send it as you would a password. There: metainf swarm join -", err=True)


@swarm.command()
@click.argument("token", required=False)
@data_dir_option
@json_option
def join(token: str | None, data_dir: Path | None, as_json: bool) -> None:
    """Join a private swarm with TOKEN; without it, or with `-`, it is read from standard input.

    On a command line other users of this machine could read it in the list of processes.
    """
    where = places_of(data_dir)
    membership, member = founding.join(where, token if token not in (None, "-") else _typed())
    facts = {
        "swarm": str(membership.swarm),
        "administrator": str(membership.administrator),
        "peer_id": str(member.peer),
        "roles": sorted(member.roles),
        "until": member.until // limits.SECOND_US,
        "addresses": [str(each) for each in membership.addresses],
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    click.echo(f"this node belongs to {membership.swarm} until {_day(member.until)}: {', '.join(facts['roles'])}")
    click.echo(RESTART, err=True)


@swarm.command()
@data_dir_option
@json_option
def members(data_dir: Path | None, as_json: bool) -> None:
    """List the members that this node knows, and what is revoked."""
    where = places_of(data_dir)
    document = _running(where) or _from_files(where)
    if as_json:
        document.pop("revocations", None)
        click.echo(json.dumps(document))
        return
    click.echo(f"{document['swarm']}, administered by {document['administrator']}")
    if document["trouble"]:
        click.echo(f"this node is no member: {document['trouble']}", err=True)
    for each in document["members"]:
        here = "   this node" if each["this_node"] else ""
        click.echo(
            f"{each['peer_id']}   {', '.join(each['roles'])}, until {_day(each['until'] * limits.SECOND_US)}{here}"
        )
        if each["invitation"]:
            click.echo(f"    came by invitation {each['invitation']}")
    for each in document["revoked"]:
        click.echo(f"{each['id']}   revoked {_day(each['at'] * limits.SECOND_US)}")
    if not document["running"]:
        click.echo("no node is running here: only what its files say", err=True)


@swarm.command()
@click.argument("peer")
@click.option("--keep-invitation", is_flag=True, help="Leave the invitation that it came by in force.")
@click.option("--with-others", is_flag=True, help="Put out whoever else came by that invitation, too.")
@data_dir_option
@json_option
def revoke(peer: str, keep_invitation: bool, with_others: bool, data_dir: Path | None, as_json: bool) -> None:
    """Put the member PEER out, or all who came by an invitation.

    With a member goes the invitation that it came by, or it would come again under another name.
    """
    where, target = places_of(data_dir), _peer(peer)
    founding.office_of(where)
    document = _running(where)
    known = [] if document is None else document["members"]
    targets = (target, *(() if keep_invitation else _invitation_of(target, known, with_others)))
    if any(each["this_node"] and _named(each, targets) for each in known):
        raise ConfigError("that would put out this very node", remedy="revoke others, or `metainf swarm leave`")
    current = None if document is None or document["revocations"] is None else b64decode(document["revocations"])
    signed = founding.next_revocations(where, current, targets)
    spread = False
    if document is not None:
        body = {"revocations": b64encode(signed.sealed).decode()}
        control_client.get_json(where.control_socket, "/swarm/revocations", method="POST", body=body)
        spread = True
    if as_json:
        click.echo(json.dumps({"revoked": [str(each) for each in targets], "published": spread}))
        return
    click.echo(f"revoked: {', '.join(map(str, targets))}")
    said = "members hear of it now" if spread else "no node is running here: members hear of it when it is started"
    click.echo(f"{said}; `metainf swarm rotate` also changes the key, which the revoked still have", err=True)
    if document is None and not keep_invitation:
        click.echo("which invitation it came by is known to a running node alone: revoke that, too", err=True)


@swarm.command()
@address_option
@data_dir_option
@json_option
def rotate(addresses: tuple[str, ...], data_dir: Path | None, as_json: bool) -> None:
    """Give the swarm a new key, and print the token that brings it to the members.

    Until a member has it, it is alone; so is this node, once it was restarted. Invitations made before count no
    more for newcomers, as they hold the old key.
    """
    where = places_of(data_dir)
    invited = founding.rotate(where, addresses or _reached(where))
    _print_token(invited, as_json)
    if not as_json:
        click.echo("send it to every member but those who are revoked. There: metainf swarm join -", err=True)
        click.echo("then restart the nodes, this one too", err=True)


@swarm.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@data_dir_option
@json_option
def leave(yes: bool, data_dir: Path | None, as_json: bool) -> None:
    """Forget the swarm's key and this node's certificate: at its next start it is of the public swarm again."""
    where = places_of(data_dir)
    membership = founding.membership_of(where)
    if not yes and not as_json and sys.stdin.isatty():
        click.confirm(f"Leave {membership.swarm}? To come back takes a new token.", abort=True)
    left, administers = founding.leave(where)
    if as_json:
        click.echo(json.dumps({"left": str(left), "administrator_key_kept": administers}))
        return
    click.echo(f"left {left}; {RESTART}")
    if administers:
        click.echo(f"the administrator's key stays in {where.administrator_file(left)}", err=True)


def _print_token(invited: Invited, as_json: bool) -> None:
    if not as_json:
        click.echo(invited.token)
        return
    facts: dict[str, Any] = {
        "token": invited.token,
        "swarm": str(invited.swarm),
        "roles": list(invited.roles),
        "until": invited.until // limits.SECOND_US,
        "addresses": list(invited.addresses),
        "invitation": None if invited.invitation is None else str(invited.invitation),
        "peer": None if invited.peer is None else str(invited.peer),
    }
    click.echo(json.dumps(facts))


def _draw(token: str) -> None:
    """Draw a token where it fits: a code with its lines broken is read by nothing."""
    from node.adapters import qr  # noqa: PLC0415 -- for this alone

    wanted, there = qr.columns(token), shutil.get_terminal_size().columns
    if there < wanted:
        click.echo(f"the code takes {wanted} columns and this terminal has {there}: make it wider", err=True)
    else:
        click.echo(qr.drawn(token), nl=False)


def _typed() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Token", hide_input=True, err=True))
    return sys.stdin.read(TOKEN_READ)


def _peer(text: str) -> PeerId:
    try:
        return PeerId.from_string(text)
    except InvalidId as error:
        raise ConfigError(
            f"{text[:80]!r} is no peer id: {error}", remedy="`metainf swarm members` lists them"
        ) from error


def _running(where: Places) -> dict[str, Any] | None:
    """Return what the running node knows of its private swarm; None where none runs, or it runs in another."""
    try:
        document = control_client.get_json(where.control_socket, "/swarm")
    except NodeError:
        return None
    of_this = document["swarm"] == str(founding.membership_of(where).swarm)
    return {**document, "running": True} if of_this else None


def _from_files(where: Places) -> dict[str, Any]:
    known, me = founding.standing(where)
    own, trouble = known.own(me, founding.now_us())
    current = known.revocations
    mine = (
        {}
        if own is None
        else {
            "peer_id": str(me),
            "roles": sorted(own.roles),
            "invitation": None if own.came_by is None else str(own.came_by),
            "since": own.since // limits.SECOND_US,
            "until": own.until // limits.SECOND_US,
            "this_node": True,
        }
    )
    revoked = () if current is None else current.body.revoked
    return {
        "swarm": str(known.membership.swarm),
        "administrator": str(known.membership.administrator),
        "trouble": trouble,
        "members": [mine] if mine else [],
        "revoked": [{"id": str(each.peer), "at": each.time // limits.SECOND_US} for each in revoked],
        "running": False,
    }


def _reached(where: Places) -> tuple[str, ...]:
    """Return where the swarm's nodes are reached now: this one first; else what the last token said."""
    try:
        own = control_client.get_json(where.control_socket, "/status")["addresses"]
        others = control_client.get_json(where.control_socket, "/peers")["peers"]
    except NodeError:
        return tuple(str(each) for each in founding.membership_of(where).addresses)
    connected = (address for peer in others if peer["connected"] for address in peer.get("addresses", ())[:1])
    return (*own[:4], *connected)


def _invitation_of(target: PeerId, known: list[dict[str, Any]], with_others: bool) -> tuple[PeerId, ...]:
    came_by = next((each["invitation"] for each in known if each["peer_id"] == str(target)), None)
    if came_by is None:
        return ()
    others = [each["peer_id"] for each in known if each["invitation"] == came_by and each["peer_id"] != str(target)]
    if others and not with_others:
        raise ConfigError(
            f"{len(others)} others came by the same invitation, which goes with it: {', '.join(others)}",
            remedy="--with-others puts them out, too; --keep-invitation leaves a way back to whoever has the token",
        )
    return (PeerId.from_string(came_by),)


def _named(member: dict[str, Any], targets: tuple[PeerId, ...]) -> bool:
    return not {member["peer_id"], member["invitation"]}.isdisjoint(map(str, targets))


def _day(at_us: int) -> str:
    return datetime.fromtimestamp(at_us / limits.SECOND_US, UTC).strftime("%Y-%m-%d %H:%M UTC")
