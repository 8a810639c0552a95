"""From the time of a step to the time of a request under load: batching, chunks, prefix hits, speculation, queues.

Knows machines (physics.py) and the columns of workload and strategy; learns nothing and sees no outcome. Seconds,
tokens, requests; arrays of shape (rows,).

Theory: a fluid limit of the engine's scheduler. Requests are a fluid in four tanks: q waits for a seat, p for the rest
of its prefill, d1 and d2 decode (two, so that lengths spread by 0.7 of their mean, as those of real traffic do). Of
p > 0 every step takes as many tokens of prompts as the budget leaves beside one for each request in decode:

    chunked     a step over d requests and c prompt tokens takes t(d, c); prompts pass at c / (u t),
                answers at d E / (S t)
    whole       prompts first: while p > 0 whole prompts are run and nobody decodes
    static      as whole, and seats are given anew only when all are free

u: tokens of prompt that the prefix cache has not. S: output tokens. E: what a step of speculation yields. A closed load
starts with all clients at once and refills q with what leaves; an open one fills it at its rate; both end after the
run's requests, and what is left drains. With areas under the tanks Little's law gives means, at the start and end of a
run too: latency = integral of (q + p + d) / requests. Within a slice of time rates stay as they are and the tanks are
solved exactly, so that no slice is too long to be stable.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from node.learner import physics
from node.learner.physics import Machine, known
from node.learner.table import Floats, Table

COPYING: Final = frozenset({"ngram", "ngram_gpu", "suffix"})  # speculation that drafts by looking text up
SOME_PROMPT: Final = 512.0
SOME_OUTPUT: Final = 256.0
SOME_SEATS: Final = 256.0  # vLLM's default of max_num_seqs
SOME_BUDGET: Final = 8192.0  # and of max_num_batched_tokens
SMALLEST_CHUNK: Final = 16.0  # a block of the KV cache
RUN_REQUESTS: Final = 100.0  # of a run whose length is unknown
GENERATIONS: Final = 6.0  # of clients' requests, after which a closed load repeats itself
WAVES: Final = 32  # slices of the arrivals of an open load
SLICES: Final = 120  # altogether, at most
TURNOVER: Final = 0.35  # of those in decode that leave in one slice of a closed load
TAIL: Final = 1.6  # p95 of the time in decode, of its mean
ROUNDING: Final = 1e-9  # of a tank: less is an error of arithmetic (1e-16 for each slice), and no fluid
WAIT_TAIL: Final = 1.9  # p95 of a wait in a queue that grows, of its mean
POWER_IDLE: Final = 0.54  # of TDP; fitted on published joules, see learner.md
POWER_PER_DOUBLING: Final = 0.04


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a row asks of the engine: workload and strategy in numbers, unknowns filled.

    Attributes:
        prompt, output, uncached: tokens of a request; uncached: of its prompt that no earlier one left behind.
        clients: requests in flight of a closed load; NaN in an open one. rate: requests a second; NaN in a closed one.
        requests: of one run. seats: requests in one step at most. budget: tokens in one step at most.
        proposed, yielded: tokens by speculation, and by a step in the mean.
    """

    prompt: Floats
    output: Floats
    uncached: Floats
    clients: Floats
    rate: Floats
    requests: Floats
    seats: Floats
    budget: Floats
    chunked: NDArray[np.bool_]
    static: NDArray[np.bool_]
    prefix: NDArray[np.bool_]
    proposed: Floats
    yielded: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """What physics foretells of each row: seconds, requests, tokens, joules; positive and finite.

    Attributes:
        device_seconds: of one request. energy: joules of one request.
        batch: requests in the engine at once. wait: seconds before a request's prefill begins, prefills ahead included.
        decode_step, mixed_step: seconds of a step without and with prefill. prefill: of one uncached prompt alone.
        prefilling: share of the time that prompts are worked on. kv_share: of the cache that the batch fills.
    """

    latency: Floats
    latency_p95: Floats
    ttft: Floats
    ttft_p95: Floats
    tpot: Floats
    stall: Floats
    requests_per_s: Floats
    tokens_per_s: Floats
    energy: Floats
    device_seconds: Floats
    batch: Floats
    wait: Floats
    decode_step: Floats
    mixed_step: Floats
    prefill: Floats
    prefilling: Floats
    kv_share: Floats


def plan(table: Table, copies: Floats | float = 1.0) -> Plan:
    """Read workload and strategy of each row; what is unknown is the engine's default.

    Args:
        copies: of the model, among which requests are shared evenly: the plan is that of one.
    """
    numbers = table.numbers
    prompt = np.maximum(known(numbers("workload.prompt_tokens"), SOME_PROMPT), 1.0)
    output = np.maximum(known(numbers("workload.output_tokens"), SOME_OUTPUT), 1.0)
    clients, rate = numbers("workload.concurrency") / copies, numbers("workload.requests_per_s") / copies
    clients = np.maximum(clients, 1.0)  # NaN stays
    clients = np.where(np.isnan(clients) & np.isnan(rate), 1.0, clients)
    requests = known(numbers("workload.requests") / copies, np.maximum(known(4 * clients, 0.0), RUN_REQUESTS))
    prefix = known(numbers("strategy.prefix_caching"), 1.0) == 1  # on, if nobody says: as vLLM starts
    proposed = known(numbers("strategy.speculative_tokens"), 0.0)
    accepted = known(numbers("workload.draft_acceptance"), _copied(table), physics.SOME_ACCEPTANCE)
    return Plan(
        prompt=prompt,
        output=output,
        uncached=np.where(prefix, prompt - _shared(table, prompt, requests), prompt),
        clients=clients,
        rate=rate,
        requests=np.maximum(requests, 1.0),
        seats=np.maximum(known(numbers("strategy.max_num_seqs"), clients, SOME_SEATS), 1.0),
        budget=np.maximum(known(numbers("strategy.max_num_batched_tokens"), SOME_BUDGET), 1.0),
        chunked=known(numbers("strategy.chunked_prefill"), 1.0) == 1,
        static=table.words("strategy.batching") == "static",
        prefix=prefix,
        proposed=proposed,
        yielded=physics.expected_tokens(accepted, proposed),
    )


def _copied(table: Table) -> Floats:
    """Return how many drafted tokens are kept where the draft is what the text itself said before; NaN elsewhere.

    The share of an answer's words that repeat text behind the same two words is about what such a draft gets right.
    """
    copying = np.array([word in COPYING for word in table.words("strategy.speculation")], dtype=np.bool_)
    return np.where(copying, table.numbers("workload.copy_share"), np.nan)


def times(table: Table) -> Times:
    """Return what physics foretells of each row of a table."""
    hands = physics.machine(table)
    return requests_times(hands, plan(table, hands.copies))


def requests_times(hands: Machine, asked: Plan) -> Times:
    """Return what physics foretells of plans on machines."""
    fits = np.maximum(hands.kv_tokens() / (asked.prompt + asked.output / 2), 1.0)
    run = _Run(hands, asked, np.minimum(asked.seats, fits))
    for _ in range(SLICES):
        run.slice()
    hashing = np.where(asked.prefix, physics.PREFIX_HASH_S, 0.0)
    done = np.maximum(run.done, 0.5)
    decoding, before = run.area_decode / done, run.area_before / done + hashing
    nothing = np.zeros_like(fits)
    each = np.where(np.isnan(asked.clients), np.minimum(known(asked.rate, 1.0), done / run.time), done / run.time)
    rate = each * hands.copies
    batch = np.maximum(run.area_engine / run.time, 1.0)
    alone = hands.prefill_s(asked.uncached, asked.prompt - asked.uncached / 2)
    decode = hands.step_s(batch, asked.proposed + 1, asked.prompt + asked.output / 2, nothing, nothing)
    watts = hands.tdp_watts * (POWER_IDLE + POWER_PER_DOUBLING * np.log2(batch))
    latency = before + decoding
    # Of a closed load by Little's law, as tables have it: what a run's end leaves idle is not counted.
    shared = hands.paid * latency / known(asked.clients, 1.0) / hands.copies
    seconds = np.where(np.isnan(asked.clients), hands.paid / rate, shared)
    return Times(
        latency=latency,
        latency_p95=WAIT_TAIL * before + TAIL * decoding,
        ttft=before,
        ttft_p95=WAIT_TAIL * before,
        tpot=decoding / np.maximum(asked.output - 1, 1.0),
        stall=np.maximum(run.stall, decode),
        requests_per_s=rate,
        tokens_per_s=rate * asked.output,
        energy=watts * seconds * hands.all_devices / hands.paid,
        device_seconds=seconds,
        batch=batch,
        wait=np.maximum(before - alone, 0.0) + 1e-6,
        decode_step=decode,
        mixed_step=run.mixed,
        prefill=alone,
        prefilling=np.clip(run.area_prefilling / run.time, 1e-6, 1.0),
        kv_share=batch / fits,
    )


class _Run:
    """The tanks of every row's run, and the areas under them; `slice` moves time on."""

    def __init__(self, hands: Machine, asked: Plan, cap: Floats) -> None:
        self.hands, self.asked, self.cap = hands, asked, np.maximum(cap, 1.0)
        self.closed = ~np.isnan(asked.clients)
        clients = np.minimum(known(asked.clients, 0.0), asked.requests)
        self.requests = np.where(self.closed, np.minimum(asked.requests, GENERATIONS * clients), asked.requests)
        self.rate = known(asked.rate, 0.0)
        zero = np.zeros_like(cap)
        self.queue, self.arrived = clients.copy(), clients.copy()
        self.prefill, self.first, self.second = zero, zero, zero
        self.done, self.time, self.stall, self.mixed = zero, zero + 1e-12, zero, zero
        self.area_before, self.area_decode, self.area_engine, self.area_prefilling = zero, zero, zero, zero
        self.mean_decoding = zero
        self.steps = np.maximum(asked.output - 1, 0.5) / asked.yielded
        self.whole = ~asked.chunked | asked.static
        self.looks_back = asked.prompt - asked.uncached / 2
        self.context = asked.prompt + asked.output / 2

    def slice(self) -> None:
        """Move every row on by a slice of its own length."""
        self._take_seats()
        asked, hands = self.asked, self.hands
        decoding = np.maximum(self.mean_decoding, 0.0)
        nothing = np.zeros_like(decoding)
        width = asked.proposed + 1
        several = np.maximum(self.prefill, 1.0) * asked.uncached
        chunk = np.where(
            self.whole,
            np.minimum(several, np.maximum(asked.budget, asked.uncached)),
            np.minimum(several, np.maximum(asked.budget - decoding * width, SMALLEST_CHUNK)),
        )
        beside = np.where(self.whole, 0.0, decoding)
        mixed = hands.step_s(beside, width, self.context, chunk, self.looks_back)
        plain = hands.step_s(np.maximum(decoding, 1.0), width, self.context, nothing, nothing)  # no step is for none
        capacity = chunk / asked.uncached / mixed  # prompts a second while there are any
        span = self._span(capacity, plain)
        coming = np.where(self.closed, 0.0, np.minimum(self.rate * span, self.requests - self.arrived))
        active = np.minimum((self.prefill + coming) / np.maximum(capacity * span, 1e-30), 1.0)
        filled = active * capacity * span
        pace = np.where(self.whole, 0.0, active / mixed) + (1 - active) / plain  # steps of decode a second
        left = self._decode(filled, 2 * pace / self.steps, span)
        self._account(span, coming, filled, left, active)
        own = np.where(self.whole, 1.0, np.maximum(asked.uncached / chunk, 1.0)) * mixed + plain / 2
        self.area_before = self.area_before + filled * own
        self.mixed = np.maximum(self.mixed, np.where(active > 0, mixed, 0.0))
        backlog = np.where(self.whole, np.maximum(self.prefill / capacity, mixed), mixed)
        seen = 1 - np.exp(-active * span * self.steps / np.maximum(span, self.steps * plain) * 3)
        self.stall = np.maximum(
            self.stall, plain + seen * np.maximum(backlog + np.where(self.whole, plain, 0) - plain, 0)
        )

    def _take_seats(self) -> None:
        inside = self.prefill + self.first + self.second
        free = np.where(self.asked.static & (inside > 0.5), 0.0, np.maximum(self.cap - inside, 0.0))
        seated = np.minimum(self.queue, free)
        self.queue, self.prefill = self.queue - seated, self.prefill + seated

    def _span(self, capacity: Floats, plain: Floats) -> Floats:
        """Return how long each row's slice is: arrivals in even shares, the rest by how fast the tanks turn over."""
        inside = self.prefill + self.first + self.second
        turn = TURNOVER * self.steps * plain + np.minimum(self.prefill, inside * TURNOVER) / capacity
        arrivals = self.requests / WAVES / np.maximum(self.rate, 1e-30)
        open_now = ~self.closed & (self.arrived < self.requests - 1e-6)
        return np.where(self.requests - self.done > 1e-3 * self.requests, np.where(open_now, arrivals, turn), 0.0)

    def _decode(self, filled: Floats, turnover: Floats, span: Floats) -> Floats:
        """Let the two tanks of decode run for the span; return what leaves."""
        x = np.maximum(turnover * span, 1e-12)
        stays, spread = np.exp(-x), -np.expm1(-x) / x
        first = self.first * stays + filled * spread
        moved = self.first + filled - first
        second = self.second * stays + moved * spread
        left = self.second + moved - second
        area = np.where(x > 1e-9, (moved + left) / np.maximum(turnover, 1e-30), (self.first + self.second) * span)
        self.mean_decoding = np.where(span > 0, area / np.maximum(span, 1e-30), self.mean_decoding)
        self.first, self.second = first, second
        self.area_decode = self.area_decode + area
        self.area_engine = self.area_engine + area
        return left

    def _account(self, span: Floats, coming: Floats, filled: Floats, left: Floats, active: Floats) -> None:
        again = np.where(self.closed, np.minimum(left, self.requests - self.arrived), 0.0)
        after = self.prefill + coming - filled
        # Where the prompts fit into the slice `after` is nothing, but for what rounding leaves of it: no wait is that.
        left_over = after > ROUNDING * (self.prefill + coming)
        backlog = (self.prefill + np.maximum(after, 0.0)) / 2 * np.where(left_over, 1.0, active)
        waiting = (self.queue + backlog) * span
        self.area_before, self.area_engine = self.area_before + waiting, self.area_engine + backlog * span
        self.area_prefilling = self.area_prefilling + active * span
        # Who comes to an engine without a free seat waits: `_take_seats` sorts that out at the next slice.
        inside = after + self.first + self.second
        beyond = np.where(self.asked.static, np.maximum(after, 0.0), np.maximum(inside - self.cap, 0.0))
        beyond = np.minimum(beyond, np.maximum(coming - filled, 0.0))
        self.prefill = np.maximum(after - beyond, 0.0)
        self.queue = self.queue + beyond + again
        self.arrived = self.arrived + coming + again
        self.done, self.time = self.done + left, self.time + span


def _shared(table: Table, prompt: Floats, requests: Floats) -> Floats:
    """Return the tokens of a prompt that the prefix cache holds in the mean: the first of each group pays."""
    stated = table.numbers("workload.shared_prefix_tokens")
    shared = known(stated, table.numbers("workload.shared_prefix_share") * prompt, 0.0)
    groups = known(table.numbers("workload.prefix_groups"), 1.0)
    return np.minimum(shared, prompt - 1) * np.clip(1 - groups / np.maximum(requests, 1.0), 0.0, 1.0)
