"""The workloads that strategies are tried on: made of words, seeded, sized to the machine, the same on every node.

One more kind, `mirror`, is made like a node's own traffic; see `node.core.mirror`.

Knows what kinds of traffic tell strategies apart and how large each is; knows no engine, no clock and no tokenizer
(whoever has one cuts each part to its length). Five kinds: a prefix that many prompts share, long prompts, long
answers, bursts of long and short together, and answers that repeat their prompt.

Sizes are powers of two, and arrivals are fixed: two machines of about one speed try the very same workload, so that
their records tell of one context. Every trial then lasts seconds, on a laptop as on an H200.
"""

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

VERSION = 2  # of what is generated; a change makes other workloads, which must not share a name with these

KINDS = ("shared_prefix", "long_output", "bursty", "long_prompt", "copy")  # the first three tell the most
MIRROR = "mirror"  # the kind that follows a node's own traffic
PREFILL_SECONDS = 0.25  # of prompt processing in one unit: a long prompt has two
DECODE_SECONDS = 0.5  # of one stream's decoding in one unit: a long answer has three
MIN_PREFILL, MAX_PREFILL = 64, 1 << 15  # tokens of a unit
MIN_DECODE, MAX_DECODE = 8, 1 << 10
PREFILL_SHARE = 4  # at most a quarter of the longest context in a unit, so that two and their answer fit
DECODE_SHARE = 16
SHORT = 16  # tokens of a short prompt, and of what a shared prefix is asked
GAP_US = 50_000  # between requests that come together: faster than any answer, slower than one step
BURST_US = 2_000_000  # between bursts: longer than a batch takes to work one off

# Common words of one token each in most vocabularies. Their order is part of VERSION.
_TEXT = (
    "the of and to in is that it was for on are as with they at be this from have or by one had not but what all "
    "were when we there can an your which their said if do will each about how up out them then she many some so "
    "these would other into has more her two like him see time could no make than first been its who now people "
    "my made over did down only way find use may water long little very after words called just where most know "
    "get through back much before go good new write our used me man too any day same right look think also around "
    "another came come work three word must because does part even place well such here take why things help put "
    "years different away again off went old number great tell men say small every found still between name "
    "should home big give air line set own under read last never us left end along while might next sound below "
    "saw something thought both few those always looked show large often together asked house world going want "
    "school important until form food keep children feet land side without boy once animals life enough took "
    "sometimes four head above kind began almost live page got earth need far hand high year mother light parts "
    "country father let night following picture being study second eyes soon times story boys since white days "
    "ever paper hard near sentence better best across during "
)
WORDS = tuple(_TEXT.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A piece of a prompt: `text`, cut to exactly `tokens` tokens by whoever has the tokenizer."""

    text: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request: `at_us` after the start, exactly `max_tokens` tokens of answer."""

    at_us: int
    parts: tuple[Part, ...]
    max_tokens: int

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the whole prompt."""
        return sum(part.tokens for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Lengths in tokens."""

    mean: float
    p50: int
    p95: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The shape of traffic, as records describe it (contracts): nothing of what anybody said.

    Attributes:
        shared_prefix_share: of all prompt tokens, those that a request has in common with others of its group.
        prefix_groups: prefixes that are shared.
        burstiness: coefficient of variation of the times between arrivals: 0 regular, 1 as by chance.
        copy_share: of the answers' tokens, those of requests that are made to be answered with a copy; None where that
            is not what the workload is about.
    """

    kind: str
    requests: int
    prompt_tokens: Lengths
    output_tokens: Lengths
    shared_prefix_share: float
    prefix_groups: int
    requests_per_s: float
    burstiness: float
    streaming_share: float = 1.0
    copy_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A workload with the requests that make it. `mark` tells loads of one kind apart."""

    workload: Workload
    requests: tuple[Request, ...]
    mark: str = ""

    @property
    def name(self) -> str:
        """What names the load in a plan and in a book: the workload's kind, and its mark."""
        return f"{self.workload.kind}-{self.mark}" if self.mark else self.workload.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large requests are on this machine, in tokens; both are powers of two."""

    prefill: int
    decode: int


def scale_for(*, prefill_per_s: float, decode_per_s: float, max_model_len: int) -> Scale:
    """Return the sizes that make trials last seconds on a machine of these rates (of one stream, in tokens/s)."""
    longest = max(max_model_len, PREFILL_SHARE * MIN_PREFILL)
    return Scale(
        prefill=_power(prefill_per_s * PREFILL_SECONDS, MIN_PREFILL, min(MAX_PREFILL, longest // PREFILL_SHARE)),
        decode=_power(decode_per_s * DECODE_SECONDS, MIN_DECODE, min(MAX_DECODE, max(longest // DECODE_SHARE, 8))),
    )


def _power(value: float, least: int, most: int) -> int:
    """Return the nearest power of two within bounds."""
    wanted = 1 << round(math.log2(max(value, 1.0)))
    return max(least, min(wanted, 1 << (most.bit_length() - 1)))


def loads(scale: Scale, *, kinds: Sequence[str] = KINDS, seed: int = 1) -> tuple[Load, ...]:
    """Return the loads of these kinds, in their order. The same arguments give the same loads, everywhere.

    Raises:
        ValueError: a kind that is none of KINDS.
    """
    if unknown := set(kinds) - set(KINDS):
        raise ValueError(f"no workload is called {min(unknown)}; there are {', '.join(KINDS)}")
    return tuple(_load(kind, scale, seed) for kind in kinds)


def warmup(scale: Scale) -> tuple[Request, ...]:
    """Return requests that touch what the first real one would pay for: a long prefill, and two decoding together."""
    words = Words("warmup", 0)
    return (
        Request(at_us=0, parts=(words.part(scale.prefill),), max_tokens=MIN_DECODE),
        Request(at_us=0, parts=(words.part(SHORT),), max_tokens=MIN_DECODE),
    )


def probes(max_model_len: int) -> tuple[tuple[str, tuple[Request, ...]], ...]:
    """Return loads that tell the machine's rates, without knowing them: `prefill` doubles, `decode` is one stream."""
    words = Words("probe", 0)
    longest = min(512, max_model_len // 2)
    return (
        ("prefill", (Request(at_us=0, parts=(words.part(longest),), max_tokens=1),)),
        ("decode", (Request(at_us=0, parts=(words.part(SHORT),), max_tokens=min(32, max_model_len // 4)),)),
    )


class Words:
    """Endless text of common words, drawn by splitmix64: ten lines, and the same in every Python and every year."""

    def __init__(self, kind: str, seed: int) -> None:
        self._state = (seed << 32) ^ int.from_bytes(kind.encode()[:8].ljust(8, b"."), "big") ^ VERSION

    def _draw(self) -> int:
        self._state = (self._state + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        mixed = (self._state ^ (self._state >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        return mixed ^ (mixed >> 31)

    def draw(self, below: int) -> int:
        """Return a whole number from 0, below that."""
        return self._draw() % below

    def part(self, tokens: int) -> Part:
        """Return fresh text of at least so many tokens: a word is one or more."""
        return Part(text=" ".join(WORDS[self._draw() % len(WORDS)] for _ in range(tokens)), tokens=tokens)


# --- the kinds


def _shared_prefix(scale: Scale, words: Words) -> Iterator[Request]:
    prefix = words.part(scale.prefill * 3 // 2)
    for index in range(6):
        yield Request(
            at_us=index * GAP_US, parts=(prefix, words.part(SHORT)), max_tokens=max(scale.decode // 2, MIN_DECODE // 2)
        )


def _long_prompt(scale: Scale, words: Words) -> Iterator[Request]:
    # Apart by less than a prefill: the first is decoding while the next is read, which is where streams stall.
    for index in range(4):
        yield Request(at_us=index * 4 * GAP_US, parts=(words.part(2 * scale.prefill),), max_tokens=scale.decode)


def _long_output(scale: Scale, words: Words) -> Iterator[Request]:
    for index in range(4):
        yield Request(at_us=index * GAP_US, parts=(words.part(SHORT),), max_tokens=3 * scale.decode)


def _bursty(scale: Scale, words: Words) -> Iterator[Request]:
    # Within a burst as far apart as elsewhere: closer than a step, it is the engine's luck which of them its next step
    # takes in, and two runs differ by a whole prefill.
    for burst in range(3):
        for index in range(5):
            long = index % 2 == 1
            yield Request(
                at_us=burst * BURST_US + index * GAP_US,
                parts=(words.part(scale.prefill * 3 // 2 if long else SHORT),),
                max_tokens=max(scale.decode // 4, 2) if long else scale.decode,
            )


def _copy(scale: Scale, words: Words) -> Iterator[Request]:
    # A text and its own beginning: what follows is the copy, for a model of any size and without instructions.
    for index in range(4):
        passage = words.part(scale.prefill // 2)
        again = Part(text=passage.text, tokens=passage.tokens // 4)
        yield Request(at_us=index * GAP_US, parts=(passage, again), max_tokens=3 * scale.decode)


_MAKERS: dict[str, Callable[[Scale, Words], Iterator[Request]]] = {
    "shared_prefix": _shared_prefix,
    "long_output": _long_output,
    "bursty": _bursty,
    "long_prompt": _long_prompt,
    "copy": _copy,
}


def _load(kind: str, scale: Scale, seed: int) -> Load:
    requests = tuple(_MAKERS[kind](scale, Words(kind, seed)))
    return Load(workload=describe(kind, requests), requests=requests)


def describe(kind: str, requests: Sequence[Request]) -> Workload:
    """Return the shape of requests that arrive in this order."""
    begun = Counter(request.parts[0].text for request in requests)
    shared = sum(request.parts[0].tokens for request in requests if begun[request.parts[0].text] > 1)
    gaps = [(b.at_us - a.at_us) / 1e6 for a, b in pairwise(requests)]
    span = sum(gaps)
    answers = sum(request.max_tokens for request in requests)
    copied = sum(request.max_tokens for request in requests if _copies(request))
    return Workload(
        kind=kind,
        requests=len(requests),
        prompt_tokens=_lengths([request.prompt_tokens for request in requests]),
        output_tokens=_lengths([request.max_tokens for request in requests]),
        shared_prefix_share=shared / sum(request.prompt_tokens for request in requests),
        prefix_groups=sum(count > 1 for count in begun.values()),
        requests_per_s=len(gaps) / span if span else 0.0,
        burstiness=statistics.pstdev(gaps) / statistics.fmean(gaps) if span else 0.0,
        copy_share=copied / answers if copied or kind == MIRROR else None,
    )


def _copies(request: Request) -> bool:
    """Whether a prompt ends with the beginning of what stands before it: what follows is the rest."""
    return len(request.parts) > 1 and request.parts[-1].text == request.parts[-2].text


def _lengths(tokens: Sequence[int]) -> Lengths:
    ordered = sorted(tokens)
    return Lengths(
        mean=statistics.fmean(ordered),
        p50=ordered[(len(ordered) - 1) // 2],
        p95=ordered[max(math.ceil(0.95 * len(ordered)) - 1, 0)],
    )
