"""`metainf records verify` and `stats`: every record looked at, alone and all together. Knows no running node."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import click

from node.adapters.snapshot_file import read_shipped
from node.cli.counting import counting
from node.cli.record_reading import Judged, Reading, Wanted, reading, unverified
from node.cli.record_words import UNNAMED, hardware_words, moment, verdict
from node.errors import ExitCode
from node.places import Places
from protocol.errors import RemoteProtocolError
from protocol.ids import PeerId, SwarmId
from protocol.performance import PERFORMANCE
from protocol.records import Fork, find_fork, verify_archived

TOP: Final = 10  # authors, models and devices that are told one by one


def verify_records(where: Places, swarm: SwarmId, names: Sequence[str], *, as_json: bool) -> int:
    """Verify the records of these names, or all and the proofs of forks; return the exit code."""
    failed: list[Judged] = []
    with reading(where, swarm) as book:
        total = len(names) or book.tables.totals()[0]
        checked = 0
        with counting("verifying", total) as tick:
            for judged in map(book.find, names) if names else book.pick(Wanted()):
                tick()
                checked += 1
                if judged.trouble:
                    failed.append(judged)
        forks = [(fork, _proves(fork, swarm)) for fork in ([] if names else book.tables.forks())]
    if as_json:
        document = {
            "checked": checked,
            "failed": [{"name": str(each.name), "trouble": each.trouble} for each in failed],
            "forks": [{"name": str(fork.name), "proven": proven} for fork, proven in forks],
        }
        click.echo(json.dumps(document, indent=2))
    else:
        for line in _lines(checked, failed, forks):
            click.echo(line)
    return ExitCode.FAILURE if failed or not all(proven for _, proven in forks) else ExitCode.OK


def _lines(checked: int, failed: Sequence[Judged], forks: Sequence[tuple[Fork, bool]]) -> Iterator[str]:
    for each in failed:
        yield f"{each.name}   {verdict(each)}"
    good = checked - len(failed)
    yield f"{good} of {checked} records are signed by their authors, and nothing speaks against what they say"
    for fork, proven in forks:
        what = "two records under this name, both signed: proven" if proven else "the proof of a fork DOES NOT VERIFY"
        yield f"{fork.name}   {what}"


def _proves(fork: Fork, swarm: SwarmId) -> bool:
    try:
        one, other = (verify_archived(each, PERFORMANCE, swarm=swarm) for each in (fork.first, fork.second))
    except RemoteProtocolError:
        return False
    return find_fork(one, other) == fork


# --- all together


def show_stats(where: Places, swarm: SwarmId, *, as_json: bool) -> int:
    """Print what the history is made of; nothing is verified."""
    with reading(where, swarm) as book:
        facts = _facts(book)
    facts["file"] = str(where.history_file(swarm))
    facts["swarm"] = str(swarm)
    shipped = read_shipped()
    facts["shipped"] = 0 if shipped is None else shipped.summary.records
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        for line in _stats_lines(facts):
            click.echo(line)
    return ExitCode.OK


def _facts(book: Reading) -> dict[str, Any]:
    records, authors, size = book.tables.totals()
    models, hardware, origins = Counter[str](), Counter[str](), Counter[str]()
    times: list[int] = []
    unreadable = 0
    with counting("reading", records) as tick:
        for sealed in book.sealed():
            tick()
            body = unverified(sealed)
            if body is None:
                unreadable += 1
                continue
            models[body.model.name or UNNAMED] += 1
            hardware[hardware_words(body.hardware)] += 1
            origins[body.origin] += 1
            times = [min([*times[:1], body.stamp.time]), max([*times[1:], body.stamp.time])]
    forks = book.tables.count_forks()
    return {
        "records": records,
        "mine": 0 if book.own is None else book.tables.records_of(book.own.key),
        "authors": authors,
        "bytes": size,
        "unreadable": unreadable,
        "forks": forks,
        "quarantined": forks,  # one proof is kept of each author
        "oldest_us": times[0] if times else None,
        "newest_us": times[1] if times else None,
        "origins": dict(origins.most_common()),
        "models": dict(models.most_common(TOP)),
        "hardware": dict(hardware.most_common(TOP)),
        "top_authors": {str(PeerId(key)): count for count, _, key in book.tables.authors_by_size(most=TOP)},
        "me": None if book.own is None else str(book.own),
    }


def _stats_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    yield f"swarm        {facts['swarm']}"
    yield f"file         {facts['file']}"
    yield f"records      {facts['records']} of {facts['authors']} authors, {facts['bytes'] / 2**20:.1f} MiB"
    yield f"mine         {facts['mine']}"
    yield f"shipped      {facts['shipped']} more beside the history: `metainf records snapshot` shows them"
    yield f"forks        {facts['forks']} proven, {facts['quarantined']} authors in quarantine"
    if facts["unreadable"]:
        yield f"unreadable   {facts['unreadable']}: `metainf records verify` names them"
    if facts["oldest_us"] is not None:
        yield f"from         {moment(facts['oldest_us'])}"
        yield f"to           {moment(facts['newest_us'])}"
    for title, field in (("origin", "origins"), ("model", "models"), ("hardware", "hardware")):
        for name, count in facts[field].items():
            yield f"{title:<12} {count:>8}  {name}"
    for name, count in facts["top_authors"].items():
        yield f"{'author':<12} {count:>8}  {name}" + (" (this node)" if name == facts["me"] else "")
