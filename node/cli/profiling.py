"""What `metainf profile` does: looks at the hardware, measures where that is wanted, keeps it and tells it.

Imported when it is asked for and not before: it brings trio and rich along.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec
import trio
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from node.adapters.engine.install import describe
from node.cli import control_client
from node.core.capabilities import HELPER_OF, Capabilities
from node.core.profile import BUSY_SHARE, NOISY_SPREAD, Cpu, Figure, Gpu, Hardware, Measurement, Profile
from node.errors import EngineUnavailable, ExitCode, NodeError
from node.machine_profile import Found, Tell, find_capabilities, find_profile, hardware_now, kept_capabilities
from node.places import Places
from node.settings import EngineSection

ALIVE = ("preparing", "starting", "ready", "draining", "stopping")  # an engine's process has cores and memory
TITLES = {"gemv": "GEMV", "gemm": "GEMM", "copy": "copy", "attention": "decode attention", "allreduce": "all-reduce"}
SHOWN_WAYS = ("ngram", "ngram_gpu", "suffix", "mtp", "draft_model", "eagle", "eagle3", "medusa")  # that strategies know
PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the command line asked for."""

    engine: EngineSection
    again: bool
    seconds: float
    as_json: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A profile to be shown. `note` says why it was measured now, or why it has no figures; `failed`: the latter.

    `capabilities` are the engine's; None where this node has no engine of its own, or it cannot be run.
    """

    profile: Profile
    capabilities: Capabilities | None = None
    reused: bool = False
    note: str = ""
    remedy: str = ""
    failed: bool = False


def show_profile(where: Places, wish: Wish) -> int:
    """Find the profile out and print it; return the exit code."""
    outcome = find_out(where, wish)
    if wish.as_json:
        content = msgspec.to_builtins(outcome.profile)
        engine = msgspec.to_builtins(outcome.capabilities) if outcome.capabilities is not None else None
        more = {"capabilities": engine, "reused": outcome.reused, "note": outcome.note}
        click.echo(json.dumps({**content, **more}, indent=2))
    else:
        for line in (*_lines(outcome.profile), *_engine_lines(outcome.capabilities)):
            click.echo(line)
    if outcome.failed:
        click.secho(f"not measured: {outcome.note}", err=True, fg="red")
        if outcome.remedy:
            click.echo(f"   do: {outcome.remedy}", err=True)
    elif outcome.profile.measurement is None:
        click.echo(f"not measured: {outcome.note}", err=True)
    return ExitCode.FAILURE if outcome.failed else ExitCode.OK


def find_out(where: Places, wish: Wish) -> Outcome:
    """Return the profile: the kept one, or a new one where that is wanted or needed. Progress goes to stderr."""
    if not wish.engine.enabled or wish.engine.url is not None:
        return Outcome(profile=Profile(hardware=hardware_now()), note="this node runs no engine of its own")
    running = _engine_runs(where)

    def announce(why: str) -> None:
        if running:
            click.echo("a node runs here with its engine: the figures are taken beside it, and marked", err=True)
        click.echo(f"measuring: {why}", err=True)

    python = Path(wish.engine.python or sys.executable)

    async def found(tell: Tell) -> tuple[Found, Capabilities]:
        it = await find_profile(
            where.cache,
            python,
            engine_running=running,
            announce=announce,
            tell=tell,
            again=wish.again,
            seconds=wish.seconds,
        )
        if it.reused:  # what is kept is shown at once
            install = await describe(python)
            return it, await trio.to_thread.run_sync(kept_capabilities, where.cache, python, install.vllm)
        tell("asking vLLM what it takes", 1.0)
        return it, await find_capabilities(where.cache, python, again=wish.again)

    try:
        with _progress() as tell:
            it, capabilities = trio.run(found, tell)
    except EngineUnavailable as error:
        profile = Profile(hardware=hardware_now())
        return Outcome(profile=profile, note=error.message, remedy=error.remedy, failed=True)
    return Outcome(profile=it.profile, capabilities=capabilities, reused=it.reused, note=it.note)


def _engine_runs(where: Places) -> bool:
    try:
        return control_client.get_json(where.control_socket, "/status")["engine"]["state"] in ALIVE
    except (NodeError, KeyError, TypeError):
        return False


@contextmanager
def _progress() -> Iterator[Tell]:
    """Show a bar on a terminal; elsewhere one line for each thing that is done."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        last = ""

        def say(doing: str, share: float) -> None:
            nonlocal last
            if doing != last:
                click.echo(f"  {doing}", err=True)
            last = doing

        yield say
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=console, transient=True)
    task = bar.add_task("starting", total=1.0)

    def move(doing: str, share: float) -> None:
        bar.start()  # with the first step, so that kept figures are shown without one. Safe to repeat
        bar.update(task, description=doing, completed=share)

    try:
        yield move
    finally:
        bar.stop()


def _lines(profile: Profile) -> Iterator[str]:
    yield f"CPU       {_cpu_words(profile.hardware.cpu)}"
    if profile.hardware.cpu.isa:
        yield f"          {' '.join(profile.hardware.cpu.isa)}"
    yield from _gpu_lines(profile.hardware)
    if profile.measurement is None:
        return
    conditions = profile.measurement.conditions
    when = datetime.fromtimestamp(conditions.time_us / 1e6, UTC).astimezone()
    threads = "1 thread" if conditions.threads == 1 else f"{conditions.threads} threads"
    on = f"on the CPU, {threads}" if conditions.build == "cpu" else "on the GPU"
    yield f"measured  {when:%Y-%m-%d %H:%M}, torch {conditions.torch} {on}, in {conditions.seconds:.1f} s"
    yield from _doubts(profile.measurement)
    yield ""
    yield from _table(profile.measurement)


def _engine_lines(found: Capabilities | None) -> Iterator[str]:
    if found is None:
        return
    yield ""
    if not found.known:
        yield "engine    what it takes is not known yet; --again asks it"
        return
    yield f"engine    {found.engine} on {found.platform or 'an unknown platform'}, {len(found.options)} options"
    unasked = found.defaults
    words = [
        f"{unasked.max_num_seqs} sequences at once" if unasked.max_num_seqs else "",
        f"{unasked.max_num_batched_tokens} tokens a step" if unasked.max_num_batched_tokens else "",
        _switched("prefix caching", unasked.prefix_caching),
        _switched("chunked prefill", unasked.chunked_prefill),
        _switched("async scheduling", unasked.async_scheduling),
    ]
    yield f"unasked   {', '.join(word for word in words if word)}"
    ways = [
        way if found.drafts(way) else f"{way} (needs {HELPER_OF[way]})" for way in SHOWN_WAYS if way in found.methods
    ]
    yield f"drafts    {', '.join(ways) or 'none'}"
    if formats := found.choices.get("kv-cache-dtype"):
        yield f"cache     {', '.join(formats)}"
    for each in found.missing:
        yield f"   note: {each.part} could not be asked for: {each.why}"


def _switched(what: str, on: bool | None) -> str:
    return "" if on is None else f"{what} {'on' if on else 'off'}"


def _cpu_words(found: Cpu) -> str:
    words = [found.name or found.architecture, f"{found.cores} cores"]
    if found.quota_cores is not None:
        words.append(f"limited to {found.quota_cores:g}")
    words.append(f"{found.memory_bytes / 2**30:.1f} GiB")
    if found.cache_bytes:
        words.append(f"{found.cache_bytes / 2**20:.0f} MiB cache")
    if found.clock_max_mhz:
        words.append(f"up to {found.clock_max_mhz} MHz")
    if found.governors:
        words.append(f"governor {' and '.join(found.governors)}")
    if found.virtual:
        words.append("a virtual machine's")
    return ", ".join(words)


def _gpu_lines(hardware: Hardware) -> Iterator[str]:
    if not hardware.gpus:
        yield f"GPU       none: {hardware.gpu_trouble or 'the driver shows none'}"
        return
    for index, gpu in enumerate(hardware.gpus):
        yield f"GPU {index:<5} {_gpu_words(gpu)}"
    yield f"driver    {hardware.driver}" + (f", CUDA {hardware.cuda}" if hardware.cuda else "")
    if hardware.gpu_trouble:
        yield f"          {hardware.gpu_trouble}"


def _gpu_words(gpu: Gpu) -> str:
    facts: list[tuple[object, str]] = [
        (gpu.memory_bytes, f"{(gpu.memory_bytes or 0) / 2**30:.0f} GiB"),
        (gpu.capability, f"compute {gpu.capability}"),
        (gpu.sm_clock_max_mhz, f"up to {gpu.sm_clock_max_mhz} MHz"),
        (gpu.power_limit_mw, f"{(gpu.power_limit_mw or 0) / 1000:.0f} W"),
        (gpu.temperature_c, f"{gpu.temperature_c} °C"),
        (gpu.pcie_generation, f"PCIe {gpu.pcie_generation} x{gpu.pcie_width or '?'}"),
        (gpu.nvlinks, f"{gpu.nvlinks} NVLinks"),
        (gpu.mig, f"cut into {len(gpu.mig_slices_bytes)} MIG slices"),
        (gpu.ecc, "ECC"),
        (gpu.processes, f"{gpu.processes} processes on it with {(gpu.processes_memory_bytes or 0) / 2**30:.1f} GiB"),
    ]
    return ", ".join([gpu.name, *(words for known, words in facts if known)])


def _doubts(measurement: Measurement) -> Iterator[str]:
    conditions = measurement.conditions
    if conditions.engine_running:
        yield "   note: measured beside the node's engine; stop it and use --again for figures of the bare machine"
    if conditions.foreign_cpu is not None and conditions.foreign_cpu > BUSY_SHARE:
        yield f"   note: other programs had {conditions.foreign_cpu:.0%} of the CPU; try --again when it is idle"
    noisy = [figure for figure in measurement.figures if figure.spread > NOISY_SPREAD]
    if noisy:
        yield f"   note: {len(noisy)} of {len(measurement.figures)} figures spread by more than {NOISY_SPREAD:.0%}"


def _table(measurement: Measurement) -> Iterator[str]:
    rows = [("", "", "", "median", "spread", "samples")]
    rows += [_row(figure) for figure in measurement.figures]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        left = [text.ljust(width) for text, width in zip(row[:3], widths[:3], strict=True)]
        right = [text.rjust(width) for text, width in zip(row[3:], widths[3:], strict=True)]
        yield "  ".join([*left, *right]).rstrip()
    for each in measurement.absent:
        yield f"{TITLES[each.kind]} {each.dtype}: not here ({each.reason})"


def _row(figure: Figure) -> tuple[str, ...]:
    samples = f"{figure.samples}" + (f" of {figure.samples + figure.disturbed}" if figure.disturbed else "")
    where = "" if figure.device == "cpu" else f" on {figure.device}"
    return (
        TITLES[figure.kind] + where,
        figure.dtype,
        figure.shape,
        _amount(figure),
        f"{figure.spread:.1%}",
        samples,
    )


def _amount(figure: Figure) -> str:
    if figure.unit == "s":
        return f"{figure.median * 1e6:.1f} us"
    scale, prefix = next((each for each in PREFIXES if figure.median >= each[0]), PREFIXES[-1])
    return f"{figure.median / scale:.2f} {prefix}{figure.unit}"
