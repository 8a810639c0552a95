"""A load made like the traffic that a node gets: the same shape, of made-up words, for trials of its own strategies.

Knows a description of traffic; knows no engine, no clock and nothing that anybody said. The description is rounded
first: lengths, rate and latency to powers of the square root of two, shares to tenths. So two descriptions of one
traffic give one load, trials of it go on over days, and a record tells of the traffic no more than that.

Time in which nothing runs tells nothing of a strategy: where prompts come one by one, the gaps are cut to a little more
than an answer takes. Where they come together, they come as they do.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, pstdev
from typing import Final, TypeVar

from node.core.workload import Description
from node.core.workloads import MIRROR, Lengths, Load, Part, Request, Words, describe

SECONDS: Final = 10.0  # between first and last arrival: a trial lasts that and an answer
LONGEST: Final = 30.0  # s that are borne for LEAST requests; beyond, there are FEW
MOST, LEAST, FEW = 32, 8, 4  # requests
ALONE: Final = 1.25  # times an answer's latency: a gap in which the engine is done, whatever the strategy
SIMPLE_LATENCY: Final = 4.0  # s, where nobody knows
OUTPUT_SHARE: Final = 0.5  # of the context that an answer may take at most
COPIED_AGAIN: Final = 5  # a fifth of a prompt that asks for a copy is the passage's beginning once more
LEAST_COPIED: Final = 10  # tokens of such a prompt, without what it shares: shorter, there is nothing to copy
STEEPEST: Final = 6.0  # power by which lengths rise to their p95: steeper, the p95 is one request's alone
SHARE_STEPS: Final = 10
VARIATION_STEP: Final = 0.25
MOST_VARIATION: Final = 3.0
NAME_CHARS: Final = 8  # of a digest's hexadecimal digits: one node's loads are told apart
_UNKNOWN: Final = Lengths(mean=256, p50=256, p95=1024)  # where neither answers nor counters tell: a chat's
_NORMAL: Final = NormalDist()

_Item = TypeVar("_Item")


def mirror(description: Description, *, max_model_len: int, seed: int = 1) -> Load:
    """Return the load; the same description gives the same, everywhere. Its name in a plan tells it from others.

    Args:
        max_model_len: tokens of the longest prompt and answer together.
    """
    words = Words(MIRROR, seed)
    latency = _rooted(description.latency_s or SIMPLE_LATENCY)
    gap = min(1 / _rooted(description.requests_per_s), ALONE * latency) if description.requests_per_s else latency
    count = _count(gap)
    variation = min(_stepped(description.burstiness or 0.0, VARIATION_STEP), MOST_VARIATION)
    if gap >= ALONE * latency:
        variation = 0.0  # one by one: how irregularly, no engine notices
    longest_output = max(int(max_model_len * OUTPUT_SHARE), 2)
    outputs = [
        min(max(each, 2), longest_output) for each in _drawn(description.output_tokens or _UNKNOWN, count, words)
    ]
    prompts = [
        max(min(each, max_model_len - output), 1)
        for each, output in zip(_drawn(description.prompt_tokens or _UNKNOWN, count, words), outputs, strict=True)
    ]
    prefix = _stepped(description.shared_prefix_share or 0.0, 1 / SHARE_STEPS)
    groups = min(max(description.prefix_groups or 1, 1), count // 2)
    begins = _prefixes(prefix, groups, prompts, words)
    copied = _stepped(description.copy_share or 0.0, 1 / SHARE_STEPS)
    able = [prompt - (begins[0].tokens if begins else 0) >= LEAST_COPIED for prompt in prompts]
    made = _chosen(copied, outputs, able)
    arrivals = _arrivals(gap, variation, count, words)
    requests = tuple(
        Request(at_us=at, parts=_parts(begins, index, prompt, copies=copies, words=words), max_tokens=output)
        for index, (at, prompt, output, copies) in enumerate(zip(arrivals, prompts, outputs, made, strict=True))
    )
    digest = hashlib.sha256(repr(requests).encode()).hexdigest()[:NAME_CHARS]
    return Load(workload=describe(MIRROR, requests), requests=requests, mark=digest)


def _count(gap: float) -> int:
    wanted = min(max(round(SECONDS / gap), LEAST), MOST)
    return wanted if wanted * gap <= LONGEST else max(math.floor(LONGEST / gap), FEW)


@dataclass(frozen=True, slots=True)
class _Prefix:
    part: Part
    tokens: int  # that each of the group begins with; fewer where its prompt is shorter


def _prefixes(share: float, groups: int, prompts: Sequence[int], words: Words) -> Sequence[_Prefix]:
    """Return prefixes as long as makes them that share of all tokens of the prompts."""
    wanted, low, high = share * sum(prompts), 0, max(prompts)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if sum(min(middle, each - 1) for each in prompts) <= wanted else (low, middle - 1)
    return tuple(_Prefix(words.part(low), low) for _ in range(groups)) if low else ()


def _chosen(share: float, outputs: Sequence[int], able: Sequence[bool]) -> list[bool]:
    """Return which requests are to be answered with a copy, so that it is that share of all answers' tokens.

    First come, then one more or one less as long as that comes nearer.
    """
    made, missing = [False] * len(outputs), share * sum(outputs)
    for index, output in enumerate(outputs):
        if able[index] and output / 2 <= missing:
            made[index], missing = True, missing - output
    while True:
        turns = [(abs(missing + (output if taken else -output)), index) for index, (output, taken) in
                 enumerate(zip(outputs, made, strict=True)) if able[index]]  # fmt: skip
        nearest, index = min(turns, default=(math.inf, 0))
        if nearest >= abs(missing):
            return made
        missing += outputs[index] if made[index] else -outputs[index]
        made[index] = not made[index]


def _parts(prefixes: Sequence[_Prefix], index: int, prompt: int, *, copies: bool, words: Words) -> tuple[Part, ...]:
    begin: tuple[Part, ...] = ()
    if prefixes:
        prefix = prefixes[index % len(prefixes)]
        # A prompt that is all prefix would be the same as its neighbour's: one token is its own.
        tokens = min(prefix.tokens, prompt - 1)
        if tokens > 0:
            begin, prompt = (Part(text=prefix.part.text, tokens=tokens),), prompt - tokens
    if copies and prompt >= LEAST_COPIED:
        passage = words.part(prompt - prompt // COPIED_AGAIN)
        return (*begin, passage, Part(text=passage.text, tokens=prompt // COPIED_AGAIN))
    return (*begin, words.part(prompt))


def _drawn(lengths: Lengths, count: int, words: Words) -> list[int]:
    """Return so many lengths of that mean, median and p95, as near as they come, in an order by chance.

    From the middle they rise to the p95 by a power that the mean decides, and fall likewise.
    """
    middle, high = _rooted(max(lengths.p50, 1)), _rooted(max(lengths.p95, lengths.p50, 1))
    mean = _rooted(max(lengths.mean, 1.0))
    low, power = 1 / STEEPEST, STEEPEST
    for _ in range(40):
        tried = math.sqrt(low * power)
        low, power = (tried, power) if fmean(_risen(middle, high, tried, count)) > mean else (low, tried)
    return _shuffled([max(round(each), 1) for each in _risen(middle, high, math.sqrt(low * power), count)], words)


def _risen(middle: float, high: float, power: float, count: int) -> list[float]:
    half, top = (count - 1) / 2, math.ceil(0.95 * count) - 1
    made: list[float] = []
    for index in range(count):
        place = min((index - half) / max(top - half, 1.0), 1.0)  # 0 in the middle, 1 at the p95
        bent = place**power if place >= 0 else -((-place) ** max(power, 1.0))  # the middle stays the middle
        made.append(middle * (high / middle) ** bent)
    return made


def _arrivals(gap: float, variation: float, count: int, words: Words) -> list[int]:
    """Return when each comes, in µs: gaps of that mean and deviation, lognormal, in an order by chance."""
    spaces = count - 1
    if not variation:
        return [round(index * gap * 1e6) for index in range(count)]
    low, high = 0.0, 8.0
    for _ in range(40):
        tried = (low + high) / 2
        made = _spread(tried, spaces)
        low, high = (tried, high) if pstdev(made) / fmean(made) < variation else (low, tried)
    made = _spread(low, spaces)
    scale = gap / fmean(made)
    at, found = 0.0, [0]
    for each in _shuffled(made, words):
        at += each * scale
        found.append(round(at * 1e6))
    return found


def _spread(sigma: float, count: int) -> list[float]:
    return [math.exp(sigma * _NORMAL.inv_cdf((index + 0.5) / count)) for index in range(count)]


def _shuffled(items: Sequence[_Item], words: Words) -> list[_Item]:
    made = list(items)
    for last in range(len(made) - 1, 0, -1):
        other = words.draw(last + 1)
        made[last], made[other] = made[other], made[last]
    return made


def _rooted(value: float) -> float:
    """Return the nearest power of the square root of two."""
    return 2 ** (round(2 * math.log2(max(value, 1e-6))) / 2)


def _stepped(value: float, step: float) -> float:
    return round(value / step) * step
