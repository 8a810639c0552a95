"""A window of answers as the body of a performance record: figures of the engine, and of the prompts only their shape.

Knows the arithmetic and what may be told; knows no engine and no key. What one requester asks must not be read off a
record: lengths and rates are cut down to two digits, figures of fewer than `FEWEST` answers are absent, and there is
neither a time nor anything that was said. Cut down, not rounded: what is told never exceeds what was. Nothing else in
the record gives back what is cut: the throughput is made of what is told of the answers' lengths, not of their exact
sum, and a share of counters is rough too, for an exact fraction tells what it is a fraction of.

Figures that would contradict each other, though each is true, are absent: in traffic, unlike in trials, those that
stream may be others than those that do not, and long answers may be quick where short ones are slow.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Final

from node.core import engine_counters
from node.core.answer_meter import Measured
from node.core.engine_counters import Counters, share_ppm
from node.core.observation import to_wire_strategy
from node.core.own_records import Compose, Setting
from node.core.strategy import Strategy
from node.core.traffic import FEWEST, Window
from node.core.trial_outcome import Spread, spread
from node.core.workload import Description
from node.core.workloads import Lengths
from protocol import performance as wire

MILLI: Final = 1000
PPM: Final = 1_000_000
MICRO: Final = 1_000_000
PERCENT_PPM: Final = 10_000
DIGITS: Final = 2  # of what is told of prompts
DIGITS_OF_SPEED: Final = 3  # of the throughput, which is made of rough figures, and of the time that it is over
ALIKE: Final = 1.5  # how far the mean prompt of those that stream may be from that of all
FAILURES: Final = frozenset({wire.START_FAILED, wire.OUT_OF_MEMORY, wire.CRASHED, wire.TIMED_OUT})
ADDS_UP: Final = 2.5  # latency against TTFT + tokens × TPOT; receivers doubt a record beyond 3


def record_of(window: Window, *, strategy: Strategy, setting: Setting, grown: Counters) -> Compose:
    """Return what makes the window's record, once it is given a stamp.

    Args:
        window: closed, with answers in it.
        strategy: that its engine ran.
        setting: its model, machine and engine.
        grown: what the engine's counters grew by meanwhile; empty where it tells none, or others use it too.

    Raises:
        LocalProtocolError: the strategy is for this machine alone: a draft model's path.
    """
    configured = to_wire_strategy(strategy)
    answers = _counted(window.answers, strategy)
    workload = _workload(window, answers, grown)
    outcome = _outcome(window, answers, workload, strategy, grown)
    return setting.composing(origin=wire.TRAFFIC, strategy=configured, workload=workload, outcome=outcome)


def failure_record(setting: Setting, strategy: Strategy, description: Description | None, kind: str) -> Compose:
    """Return what makes the record of a strategy that this node's engine could not bear, once it is given a stamp.

    Args:
        description: of the traffic that it was meant for, told as roughly as in records of traffic; None where unknown.
        kind: a word of records: `start_failed`, `out_of_memory`, `crashed` or `timed_out`.

    Raises:
        LocalProtocolError: the strategy is for this machine alone: a draft model's path.
        ValueError: the word is none of those.
    """
    if kind not in FAILURES:
        raise ValueError(f"{kind} is no failure of records; they are {', '.join(sorted(FAILURES))}")
    return setting.composing(
        origin=wire.TRAFFIC,
        strategy=to_wire_strategy(strategy),
        workload=wire.Workload() if description is None else _described(description),
        outcome=wire.Outcome(requests=0, failures=0, failure=kind),
    )


def _described(description: Description) -> wire.Workload:
    samples = description.samples
    prompt = description.prompt_tokens if samples.prompt.count >= FEWEST else None
    output = description.output_tokens if samples.output.count >= FEWEST else None
    copied = description.copy_share if samples.copied.count >= FEWEST else None
    return wire.Workload(
        requests=rough(description.requests),
        prompt_tokens_mean_milli=_rough_mean(prompt),
        prompt_tokens_p50=None if prompt is None else rough(prompt.p50),
        prompt_tokens_p95=None if prompt is None else rough(prompt.p95),
        output_tokens_mean_milli=_rough_mean(output),
        output_tokens_p50=None if output is None else rough(output.p50),
        output_tokens_p95=None if output is None else rough(output.p95),
        shared_prefix_ppm=_scaled(description.shared_prefix_share, PPM),
        requests_per_s_milli=_scaled(description.requests_per_s, MILLI),
        burstiness_ppm=_scaled(description.burstiness, PPM),
        streaming_ppm=int(description.streaming_share * 100) * PERCENT_PPM,
        copy_ppm=_scaled(copied, PPM),
    )


def _rough_mean(lengths: Lengths | None) -> int | None:
    return None if lengths is None else rough(lengths.mean * MILLI)


def _scaled(value: float | None, scale: int) -> int | None:
    return None if value is None else rough(value * scale)


def rough(value: float, digits: int = DIGITS) -> int:
    """Return a number cut down to its first two digits, or so many: 1 987 is 1 900."""
    whole = int(value)
    step = 10 ** max(len(str(whole)) - digits, 0)
    return whole // step * step


def rough_share(ppm: int) -> int:
    """Return a share in two digits of the smaller part: 123 456 is 120 000, and 987 654 is 988 000.

    Beyond the half it is the rest that is cut down. Receivers hold a first token against the part of the prompt that
    was not found in the cache: told as ten times what it was, it would make a fast answer look like a lie.
    """
    return rough(ppm) if ppm * 2 < PPM else PPM - rough(PPM - ppm)


class _Answer:
    """An answer, and of its tokens what may be believed."""

    def __init__(self, measured: Measured, *, estimates: bool) -> None:
        sure = measured.told or estimates
        self.streamed = measured.streamed
        self.latency = measured.latency
        self.ttft = measured.ttft
        self.stall = measured.stall
        self.tpot = measured.tpot if sure else None
        self.prompt = measured.prompt_tokens
        self.output = measured.output_tokens if sure else None


def _counted(answers: Sequence[Measured], strategy: Strategy) -> list[_Answer]:
    estimates = strategy.speculation is None  # with it an event carries several tokens
    return [_Answer(answer, estimates=estimates) for answer in answers]


def _workload(window: Window, answers: Sequence[_Answer], grown: Counters) -> wire.Workload:
    prompts = [answer.prompt for answer in answers if answer.prompt is not None]
    outputs = [answer.output for answer in answers if answer.output is not None]
    prompt = spread(prompts) if len(prompts) == len(answers) else None
    output = spread(outputs) if len(outputs) == len(answers) else None
    streaming = sum(answer.streamed for answer in answers)
    copied = [answer.copied for answer in window.answers if answer.copied is not None]
    gap, variation = window.arrivals.mean_gap, window.arrivals.variation
    shared = share_ppm(engine_counters.PREFIX_HITS, engine_counters.PREFIX_QUERIES, grown)
    return wire.Workload(
        requests=rough(len(answers) + window.failures),
        prompt_tokens_mean_milli=_mean_milli(
            prompts if prompt else [],
            engine_counters.mean(engine_counters.PROMPT_TOKENS, engine_counters.PROMPTS, grown),
        ),
        prompt_tokens_p50=rough(prompt.p50) if prompt else None,
        prompt_tokens_p95=rough(prompt.p95) if prompt else None,
        output_tokens_mean_milli=_mean_milli(
            outputs if output else [],
            engine_counters.mean(engine_counters.OUTPUT_TOKENS, engine_counters.OUTPUTS, grown),
        ),
        output_tokens_p50=rough(output.p50) if output else None,
        output_tokens_p95=rough(output.p95) if output else None,
        shared_prefix_ppm=None if shared is None else rough(shared),
        requests_per_s_milli=rough(MILLI / gap) if gap > 0 else None,
        burstiness_ppm=None if variation is None else rough(variation * PPM),
        # Whole only where all stream: receivers compare more of such records.
        streaming_ppm=streaming * 100 // len(answers) * PERCENT_PPM,
        copy_ppm=rough(fmean(copied)) if len(copied) >= FEWEST else None,
    )


def _mean_milli(told: Sequence[int], otherwise: float | None) -> int | None:
    mean = fmean(told) if told else otherwise
    return None if mean is None else rough(mean * MILLI)


def _outcome(
    window: Window, answers: Sequence[_Answer], workload: wire.Workload, strategy: Strategy, grown: Counters
) -> wire.Outcome:
    streamed = [answer for answer in answers if answer.streamed]
    whole = len(streamed) == len(answers)
    latency = spread(answer.latency for answer in answers)
    ttft = _spread([answer.ttft for answer in streamed]) if whole or _alike(streamed, workload) else None
    tpot = _spread([answer.tpot for answer in streamed])
    if whole and not _adds_up(ttft, tpot, latency, workload.output_tokens_mean_milli):
        tpot = None
    stall = _spread([answer.stall for answer in streamed])
    busy = round(window.busy * MICRO)
    preemptions = grown.get(engine_counters.PREEMPTIONS)
    return wire.Outcome(
        requests=len(answers) + window.failures,
        failures=window.failures,
        repetitions=1,
        duration_us=rough(busy, DIGITS_OF_SPEED) or None,
        ttft_mean_us=ttft and ttft.mean,
        ttft_p50_us=ttft and ttft.p50,
        ttft_p95_us=ttft and ttft.p95,
        tpot_mean_us=tpot and tpot.mean,
        tpot_p50_us=tpot and tpot.p50,
        tpot_p95_us=tpot and tpot.p95,
        latency_mean_us=latency and latency.mean,
        latency_p50_us=latency and latency.p50,
        latency_p95_us=latency and latency.p95,
        stall_mean_us=stall and stall.mean,
        stall_p50_us=stall and stall.p50,
        stall_p95_us=stall and stall.p95,
        output_tokens_per_s_milli=_throughput(answers, workload, busy),
        preemptions=None if preemptions is None else round(preemptions),
        prefix_hit_ppm=None
        if strategy.prefix_caching is False
        else _share(engine_counters.PREFIX_HITS, engine_counters.PREFIX_QUERIES, grown),
        acceptance_ppm=None
        if strategy.speculation is None
        else _share(engine_counters.ACCEPTED, engine_counters.DRAFTED, grown),
    )


def _throughput(answers: Sequence[_Answer], workload: wire.Workload, busy: int) -> int | None:
    mean = workload.output_tokens_mean_milli
    if not busy or mean is None or any(answer.output is None for answer in answers):
        return None
    return rough(mean * len(answers) * MICRO / busy, DIGITS_OF_SPEED)


def _share(part: str, whole: str, grown: Counters) -> int | None:
    share = share_ppm(part, whole, grown)
    return None if share is None else rough_share(share)


def _spread(values: Sequence[int | None]) -> Spread | None:
    found = [value for value in values if value is not None]
    return spread(found) if len(found) >= FEWEST else None


def _alike(streamed: Sequence[_Answer], workload: wire.Workload) -> bool:
    """Whether the prompts of those that stream are as long as all: else their TTFT is that of another workload."""
    prompts = [answer.prompt for answer in streamed if answer.prompt is not None]
    if len(prompts) < max(len(streamed) / 2, FEWEST) or not workload.prompt_tokens_mean_milli:
        return False  # too few tell
    ratio = fmean(prompts) * MILLI / workload.prompt_tokens_mean_milli
    return 1 / ALIKE <= ratio <= ALIKE


def _adds_up(ttft: Spread | None, tpot: Spread | None, latency: Spread | None, tokens_milli: int | None) -> bool:
    if ttft is None or tpot is None or latency is None or tokens_milli is None:
        return True
    summed = ttft.mean + tpot.mean * max(tokens_milli - MILLI, 0) / MILLI
    return summed <= ADDS_UP * latency.mean and latency.mean <= ADDS_UP * summed
