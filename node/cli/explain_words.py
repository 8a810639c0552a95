"""A node's decisions in words and tables for people, and the line of `metainf status` on how well it foretells.

Knows the documents of the control socket's pages and nothing of a router. Clients choose request ids, and peers the
names of models: what no terminal should be sent is left out of them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH: Final = 150  # of tables, at least: a narrow terminal wraps their lines, which is better than figures cut off
ENOUGH: Final = 1  # answers from which on calibration is told of
HERE: Final = "this node"
UNKNOWN: Final = "?"
# By the reason of a choice (`node.core.router.Choice`).
WHY: Final[Mapping[str, str]] = {
    "best": "it was foretold to be the best by what was asked for",
    "explore": "one prompt in a hundred goes where something may be found out",
    "fits": "of those that keep what was promised it costs the swarm least",
    "hedge": "who was asked before it was late with the first byte, and it was foretold to be sooner",
    "knock": "nobody takes prompts at the moment, and it may for this one",
    "least_work": "it has the least to do",
    "likeliest": "nobody is sure to keep what was promised; it is the likeliest to",
    "local": "this node's own engine: as good as the best, or there is nobody else to weigh",
    "near_equal": "several are as good as equal, and luck chooses among them",
    "next": "who was asked before it did not answer",
    "stored": "it keeps the answer that this one goes on from",
    "stranger": "those whom this node knows to be there are full, and it says of itself that it serves",
    "via": "the client named it",
}
# By what the prompt was decided by, where nothing was foretold.
UNWEIGHED: Final = "nothing was foretold: there was no choice, or routing.policy = least_outstanding"
OUTCOMES: Final[Mapping[str, str]] = {
    "running": "is still at it",
    "answered": "answered",
    "refused": "refused",
    "unreachable": "could not be reached",
    "broken": "broke off",
    "abandoned": "was left before the end",
    "outrun": "was left: another was first",
}
NAMES: Final[Mapping[str, str]] = {"ttft": "first tokens", "tpot": "further tokens"}
HEADS: Final = (
    "", "peer", "TTFT", "within", "TPOT", "within", "total", "±", "load", "cached", "corrected", "curve", "price",
    "TTFT seen", "TPOT seen", "total seen",
)  # fmt: skip
LEGEND: Final = (
    "within: the factor, either way, that nine of ten answers keep; total: for as many tokens as were expected;\n"
    "load: this prompt included, ~ where it is a guess, of so many slots; cached: tokens of the prompt;\n"
    "corrected: TTFT and TPOT, by what this node saw of the peer; > who answered or is at it, x who was asked too."
)
LIST_HEADS: Final = (
    "prompt", "ago", "of", "went to", "why", "tries", "outcome", "TTFT", "seen", "TPOT", "seen", "total", "seen",
)  # fmt: skip


def routing_line(facts: Mapping[str, Any]) -> str:
    """Return the line `routing` of `metainf status`, "" on a node by itself."""
    if not facts:
        return ""
    words = [_calibration(name, facts[key]) for key, name in NAMES.items() if facts[key]["answers"] >= ENOUGH]
    words = words or ["nothing to hold against what was foretold yet"]
    if facts["drifted"]:
        drifted = " and ".join(f"{NAMES[key]} (x{facts['drift'][key]['factor']:.3g})" for key in facts["drifted"])
        words.append(f"DRIFTED: {drifted} come no longer as foretold, `metainf doctor` says what to do")
    if facts["hedged"]:
        words.append(
            f"{facts['hedged']} late first tokens asked for elsewhere as well, {facts['hedges_won']} came from there"
        )
    if facts["resumed"]:
        words.append(f"{facts['resumed']} answers went on elsewhere")
    return "; ".join(words)


def _calibration(name: str, facts: Mapping[str, Any]) -> str:
    bias = math.expm1(facts["bias"])
    lean = f", {abs(bias):.0%} {'slower' if bias > 0 else 'faster'} on the whole" if abs(bias) >= 0.005 else ""
    held = f"{facts['coverage_90']:.0%} in their 90 % intervals"
    return f"{name} foretold within {math.expm1(facts['error']):.0%} (mean{lean}), {held}"


def prompts(told: Mapping[str, Any], console: "Console") -> None:
    """Print the latest prompts, a line each."""
    if not told["prompts"]:
        console.print("no prompt was decided about yet")
        return
    console.print(_table(LIST_HEADS, [_listed(each) for each in told["prompts"]], left=(0, 3, 4, 6)))


def _listed(each: Mapping[str, Any]) -> tuple[str, ...]:
    foretold = each["foretold"] or {}
    return (
        clean(each["request_id"]),
        seconds(each["age_s"]),
        str(each["candidates"] or ""),
        short(each["replica"]),
        clean(each["reason"] or ""),
        str(each["attempts"]),
        each["outcome"],
        *(
            words
            for key, seen in (("ttft_s", "ttft_s"), ("tpot_s", "tpot_s"), ("total_s", "latency_s"))
            for words in (seconds(foretold.get(key)), seconds(each[seen]))
        ),
    )


def prompt(told: Mapping[str, Any], console: "Console") -> None:
    """Print everything of one prompt."""
    for name, words in _facts(told):
        console.print(f"{name:<10}{words}", markup=False, soft_wrap=True)
    candidates: Sequence[Mapping[str, Any]] = told["candidates"]
    if not candidates:
        if told["choices"]:
            console.print(f"\n{UNWEIGHED}", markup=False, soft_wrap=True)
        return
    attempts = {each["replica"]: each for each in told["attempts"]}
    last = next((each["replica"] for each in reversed(told["attempts"]) if each["outcome"] != "outrun"), None)
    rows = [_candidate(each, attempts.get(each["replica"]), answering=each["replica"] == last) for each in candidates]
    console.print()
    console.print(_table(HEADS, rows, left=(0, 1, 11)))
    console.print(LEGEND, markup=False, soft_wrap=True)


def _facts(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "prompt", f"{clean(told['request_id'])}, {seconds(told['age_s'])} ago"
    if wanted := told["wanted"]:
        promises = [
            f"{name} below {seconds(wanted[key])}" for name, key in (("TTFT", "slo_ttft_s"), ("TPOT", "slo_tpot_s"))
            if wanted[key] is not None
        ]  # fmt: skip
        yield (
            "wanted",
            f"{clean(wanted['model'])} for about {wanted['prompt_tokens']} + {wanted['output_tokens']} tokens, "
            f"objective {wanted['objective'].removesuffix(':1')}"
            + (f", promised {' and '.join(promises)}" if promises else ""),
        )
    candidates = {each["replica"]: each for each in told["candidates"]}
    for each in told.get("earlier", ()):
        yield "before", _attempt(each, None)
    for each in told["attempts"]:
        yield "asked", _attempt(each, candidates.get(each["replica"]))
    for reason in dict.fromkeys(each["reason"] for each in told["attempts"]):
        yield "why", f"{reason}: {WHY.get(reason, 'as the policy says')}"
    if told["refused"] and not told["attempts"]:
        yield "refused", f"nobody was asked: {clean(told['refused'])}"


def _attempt(attempt: Mapping[str, Any], candidate: Mapping[str, Any] | None) -> str:
    """Say who was asked and what came, foretold values beside it."""
    foretold = {} if candidate is None else _foretold(candidate)
    seen = [
        f"{name} {seconds(attempt[key])}" + (f" (foretold {seconds(foretold[key])})" if key in foretold else "")
        for name, key in (("TTFT", "ttft_s"), ("TPOT", "tpot_s"), ("in all", "latency_s"))
        if attempt[key] is not None
    ]
    if attempt["output_tokens"] is not None:
        seen.append(f"{attempt['output_tokens']} tokens")
    outcome = OUTCOMES.get(attempt["outcome"], attempt["outcome"])
    return f"{attempt['replica']} {outcome}" + (f": {', '.join(seen)}" if seen else "")


def _foretold(candidate: Mapping[str, Any]) -> dict[str, float]:
    """Return what was foretold, under the names of what is seen: from here, way and turn included."""
    return {
        "ttft_s": candidate["net_s"] + candidate["turn_s"] + candidate["ttft_s"],
        "tpot_s": candidate["tpot_s"],
        "latency_s": candidate["total_s"],
    }


def _candidate(each: Mapping[str, Any], attempt: Mapping[str, Any] | None, *, answering: bool) -> tuple[str, ...]:
    foretold, seen = _foretold(each), attempt or {}
    peer = HERE if each["local"] else short(each["replica"])
    state = " (closed)" if each["closed"] else "" if each["connected"] else " (to dial)"
    return (
        ">" if answering else "x" if attempt is not None else "",
        peer + state,
        seconds(foretold["ttft_s"]),
        _times(each["ttft_factor_90"]),
        seconds(foretold["tpot_s"]),
        _times(each["tpot_factor_90"]),
        seconds(foretold["latency_s"]),
        f"{each['spread']:.0%}",
        _load(each),
        str(each["cached_tokens"] or ""),
        f"{_times(each['ttft_correction'])} {_times(each['tpot_correction'])}",
        each["source"],
        f"{each['price']:g}" if each["price"] is not None else "",
        seconds(seen.get("ttft_s")),
        seconds(seen.get("tpot_s")),
        seconds(seen.get("latency_s")),
    )


def _load(each: Mapping[str, Any]) -> str:
    slots = UNKNOWN if each["slots"] is None else str(each["slots"])
    return f"{'' if each['load_known'] else '~'}{each['load']:g}/{slots}"


def _times(factor: float | None) -> str:
    return UNKNOWN if factor is None else f"x{factor:.3g}"


def seconds(value: float | None) -> str:
    """Return a time in three digits and the unit that fits; "" where it is not known."""
    if value is None:
        return ""
    if value < 0.9995:
        return f"{value * 1000:.3g} ms"
    return f"{value:.3g} s" if value < 999.5 else f"{value / 60:.0f} min"


def short(peer: str | None) -> str:
    """Return the end of a peer's id, in which ids differ; `--json` has them whole."""
    return "" if peer is None else f"…{peer[-8:]}"


def clean(text: str) -> str:
    """Return a text that came from elsewhere without what would steer a terminal."""
    return "".join(each if each.isprintable() else UNKNOWN for each in text)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int]) -> "Table":
    """Return a table without the columns of which no row says anything. `left`: those of words."""
    from rich.table import Table  # noqa: PLC0415 -- `metainf status` has one line of this and no table
    from rich.text import Text  # noqa: PLC0415

    kept = [at for at in range(len(heads)) if any(row[at] for row in rows)]
    table = Table(box=None, pad_edge=False)
    for at in kept:
        table.add_column(heads[at], justify="left" if at in left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(row[at]) for at in kept))  # no markup: ids are clients' words
    return table
