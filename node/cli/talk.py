"""`metainf status`, `peers`, `models`, `ask`: verbs that speak to the running node over its control socket."""

import json
import math
import sys
from collections.abc import Iterator
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import click

from node.cli import account, control_client, explain_words, peer_words, strategy_words
from node.cli.options import data_dir_option, json_option, places_of
from node.errors import NodeError, Unavailable

MAX_STDIN_BYTES = 32 << 20  # as large as the API takes a body


@click.command()
@data_dir_option
@json_option
def status(data_dir: Path | None, as_json: bool) -> None:
    """Show what the running node is doing."""
    facts = control_client.get_json(places_of(data_dir).control_socket, "/status")
    if as_json:
        click.echo(json.dumps(facts))
        return
    _tell_itself(facts)
    _tell_engine(facts["engine"])
    click.echo(f"records   {_history(facts['records'])}")
    click.echo(f"trials    {_trials(facts.get('trials', {}))}")
    click.echo(f"learner   {_learner(facts.get('learner', {}))}")
    click.echo(f"tuner     {strategy_words.line(facts.get('tuner', {}))}")
    lines = {
        "clock": peer_words.clock(facts),
        "owner": strategy_words.owner_line(facts.get("owner", {})),
        "routing": explain_words.routing_line(facts.get("routing", {})),
        "account": account.status_line(facts.get("account", {})),
    }
    for name, line in lines.items():
        if line:
            click.echo(f"{name:<10}{line}")
    counts = ", ".join(f"{value} {name}" for name, value in facts["requests"].items())
    click.echo(f"requests  {counts}")


def _tell_itself(facts: dict[str, Any]) -> None:
    click.echo(f"node      {facts['name'] or facts['peer_id']}")
    click.echo(f"peer id   {facts['peer_id']}")
    click.echo(f"up        {_duration(facts['uptime_s'])}, version {facts['version']}")
    click.echo(f"api       {facts['api_url']}")
    for address in facts["addresses"]:
        click.echo(f"reached   {address}")
    click.echo(f"swarm     {facts['swarm'] or 'none'}: {peer_words.company(facts)}")
    for line in (*_privacy(facts), *peer_words.bootstraps(facts)):
        click.echo(f"          | {line}")


def _tell_engine(engine: dict[str, Any]) -> None:
    click.echo(f"engine    {engine['state']}: {engine['reason']}")
    if engine["model"]:
        click.echo(f"model     {engine['model']}, strategy {engine['strategy']}")
    if engine["restarts"]:
        click.echo(f"restarts  {engine['restarts']}")
    for line in engine["log_tail"]:
        click.echo(f"          | {line}")


def _privacy(facts: dict[str, Any]) -> Iterator[str]:
    """Say of a private swarm what its owner should know, and where another one answers."""
    private = facts.get("private_swarm")
    if private is not None:
        words = f"no member: {private['trouble']}" if private["trouble"] else ", ".join(private["roles"])
        yield f"private: {words}; {private['members']} members seen, {private['revoked']} revoked"
    others = facts.get("other_swarms") or {}
    named = {row["address"] for row in facts.get("bootstraps", ())}  # these have lines of their own
    for address, why in others.get("dialled", {}).items():
        if address not in named:
            yield f"{address}: {why}"
    if others.get("strangers"):
        yield f"{others['strangers']} handshakes came with another swarm's key, or an old one"


def _history(records: dict[str, Any]) -> str:
    words = [f"{records['total']} of {records['authors']} authors, {records['written']} written here since the start"]
    if records.get("key_forked"):
        words.append("your key has forked: another machine writes under it, and nothing new of either is believed")
    if records["quarantined"]:
        words.append(f"{records['quarantined']} authors in quarantine")
    if records["rejected"]:
        words.append(f"not believed: {peer_words.counted(records['rejected'])}")
    return "; ".join(words)


def _trials(trials: dict[str, Any]) -> str:
    words = [trials.get("state", "off")]
    if trials.get("of"):
        words.append(f"{trials['cells']} of {trials['of']} cells complete")
    if trials.get("discarded_share") is not None:
        words.append(f"{trials['discarded_share']:.0%} of the trials discarded")
    if trials.get("last_reason"):
        words.append(f"the last run ended: {trials['last_reason']}")
    return ", ".join(words)


def _learner(learner: dict[str, Any]) -> str:
    state, reason = learner.get("state", "off"), learner.get("reason")
    words = [f"{state}: {reason}" if reason else state]
    if learner.get("trained_at"):
        took = f"in {learner['train_s'] or 0:.0f} s at {learner['trained_at']}"
        words.append(f"learnt from {learner['records_used']} records of {learner['authors']} authors {took}")
    if learner.get("error_median") is not None:
        words.append(f"half of its forecasts within {math.expm1(learner['error_median']):.0%}")
    if learner.get("coverage_90") is not None:
        words.append(f"its 90 % intervals hold {learner['coverage_90']:.0%}")
    if learner.get("doubted"):
        words.append(f"{len(learner['doubted'])} authors doubted")
    if learner.get("restarts"):
        words.append(f"restarted {learner['restarts']} times")
    return ", ".join(words)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


@click.command()
@click.option("--ids", is_flag=True, help="Show whole peer ids, as `ask --via` wants them.")
@data_dir_option
@json_option
def peers(ids: bool, data_dir: Path | None, as_json: bool) -> None:
    """List the nodes that the running node knows: by which way, how far, how they stand and why, what they serve."""
    answer = control_client.get_json(places_of(data_dir).control_socket, "/peers")
    if as_json:
        click.echo(json.dumps(answer))
        return
    if not answer["peers"]:
        click.echo("nobody else is known", err=True)
    for line in peer_words.table(answer["peers"], ids=ids):
        click.echo(line)
    for outcast in answer.get("outcasts", ()):
        click.echo(f"{outcast['peer_id']}   parted from for a while: {peer_words.counted(outcast['offences'])}")
    edge = answer.get("edge", {})
    for who, seconds in (*edge.get("banned_addresses", {}).items(), *edge.get("banned_peers", {}).items()):
        click.echo(f"{who}   not let in for {seconds} s: what it began failed again and again")
    if answer.get("rejected_records"):
        click.echo(f"records not believed: {peer_words.counted(answer['rejected_records'])}")


@click.command()
@data_dir_option
@json_option
def models(data_dir: Path | None, as_json: bool) -> None:
    """List the models that the running node answers for: its own, and those of the swarm."""
    answer = control_client.get_json(places_of(data_dir).control_socket, "/v1/models")
    if as_json:
        click.echo(json.dumps(answer))
        return
    for model in answer["data"]:
        length = model.get("max_model_len")
        click.echo(f"{model['id']}" + (f"   up to {length} tokens" if length else ""))


@click.command()
@click.argument("prompt", required=False)
@click.option("--model", help="Which model; default: the node's own.")
@click.option("--via", metavar="PEER", help="Let this node of the swarm answer and no other: its peer id.")
@click.option("--system", help="A system message.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=1024, show_default=True, help="Longest answer.")
@click.option("--temperature", type=click.FloatRange(0, 2))
@click.option("--timeout", type=click.FloatRange(min=1), help="Seconds without a byte after which to give up.")
@data_dir_option
@json_option
def ask(
    prompt: str | None,
    model: str | None,
    via: str | None,
    system: str | None,
    max_tokens: int,
    temperature: float | None,
    timeout: float | None,
    data_dir: Path | None,
    as_json: bool,
) -> None:
    """Ask the running node, and stream the answer to the terminal. Without PROMPT it is read from standard input."""
    socket_path = places_of(data_dir).control_socket
    text = prompt if prompt is not None else sys.stdin.read(MAX_STDIN_BYTES)
    if not text.strip():
        raise click.UsageError("nothing to ask: give a PROMPT, or pipe one in")
    model = model or _first_model(socket_path)
    messages = ([{"role": "system", "content": system}] if system else []) + [{"role": "user", "content": text}]
    body: dict[str, Any] = {"model": model, "messages": messages, "stream": not as_json, "max_tokens": max_tokens}
    body |= {"temperature": temperature} if temperature is not None else {}
    headers = {"x-metainf-via": via} if via else {}
    with control_client.request(
        socket_path, "POST", "/v1/chat/completions", body, headers=headers, timeout=timeout
    ) as response:
        if response.status != 200:
            raise _refusal(response)
        if as_json:
            click.echo(response.read().decode())
            return
        for piece in _pieces(response):
            click.echo(piece, nl=False)
            sys.stdout.flush()
    click.echo()


def _first_model(socket_path: Path) -> str:
    listed = control_client.get_json(socket_path, "/v1/models")["data"]
    if not listed:
        raise Unavailable("the node serves no model at the moment", remedy="`metainf status` says why")
    return str(listed[0]["id"])


def _refusal(response: HTTPResponse) -> NodeError:
    try:
        return control_client.error_in(json.loads(response.read()), response.status)
    except ValueError:
        return control_client.error_in(None, response.status)


def _pieces(response: HTTPResponse) -> Iterator[str]:
    """Yield the answer's text as it comes.

    Raises:
        Unavailable: the answer broke off, with what the node says of it.
    """
    for line in response:
        data = line.removeprefix(b"data: ").strip()
        if not line.startswith(b"data: ") or data == b"[DONE]":
            continue
        event = json.loads(data)
        if "error" in event:
            click.echo()
            raise control_client.error_in(event, 500)
        for choice in event.get("choices", ()):
            yield choice.get("delta", {}).get("content") or ""
