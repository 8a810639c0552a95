"""The policy that foretells, by its rules and laws."""

from collections import Counter
from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from node.core.affinity import marks_of
from node.core.candidates import Offering
from node.core.corrections import Seen
from node.core.forecast import MOST_CROWD
from node.core.router import CHOICES
from node.core.standings import BELIEVED_FOR, Standings
from node.core.wanted import Aims, Wanted
from protocol.load import Load, Serving
from tests.core.routing import KEY, MODEL, NEVER, PEERS, Stage, curve
from tests.fakes.wish import Plain

FAST, SLOW = curve(0.1, 0.01), curve(1.0, 0.1)
SURE = Seen(ttft=0.0, tpot=0.0, ttft_width=0.01, tpot_width=0.01)


def wanted(**fields: object) -> Wanted:
    return replace(Wanted(model=MODEL), **fields)


def promised(**fields: float) -> Wanted:
    return wanted(aims=Aims(**fields))  # type: ignore[arg-type]


def shares(stage: Stage, what: Wanted | None = None, *, rounds: int = 400, now: float = 0.0) -> list[float]:
    first = Counter(stage.first(what, now=now) for _ in range(rounds))
    return [first[at] / rounds for at in range(len(stage.peers))]


# -- what is foretold


def test_the_faster_machine_comes_first_and_the_rest_follow_in_order() -> None:
    stage = Stage([SLOW, FAST, curve(0.3, 0.03)])
    stage.idle(0.0)
    assert [PEERS.index(each.replica) for each in stage.route().choices] == [1, 2, 0]


def test_a_long_way_counts_for_short_answers_and_hardly_for_long_ones() -> None:
    stage = Stage([curve(0.1, 0.010), curve(0.1, 0.012)])
    stage.idle(0.0)
    for _ in range(20):
        stage.trips.note(PEERS[0], 0.4)
    assert stage.first(wanted(output_tokens=2.0)) == 1
    assert stage.first(wanted(output_tokens=1000.0)) == 0


def test_a_large_body_on_a_slow_line_takes_its_time() -> None:
    stage = Stage([FAST, FAST])
    stage.idle(0.0)
    for _ in range(10):
        stage.trips.note_sent(PEERS[0], 1 << 20, 10.0)
    assert shares(stage, wanted(body_bytes=2_000_000))[1] == 1.0


def test_our_own_prompts_count_at_once() -> None:
    stage = Stage([curve(0.10, 0.010), curve(0.12, 0.012)])
    stage.idle(0.0)
    assert stage.first() == 0
    for _ in range(6):
        stage.standings.began(PEERS[0], 0.1)
    assert stage.first(now=0.1) == 1


def test_a_burst_spreads_before_any_reading_comes() -> None:
    stage = Stage([FAST] * 4)
    stage.idle(0.0)
    for _ in range(64):
        stage.standings.began(stage.route(now=0.1).choices[0].replica, 0.1)
    assert all(10 <= stage.standings.standing(peer, 0.1).in_flight <= 22 for peer in stage.peers)


def test_a_turn_at_a_full_engine_is_waited_for() -> None:
    stage = Stage([FAST, curve(0.2, 0.02)])
    stage.idle(0.0, but=PEERS[:1])
    stage.standings.read(PEERS[0], Load(running=4, waiting=4, slots=4), 0.0)
    forecast = stage.forecast()
    assert forecast.full[0]
    assert forecast.total[0] > 2.0
    assert stage.first() == 1


def test_tokens_in_the_queue_beyond_the_usual_delay_the_first() -> None:
    stage = Stage([FAST, FAST])
    stage.idle(0.0, but=PEERS[:1])
    stage.standings.read(PEERS[0], Load(running=0, waiting=0, slots=64, queued_tokens=50_000), 0.0)
    assert stage.forecast().logs[0, 0] > stage.forecast().logs[0, 1] + 1.0
    assert stage.first() == 1


def test_a_reading_that_ages_widens_the_interval_and_then_counts_no_more() -> None:
    stage = Stage([FAST, FAST])
    stage.idle(0.0)
    fresh, old = stage.forecast(now=0.0), stage.forecast(now=10.0)
    assert old.spread[0] > fresh.spread[0]
    stage.standings.read(PEERS[0], Load(running=40, waiting=0, slots=64), 0.0)
    assert stage.forecast(now=BELIEVED_FOR).load[0] == 41
    assert stage.forecast(now=BELIEVED_FOR + 0.1).load[0] == 2


# -- what is learnt


def traffic(
    stage: Stage, requests: int, *, slower: dict[int, float], apart: float = 1.0, begin: float = 0.0
) -> list[int]:
    """Have that many prompts asked one after the other, with fresh readings; return who got them."""
    now, chosen = begin, list[int]()
    for _ in range(requests):
        stage.idle(now)
        route = stage.route(now=now)
        at = stage.peers.index(route.choices[0].replica)
        chosen.append(at)
        stage.answer(route, now, slower=slower.get(at, 1.0))
        now += apart
    return chosen


def test_a_peer_that_is_ten_times_slower_than_its_hardware_says_loses_its_traffic_within_twenty_requests() -> None:
    for seed in range(5):
        stage = Stage([FAST, curve(0.3, 0.03)], seed=seed)
        chosen = traffic(stage, 300, slower={0: 10.0})
        assert 0 < chosen.count(0) <= 10
        assert chosen[20:].count(0) <= 4  # looked at again now and then


def test_a_liar_among_honest_equals_gets_next_to_nothing() -> None:
    stage = Stage([FAST] * 4, explore=0.01)
    chosen = traffic(stage, 300, slower={0: 10.0})
    assert chosen.count(0) <= 20
    assert chosen[20:].count(0) <= 6


def test_a_lucky_peer_cannot_buy_more_than_the_bound() -> None:
    stage = Stage([SLOW, FAST])
    guess = stage.forecast().guess(PEERS[0])
    assert guess is not None
    for number in range(50):
        stage.experience.began(guess, 1e-9, float(number))
        stage.experience.went_on(guess, 1e-9, float(number))
    forecast = stage.forecast(now=50.0)
    assert forecast.added[0, 0] >= -4.61
    assert forecast.added[1, 0] >= -4.61


def test_a_correction_is_forgotten_when_the_peer_begins_another_run() -> None:
    stage = Stage([FAST, FAST])
    traffic(stage, 20, slower={0: 10.0})
    assert stage.forecast(now=20.0).added[0, 0] > 0.1
    stage.standings.renewed(PEERS[0])
    assert stage.forecast(now=20.0).added[0, 0] == 0.0


def test_a_first_byte_that_is_far_beyond_its_time_speaks_against_the_peer_before_it_comes() -> None:
    stage = Stage([FAST, curve(0.2, 0.02)])
    stage.idle(0.0)
    assert stage.first() == 0
    stage.standings.began(PEERS[0], 0.0)
    ticket = stage.standings.expect(PEERS[0], 0.0, 0.1)
    assert stage.first(now=0.15) == 0
    assert stage.first(now=2.0) == 1
    stage.standings.heard(PEERS[0], ticket)
    assert stage.first(now=2.0) == 0


def test_who_fails_often_is_worth_less_than_who_does_not() -> None:
    stage = Stage([FAST, FAST])
    stage.idle(600.0)
    for _ in range(3):
        stage.standings.failed(PEERS[0], 0.0)
    stage.standings.answered(PEERS[0], 0.0)
    assert shares(stage, now=600.0)[0] < 0.1


# -- affinity


def test_who_read_the_prompts_beginning_is_preferred_until_it_is_busy() -> None:
    body = b'{"messages": [' + b"the same long instructions " * 2000
    marks = marks_of(body, MODEL, KEY)
    one = wanted(prompt_tokens=12_000.0, output_tokens=20.0, marks=marks)
    stage = Stage([curve(0.1, 0.01, per_token=2e-4)] * 3)
    stage.idle(0.0)
    stage.experience.affinity.sent(PEERS[2], marks, 12_000.0, run=stage.standings.run(PEERS[2]), now=0.0)
    assert shares(stage, one)[2] == 1.0
    stage.standings.read(PEERS[2], Load(running=60, waiting=20, slots=64), 0.0)
    assert shares(stage, one)[2] < 0.05


def test_an_engine_without_a_prefix_cache_holds_nothing() -> None:
    marks = marks_of(b"x" * 50_000, MODEL, KEY)
    stage = Stage([FAST, FAST])
    stage.idle(0.0)
    stage.experience.affinity.sent(PEERS[0], marks, 12_000.0, run=stage.standings.run(PEERS[0]), now=0.0)
    stage.offerings[PEERS[0]] = Offering(replica=PEERS[0], caches=False)
    cached = stage.forecast(wanted(prompt_tokens=12_000.0, marks=marks)).cached
    assert cached is not None
    assert cached.tolist() == [0.0, 0.0]


# -- objectives and promises


def test_the_cheapest_is_taken_where_cost_counts() -> None:
    stage = Stage([FAST, SLOW])
    stage.idle(0.0)
    stage.offerings[PEERS[0]] = Offering(replica=PEERS[0], price=4.0)
    stage.offerings[PEERS[1]] = Offering(replica=PEERS[1], price=0.1)
    assert stage.first() == 0
    assert stage.first(wanted(aims=Aims(weights=(("cost", 1.0),)))) == 1
    assert stage.first(wanted(aims=Aims(weights=(("latency", 0.95), ("cost", 0.05))))) == 0


def test_who_tells_no_price_is_not_free() -> None:
    stage = Stage([SLOW, FAST])
    stage.idle(0.0)
    stage.offerings[PEERS[1]] = Offering(replica=PEERS[1], price=1.0)
    assert stage.first(wanted(aims=Aims(weights=(("cost", 1.0),)))) == 1


def test_without_prices_device_seconds_count() -> None:
    stage = Stage([FAST, curve(0.2, 0.02)])
    stage.idle(0.0)
    stage.offerings[PEERS[0]] = Offering(replica=PEERS[0], devices=8.0)
    assert stage.first(wanted(aims=Aims(weights=(("cost", 1.0),)))) == 1
    assert stage.first(wanted(aims=Aims(weights=(("throughput", 1.0),)))) == 1


def test_the_machine_that_draws_least_for_the_answer_is_taken_where_energy_counts() -> None:
    stage = Stage([FAST, curve(0.2, 0.02)])
    stage.idle(0.0)
    stage.offerings[PEERS[0]] = Offering(replica=PEERS[0], watts=1400.0)
    stage.offerings[PEERS[1]] = Offering(replica=PEERS[1], watts=70.0)
    assert stage.first(wanted(aims=Aims(weights=(("energy", 1.0),)))) == 1


def test_the_surer_is_taken_where_the_tail_counts() -> None:
    stage = Stage([curve(0.1, 0.010, width=1.6), curve(0.13, 0.0131, width=0.2)])
    stage.idle(0.0)
    forecast = stage.forecast()
    assert forecast.total[0] < 1.5 * forecast.total[1]
    assert stage.first(wanted(aims=Aims(weights=(("tail", 1.0),)))) == 1


def test_a_promise_is_kept_by_the_busiest_that_still_can() -> None:
    stage = Stage([FAST, curve(0.12, 0.012), SLOW])
    stage.idle(0.0, but=PEERS[1:2])
    stage.standings.read(PEERS[1], Load(running=4, waiting=0, slots=64), 0.0)
    route = stage.route(promised(ttft_s=1.0, tpot_s=0.05), luck=lambda: 0.5)
    assert (PEERS.index(route.choices[0].replica), route.choices[0].reason) == (1, "fits")


def test_where_nobody_can_keep_it_the_likeliest_is_asked() -> None:
    stage = Stage([SLOW, FAST, SLOW])
    stage.idle(0.0)
    route = stage.route(promised(ttft_s=0.02), luck=lambda: 0.5)
    assert (PEERS.index(route.choices[0].replica), route.choices[0].reason) == (1, "likeliest")


# -- who is asked at all


def test_the_closed_are_not_asked_and_the_reason_is_told() -> None:
    stage = Stage([FAST, SLOW])
    stage.idle(0.0)
    stage.standings.failed(PEERS[0], 0.0, hung=True)
    assert [each.replica for each in stage.route().choices] == [PEERS[1]]
    stage.standings.read(PEERS[1], Load(running=0, waiting=0, serving=Serving.DRAINING), 0.0)
    route = stage.route()
    assert route.choices == ()
    assert route.reason == "draining"
    assert route.retry_after is not None


def test_after_a_bar_one_prompt_goes_there_until_it_answered() -> None:
    stage = Stage([FAST, SLOW])
    stage.idle(0.0)
    stage.standings.failed(PEERS[0], 0.0)
    now = 5.0
    stage.idle(now)
    assert stage.first(now=now) == 0
    stage.standings.began(PEERS[0], now)
    assert [each.replica for each in stage.route(now=now).choices] == [PEERS[1]]
    stage.standings.answered(PEERS[0], now)
    assert stage.first(now=now) == 0


def test_strangers_come_after_those_we_know_to_be_there_but_before_a_queue() -> None:
    stage = Stage([FAST, SLOW])
    stage.standings.read(PEERS[1], Load(running=0, waiting=0, slots=4), 0.0)
    stage.offerings[PEERS[0]] = Offering(replica=PEERS[0], connected=False)
    assert stage.first() == 1
    stage.standings.read(PEERS[1], Load(running=4, waiting=0, slots=4), 0.0)
    route = stage.route()
    assert (route.choices[0].replica, route.choices[0].reason) == (PEERS[0], "stranger")


def test_the_own_engine_goes_first_among_equals_and_only_there() -> None:
    stage = Stage([FAST, FAST, FAST])
    stage.idle(0.0)
    stage.local = PEERS[1]
    assert stage.route().choices[0].reason == "local"
    assert shares(stage)[1] == 1.0
    stage.shelf.put(PEERS[1], MODEL, SLOW)
    assert shares(stage)[1] == 0.0


def test_the_own_engine_alone_is_not_weighed() -> None:
    stage = Stage([FAST])
    stage.local = PEERS[0]
    route = stage.route()
    assert (route.choices[0].replica, route.forecast) == (PEERS[0], None)
    assert (
        stage.router.choose(Stage([]).candidates(), Plain(wanted()), now=0.0, luck=lambda: NEVER).reason == "no_replica"
    )


# -- luck


def test_equals_share_and_the_clearly_worse_get_nothing() -> None:
    stage = Stage([FAST, FAST, FAST, SLOW])
    stage.idle(0.0)
    found = shares(stage)
    assert all(0.2 < share < 0.5 for share in found[:3])
    assert found[3] == 0.0


def test_nodes_that_see_the_same_figures_do_not_bury_one_peer_together() -> None:
    chosen = Counter[int]()
    for node in range(100):
        stage = Stage([FAST] * 8, seed=node)
        stage.idle(0.0)
        chosen[stage.first()] += 1
    assert max(chosen.values()) < 30


def test_retries_do_not_all_go_to_the_same_second() -> None:
    stage = Stage([FAST] * 4)
    stage.idle(0.0)
    second = Counter(stage.route().choices[1].replica for _ in range(200))
    assert max(second.values()) < 100


def test_one_prompt_in_a_hundred_goes_where_something_may_be_found_out() -> None:
    unknown, hopeless = curve(0.2, 0.02, width=1.5), curve(5.0, 0.9, width=0.1)
    stage = Stage([FAST, unknown, hopeless], explore=0.01)
    stage.idle(0.0)
    found = shares(stage, rounds=3000)
    assert 0.004 < found[1] < 0.02
    assert found[2] < 0.001
    safe = promised(ttft_s=0.4, tpot_s=0.03)
    stage = Stage([FAST, unknown, hopeless], explore=1.0)
    stage.idle(0.0)
    assert shares(stage, safe, rounds=50)[0] == 1.0


# -- many


def test_a_thousand_are_weighed_and_the_best_few_told() -> None:
    stage = Stage([SLOW] * 999 + [FAST])
    stage.idle(0.0)
    route = stage.route()
    assert route.choices[0].replica == PEERS[999]
    assert len(route.choices) == CHOICES
    assert route.forecast is not None
    assert PEERS[999] in route.forecast.soonest(32)


@given(
    st.lists(
        st.tuples(st.floats(0.01, 10), st.integers(0, 100), st.sampled_from(["", "", "hung", "drains"]), st.booleans()),
        max_size=20,
    ),
    st.randoms(),
    st.sampled_from([Aims(), Aims(ttft_s=0.5), Aims(weights=(("cost", 0.5), ("tail", 0.5))), Aims(tpot_s=0.01)]),
)
@hypothesis_settings(max_examples=60, deadline=None)
def test_everybody_open_is_tried_once_and_nobody_else(
    facts: list[tuple[float, int, str, bool]], luck: Random, aims: Aims
) -> None:
    stage = Stage([curve(ttft) for ttft, *_ in facts], explore=0.3)
    for peer, (_, running, closed, connected) in zip(stage.peers, facts, strict=True):
        stage.offerings[peer] = Offering(replica=peer, connected=connected)
        if closed == "hung":
            stage.standings.failed(peer, 0.0, hung=True)
        elif closed or running % 3:
            serving = Serving.DRAINING if closed else Serving.READY
            stage.standings.read(peer, Load(running=running, waiting=0, slots=32, serving=serving), 0.0)
    route = stage.route(wanted(aims=aims), luck=luck.random)
    tried = [each.replica for each in route.choices]
    open_ones = {peer for peer, each in zip(stage.peers, facts, strict=True) if not each[2]}
    assert set(tried) <= open_ones
    assert len(tried) == len(set(tried)) == min(len(open_ones), CHOICES)
    assert bool(tried) != bool(route.reason)


def test_columns_and_rows_of_what_was_forgotten_read_nothing_wrong() -> None:
    stage = Stage([FAST, FAST])
    stage.idle(0.0)
    stage.standings.read(PEERS[0], Load(running=50, waiting=0, slots=64), 0.0)
    candidates = stage.candidates()
    wish = Plain(wanted())
    assert stage.router.choose(candidates, wish, now=0.0, luck=lambda: 0.5).choices[0].replica == PEERS[1]
    stage.standings.forget(PEERS[0])
    stage.standings.read(PEERS[5], Load(running=9, waiting=0, slots=64), 0.0)  # gets the row that was given back
    forecast = stage.router.choose(candidates, wish, now=0.0, luck=lambda: 0.5).forecast
    assert forecast is not None
    assert forecast.load.tolist() == [2.0, 1.0]
    assert isinstance(stage.standings, Standings)


def test_where_others_send_most_the_nearly_best_share_and_where_nobody_does_the_best_is_taken() -> None:
    alone, crowded = (Stage([curve(0.10, 0.010, width=0.01), curve(0.11, 0.011, width=0.01)]) for _ in range(2))
    for stage, others in ((alone, 0), (crowded, 8)):
        for peer in stage.peers:
            for _ in range(40):  # answers as foretold: the corrections are sure
                stage.experience.corrections.observe(peer, MODEL, SURE, run=stage.standings.run(peer), now=0.0)
            stage.standings.read(peer, Load(running=others, waiting=0, slots=64), 0.0)
    assert shares(alone)[1] < 0.1
    assert shares(crowded)[1] > 0.2


def test_two_long_prompts_sent_at_once_are_not_both_thought_to_find_an_empty_queue() -> None:
    stage = Stage([curve(0.10, 0.010), curve(0.11, 0.011)])
    stage.idle(0.0)
    long = wanted(prompt_tokens=8000.0, output_tokens=10.0)
    assert shares(stage, long, now=0.1)[0] > 0.5
    stage.standings.began(PEERS[0], 0.1)
    ticket = stage.standings.expect(PEERS[0], 0.1, 1.0, 8000.0)
    waits = stage.forecast(long, now=0.1)
    assert waits.parts[0, 0] > waits.parts[0, 1] + 0.5  # seconds: 8,000 tokens at 1e-4 each
    assert shares(stage, long, now=0.1)[0] < 0.05
    stage.standings.heard(PEERS[0], ticket)
    assert shares(stage, long, now=0.1)[0] > 0.1


def test_what_we_sent_since_a_reading_stands_for_what_others_sent() -> None:
    alone, crowded = Stage([FAST] * 3), Stage([FAST] * 3)
    for stage, others in ((alone, 0), (crowded, 6)):
        for peer in stage.peers:
            stage.standings.began(peer, 0.0)
            stage.standings.read(peer, Load(running=1 + others, waiting=0, slots=64), 0.0)
        stage.standings.began(PEERS[0], 0.1)
        stage.standings.expect(PEERS[0], 0.1, 1.0, 1000.0)
    assert alone.forecast(now=0.1).load.tolist() == [3.0, 2.0, 2.0]
    crowd = 18 / 4  # prompts of others under way for each of ours
    assert crowded.forecast(now=0.1).load.tolist() == [3.0 + 6 + crowd, 2.0 + 6, 2.0 + 6]
    crowded.idle(0.2)
    assert crowded.forecast(now=0.2).load.tolist() == [3.0, 2.0, 2.0]


def test_a_claim_of_a_million_prompts_makes_a_bounded_crowd_and_strangers_none() -> None:
    stage = Stage([FAST] * 4)
    stage.standings.began(PEERS[0], 0.0)
    assert stage.forecast().crowd == 0.0
    stage.standings.read(PEERS[1], Load(running=10**6, waiting=0, slots=64), 0.0)
    assert stage.forecast().crowd == MOST_CROWD


def test_a_route_to_nobody_tells_what_was_foretold_for_when_to_come_back() -> None:
    stage = Stage([curve(), curve()])
    for peer in stage.peers:
        stage.standings.read(peer, Load(running=4, waiting=4, slots=4, accepting=False), 0.0)
    route = stage.route(now=0.5)
    assert (route.choices, route.reason) == ((), "not_accepting")
    assert route.forecast is not None
