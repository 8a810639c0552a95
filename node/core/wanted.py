"""What a prompt wants of whoever answers it, made once for each prompt: its size, its model, its asker's objective.

Knows no replica and no text: a body's few fields and its headers go in. Sizes are estimates (`node.core.lengths`).

An objective or a promise that cannot be read is refused and not ignored: who asks for the cheapest answer and gets the
fastest one would never find out. The words are those of the learner's objectives, the same everywhere.
"""

from dataclasses import dataclass
from math import isfinite
from typing import Final, Protocol

from node.core.affinity import NO_MARKS, Marks
from node.core.prompt import OWNER, Headers, Requester
from node.errors import Refusal, Refused

OBJECTIVE_HEADER: Final = b"x-metainf-objective"
TTFT_HEADER: Final = b"x-slo-ttft-ms"
TPOT_HEADER: Final = b"x-slo-tpot-ms"
OURS: Final = frozenset({OBJECTIVE_HEADER, TTFT_HEADER, TPOT_HEADER})

# `throughput` is the swarm's: the answer that takes least of its devices. `slo` alone adds nothing to what is promised.
WORDS: Final = ("latency", "tail", "throughput", "cost", "energy", "slo")
HEADER_CHARS: Final = 128  # of an objective; all words with weights fit
LONGEST_MS: Final = 3_600_000.0  # of a promise: an hour
Weights = tuple[tuple[str, float], ...]
LATENCY: Final[Weights] = (("latency", 1.0),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Aims:
    """What is to be made small, and what was promised.

    Attributes:
        weights: words of `WORDS` with their weights, which sum to one.
        ttft_s, tpot_s: seconds to the first token, and for each further one; None where nothing is promised.
    """

    weights: Weights = LATENCY
    ttft_s: float | None = None
    tpot_s: float | None = None

    @property
    def promised(self) -> bool:
        """Whether there is a promise to keep."""
        return self.ttft_s is not None or self.tpot_s is not None


FASTEST: Final = Aims()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One prompt.

    Attributes:
        prompt_tokens, output_tokens: as foretold, at least one each.
        body_bytes: what is sent to a peer.
        marks: of the body's beginnings (`node.core.affinity`).
        single: whether it asks for one answer to one prompt: of several together, no time is that of one.
        most_tokens: of the answer, that it asks for at most; 0 where it does not say.
    """

    model: str = ""
    requester: Requester = OWNER
    prompt_tokens: float = 256.0
    output_tokens: float = 200.0
    body_bytes: int = 0
    aims: Aims = FASTEST
    marks: Marks = NO_MARKS
    single: bool = True
    most_tokens: int = 0


class Wish(Protocol):
    """Tells what a prompt wants: where there is but one way to go, nobody asks, and it need not be found out."""

    @property
    def wanted(self) -> Wanted:
        """What it wants."""
        ...


def aims_of(headers: Headers) -> Aims:
    """Return what a request's headers (names in lower case) say.

    Raises:
        Refused: they say it in no words that this node knows; 400.
    """
    weights, ttft, tpot = LATENCY, None, None
    for name, value in headers:
        if name not in OURS:
            continue
        if name == OBJECTIVE_HEADER:
            weights = _weights(value)
        elif name == TTFT_HEADER:
            ttft = _seconds(name, value)
        else:
            tpot = _seconds(name, value)
    if weights is LATENCY and ttft is None and tpot is None:
        return FASTEST
    return Aims(weights=weights, ttft_s=ttft, tpot_s=tpot)


def _weights(value: bytes) -> Weights:
    found: dict[str, float] = {}
    for part in value[: HEADER_CHARS + 1].decode("latin-1").split(","):
        word, _, weight = part.strip().partition(":")
        number = _number(weight) if weight else 1.0
        if word not in WORDS or word in found or number is None or len(value) > HEADER_CHARS:
            allowed = ", ".join(WORDS)
            raise _refused(OBJECTIVE_HEADER, f"one of {allowed}, or a mix such as latency:0.5,cost:0.5")
        found[word] = number
    total = sum(found.values())
    return tuple((word, weight / total) for word, weight in found.items())


def _seconds(name: bytes, value: bytes) -> float:
    number = _number(value.decode("latin-1"))
    if number is None or number > LONGEST_MS:
        raise _refused(name, f"milliseconds, more than 0 and at most {LONGEST_MS:.0f}")
    return number / 1000.0


def _number(text: str) -> float | None:
    """Return a positive number; None where the text is none."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) and number > 0 else None


def _refused(header: bytes, belongs: str) -> Refused:
    name = header.decode()
    return Refused(
        Refusal(
            status=400,
            type="invalid_request_error",
            code="invalid_objective",
            param=name,
            message=f"The header {name} takes {belongs}. Leave it out for the fastest answer.",
        )
    )
