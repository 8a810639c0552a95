"""The `metainf` command: its verbs, and how an error becomes words and an exit code.

Imports neither torch nor libp2p nor vllm, and nothing of a running node: `metainf --help` is instant.
"""

import json
import sys
from collections.abc import Sequence

import click

from node.cli.account import account
from node.cli.api_keys import api_key
from node.cli.bundle import bundle
from node.cli.config import config
from node.cli.doctor import doctor
from node.cli.explain import explain
from node.cli.keys import key
from node.cli.learn import learn
from node.cli.options import VERSION
from node.cli.pausing import pause, resume
from node.cli.profile import profile
from node.cli.records import records
from node.cli.strategy import strategy
from node.cli.swarm import swarm
from node.cli.talk import ask, models, peers, status
from node.cli.up import up
from node.errors import ExitCode, NodeError


@click.group(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})
def metainf() -> None:
    """Run a node that serves language models through an OpenAI-compatible API, and talk to it.

    \b
      metainf up                start the node in the foreground
      metainf ask "Why?"        ask the running node
      metainf status            what it is doing
      metainf peers             who else is there
      metainf explain           why a prompt went where it went, and what came of it
      metainf account           what was used of peers and by them, owed and due
      metainf doctor            what is wrong, and what to do
      metainf bundle            a report for somebody who is to help, without secrets
      metainf profile           what this machine can do
      metainf records           what was measured, here and by others
      metainf learn             train, predict, explain and evaluate the choice of a strategy
      metainf strategy          which one the engine runs and why, and your word in it
      metainf swarm             a private swarm: found it, invite, join, revoke
      metainf pause             the device is yours, until metainf resume
    """  # noqa: D301 -- click's mark for text that is not to be re-wrapped


@metainf.command()
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def version(as_json: bool) -> None:
    """Print the version."""
    click.echo(json.dumps({"version": VERSION}) if as_json else f"metainf {VERSION}")


for verb in (
    up,
    status,
    peers,
    models,
    ask,
    explain,
    account,
    doctor,
    bundle,
    config,
    key,
    api_key,
    profile,
    records,
    learn,
    strategy,
    swarm,
    pause,
    resume,
):
    metainf.add_command(verb)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; return its exit code. No arguments: help, and nothing is started."""
    try:
        code = metainf.main(list(arguments), prog_name="metainf", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as help_wanted:
        click.echo(help_wanted.format_message())
        return ExitCode.OK if not arguments else ExitCode.USAGE
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except click.Abort:
        return ExitCode.INTERRUPTED
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # `metainf status | head`
        sys.stderr.close()
        return ExitCode.OK
    except NodeError as error:
        click.secho(f"error: {error.message}", err=True, fg="red")
        if error.remedy:
            click.echo(f"   do: {error.remedy}", err=True)
        return error.exit_code
    return code if isinstance(code, int) else ExitCode.OK
