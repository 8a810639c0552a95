"""What is known of how busy a replica is: nothing counted twice, no word believed for ever."""

from hypothesis import given
from hypothesis import strategies as st

from node.core.standings import (
    BELIEVED_FOR,
    FIRST_FAULT_BAR,
    FIRST_HUNG_BAR,
    LONGEST_BAR,
    LONGEST_FAULT_BAR,
    PROBING,
    REPLICAS,
    UNKNOWN_WORK,
    Column,
    Standings,
)
from protocol.ids import PeerId
from protocol.load import FRESH_FOR, Load, Serving
from tests.protocol import samples, swarm_samples

ANNE, BERT = samples.AUTHOR, swarm_samples.OTHER


def test_a_replica_that_nobody_asked_is_neither_idle_nor_busy() -> None:
    standing = Standings().standing(ANNE, 0.0)
    assert (standing.work, standing.known, standing.fresh, standing.closed) == (UNKNOWN_WORK, False, False, "")


def test_our_own_prompts_count_at_once_and_never_twice() -> None:
    standings = Standings()
    standings.began(ANNE, 0.0)
    standings.read(ANNE, Load(running=3, waiting=1), 1.0)  # ours is one of the four
    assert standings.standing(ANNE, 1.0).work == 4
    standings.began(ANNE, 1.1)
    standings.began(ANNE, 1.2)
    assert standings.standing(ANNE, 1.2).work == 6
    standings.ended(ANNE)
    assert standings.standing(ANNE, 1.3).work == 5


def test_queued_tokens_weigh_in() -> None:
    standings = Standings()
    standings.read(ANNE, Load(running=1, waiting=0, queued_tokens=5120), 0.0)
    assert standings.standing(ANNE, 0.0).work == 11


def test_a_reading_goes_stale_and_then_counts_no_more() -> None:
    standings = Standings()
    standings.read(ANNE, Load(running=9, waiting=0), 0.0)
    assert standings.standing(ANNE, FRESH_FOR).fresh
    assert not standings.standing(ANNE, FRESH_FOR + 0.1).fresh
    assert standings.standing(ANNE, FRESH_FOR + 0.1).work == 9
    assert standings.standing(ANNE, BELIEVED_FOR + 0.1).work == UNKNOWN_WORK


def test_what_drains_loads_or_takes_nothing_is_closed() -> None:
    standings = Standings()
    for load, why in (
        (Load(running=0, waiting=0, serving=Serving.DRAINING), "draining"),
        (Load(running=0, waiting=0, serving=Serving.LOADING), "loading"),
        (Load(running=0, waiting=0, accepting=False), "not_accepting"),
        (Load(running=0, waiting=0), ""),
    ):
        standings.read(ANNE, load, 0.0)
        assert standings.standing(ANNE, 0.0).closed == why


def test_a_refusal_bars_for_as_long_as_it_says_within_bounds() -> None:
    standings = Standings()
    standings.refused(ANNE, 0.0, retry_after=10)
    assert standings.standing(ANNE, 9.9).closed == "refused"
    assert standings.standing(ANNE, 10.0).closed == ""
    standings.refused(BERT, 0.0, retry_after=86_400)
    assert standings.standing(BERT, LONGEST_BAR).closed == ""


def test_each_failure_in_a_row_bars_for_longer_until_it_answers() -> None:
    standings, now = Standings(), 0.0
    for wait in (FIRST_FAULT_BAR, 2 * FIRST_FAULT_BAR, 4 * FIRST_FAULT_BAR):
        standings.failed(ANNE, now)
        assert standings.standing(ANNE, now + wait - 0.1).closed == "failed"
        now += wait
        assert standings.standing(ANNE, now).closed == ""
    for _ in range(2_000):
        standings.failed(ANNE, now)
    assert standings.standing(ANNE, now + LONGEST_FAULT_BAR).closed == ""
    standings.answered(ANNE, now)
    assert standings.standing(ANNE, now).closed == ""
    standings.failed(ANNE, now)
    assert standings.standing(ANNE, now + FIRST_FAULT_BAR).closed == ""


def test_a_new_run_starts_with_a_clean_slate() -> None:
    standings = Standings()
    standings.began(ANNE, 0.0)
    standings.failed(ANNE, 0.0)
    standings.renewed(ANNE)
    standing = standings.standing(ANNE, 0.0)
    assert (standing.closed, standing.in_flight) == ("", 1)


def test_the_memory_is_bounded_and_keeps_what_we_wait_for() -> None:
    standings = Standings()
    standings.began(ANNE, 0.0)
    for number in range(REPLICAS + 10):
        key = PeerId((number * 8 + 9).to_bytes(32, "little"))
        standings.refused(key, float(number + 1), None)
        standings.answered(key, float(number + 1))
    assert standings.standing(ANNE, 0.0).in_flight == 1
    assert len(standings) <= REPLICAS


def test_who_answered_us_is_remembered_though_it_goes_and_the_longest_unheard_forgotten_first() -> None:
    standings = Standings()
    for peer in (ANNE, BERT, ANNE):
        standings.helped(peer)
    standings.forget(ANNE)
    assert standings.helpers() == (BERT, ANNE)
    for number in range(REPLICAS - 1):
        standings.helped(PeerId((number * 8 + 9).to_bytes(32, "little")))
    assert BERT not in standings.helpers()
    assert standings.helpers()[0] == ANNE


@given(st.lists(st.sampled_from(["began", "ended", "read"]), max_size=40), st.integers(0, 50))
def test_the_work_is_never_less_than_our_own(events: list[str], running: int) -> None:
    standings, ours = Standings(), 0
    for event in events:
        if event == "began":
            standings.began(ANNE, 0.0)
            ours += 1
        elif event == "ended":
            standings.ended(ANNE)
            ours = max(ours - 1, 0)
        else:
            standings.read(ANNE, Load(running=running, waiting=0), 0.0)
        standing = standings.standing(ANNE, 0.0)
        assert standing.in_flight == ours
        assert standing.work >= ours


def test_after_a_fault_bar_one_prompt_probes_and_the_next_waits_for_its_answer() -> None:
    standings = Standings()
    standings.failed(ANNE, 0.0)
    assert standings.standing(ANNE, FIRST_FAULT_BAR).closed == ""
    standings.began(ANNE, FIRST_FAULT_BAR)
    assert standings.standing(ANNE, FIRST_FAULT_BAR).closed == "probing"
    standings.answered(ANNE, FIRST_FAULT_BAR + 1)
    assert standings.standing(ANNE, FIRST_FAULT_BAR + 1).closed == ""
    standings.began(ANNE, FIRST_FAULT_BAR + 1)
    assert standings.standing(ANNE, FIRST_FAULT_BAR + 1).closed == ""


def test_who_fell_silent_is_barred_until_it_tells_how_busy_it_is_and_who_failed_is_not_let_in_by_that() -> None:
    standings = Standings()
    for peer in (ANNE, BERT):
        standings.failed(peer, 0.0, hung=True)
        assert standings.standing(peer, FIRST_HUNG_BAR - 0.1).closed == "hung"
    standings.read(ANNE, Load(running=0, waiting=0), 3.0)
    assert standings.standing(ANNE, 3.0).closed == ""
    standings.began(ANNE, 3.0)
    assert standings.standing(ANNE, 3.0).closed == PROBING  # by one prompt
    assert standings.standing(BERT, FIRST_HUNG_BAR).closed == ""
    standings.answered(BERT, 40.0)
    standings.failed(BERT, 50.0)
    standings.read(BERT, Load(running=0, waiting=0), 51.0)
    assert standings.standing(BERT, 51.0).closed == "failed"


def test_a_probe_that_fails_bars_for_longer_and_one_that_says_nothing_is_followed_by_another() -> None:
    standings = Standings()
    standings.failed(ANNE, 0.0)
    standings.began(ANNE, 5.0)
    standings.failed(ANNE, 6.0, hung=True)
    standings.ended(ANNE)
    assert standings.standing(ANNE, 6.0 + 2 * FIRST_HUNG_BAR - 0.1).closed == "hung"
    assert standings.standing(ANNE, 6.0 + 2 * FIRST_HUNG_BAR).closed == ""
    standings.began(ANNE, 67.0)
    standings.ended(ANNE)
    assert standings.standing(ANNE, 67.0).closed == ""


def test_a_refusal_needs_no_probe() -> None:
    standings = Standings()
    standings.refused(ANNE, 0.0, retry_after=1)
    standings.began(ANNE, 1.0)
    assert standings.standing(ANNE, 1.0).closed == ""


def test_each_run_has_a_number_of_its_own() -> None:
    standings = Standings()
    assert standings.run(ANNE) == 0
    standings.began(ANNE, 0.0)
    first = standings.run(ANNE)
    standings.renewed(ANNE)
    second = standings.run(ANNE)
    standings.forget(ANNE)
    standings.began(ANNE, 0.0)
    assert len({0, first, second, standings.run(ANNE)}) == 4


def test_a_row_that_somebody_kept_reads_unknown_once_its_replica_is_forgotten() -> None:
    for looked_at in (False, True):
        standings = Standings()
        standings.read(ANNE, Load(running=9, waiting=0), 0.0)
        rows, version = standings.rows([ANNE]), standings.version
        if looked_at:
            assert standings.columns(rows)[Column.OTHERS, 0] == 9
        standings.forget(ANNE)
        assert standings.version != version
        assert standings.columns(rows)[Column.OTHERS, 0] == UNKNOWN_WORK
        assert standings.columns(rows)[Column.READ_AT, 0] < -1e300


_EVENTS = st.sampled_from(["began", "ended", "read", "drains", "failed", "refused", "answered", "renewed", "forget"])


@given(st.lists(st.tuples(st.sampled_from([ANNE, BERT]), _EVENTS, st.floats(0, 8)), max_size=60))
def test_the_columns_say_what_the_standings_say(events: list[tuple[PeerId, str, float]]) -> None:
    standings, now = Standings(), 0.0
    for peer, event, later in events:
        now += later
        match event:
            case "read" | "drains":
                serving = Serving.DRAINING if event == "drains" else Serving.READY
                standings.read(peer, Load(running=3, waiting=1, slots=8, serving=serving), now)
            case "refused":
                standings.refused(peer, now, 3.0)
            case "ended" | "renewed" | "forget":
                getattr(standings, event)(peer)
            case _:
                getattr(standings, event)(peer, now)
        columns = standings.columns(standings.rows([ANNE, BERT]))
        for at, each in enumerate((ANNE, BERT)):
            one, known = standings.standing(each, now), now - columns[Column.READ_AT, at] <= BELIEVED_FOR
            others = columns[Column.OTHERS, at] if known else UNKNOWN_WORK
            assert (one.known, one.in_flight) == (known, columns[Column.IN_FLIGHT, at])
            assert one.work == others + columns[Column.IN_FLIGHT, at]
            assert bool(one.closed) == (columns[Column.CLOSED_UNTIL, at] > now)
            assert columns[Column.RUN, at] == standings.run(each)


def sent(standings: Standings) -> tuple[float, float]:
    """Return our prompts at Anne's since her last reading, and the tokens of those that wait for a first byte."""
    columns = standings.columns(standings.rows([ANNE]))
    return float(columns[Column.SINCE, 0]), float(columns[Column.SENT, 0])


def test_tokens_that_we_sent_stand_in_the_queue_until_a_first_byte_or_a_reading() -> None:
    standings = Standings()
    standings.began(ANNE, 0.0)
    first = standings.expect(ANNE, 0.0, 1.0, 300.0)
    standings.began(ANNE, 0.1)
    second = standings.expect(ANNE, 0.1, 1.0, 500.0)
    assert sent(standings) == (2, 800)
    standings.heard(ANNE, first)
    standings.heard(ANNE, first)
    assert sent(standings) == (2, 500)
    standings.read(ANNE, Load(running=2, waiting=0, queued_tokens=500), 0.2)
    assert sent(standings) == (0, 0)
    standings.began(ANNE, 0.3)
    third = standings.expect(ANNE, 0.3, 1.0, 70.0)
    standings.heard(ANNE, second)  # was in the reading: takes nothing out of what came later
    assert sent(standings) == (1, 70)
    standings.renewed(ANNE)
    assert sent(standings)[1] == 0
    standings.heard(ANNE, third)
    assert sent(standings)[1] == 0


@given(st.lists(st.tuples(st.sampled_from(["send", "hear", "read"]), st.integers(0, 9)), max_size=60))
def test_the_tokens_in_the_queue_are_those_of_the_unheard_since_the_reading(events: list[tuple[str, int]]) -> None:
    standings, waiting, told = Standings(), list[tuple[int, float]](), list[int]()
    standings.began(ANNE, 0.0)
    for event, number in events:
        if event == "send":
            waiting.append((standings.expect(ANNE, 0.0, 1.0, number * 0.1), number * 0.1))
        elif event == "hear" and waiting:
            standings.heard(ANNE, waiting.pop(number % len(waiting))[0])
        elif event == "read":
            standings.read(ANNE, Load(running=1, waiting=0), 0.0)
            told = [ticket for ticket, _ in waiting]
        unheard = sum(tokens for ticket, tokens in waiting if ticket not in told)
        assert abs(sent(standings)[1] - unheard) < 1e-9


def test_who_refuses_because_its_engine_is_not_there_is_not_called_full() -> None:
    for serving, closed in ((Serving.LOADING, "loading"), (Serving.AWAY, "away")):
        standings = Standings()
        standings.read(ANNE, Load(running=0, waiting=0, serving=serving), 0.0)
        standings.refused(ANNE, 0.0, 7.0)
        assert (standings.standing(ANNE, 1.0).closed, standings.standing(ANNE, 1.0).closed_until) == (closed, 7.0)
        standings.read(ANNE, Load(running=0, waiting=0, serving=Serving.DRAINING), 1.0)
        assert standings.standing(ANNE, 1.0).closed == "refused"  # it was asked just now: nobody knocks again
        standings.read(ANNE, Load(running=0, waiting=0, serving=serving), 8.0)
        standings.failed(ANNE, 8.0)
        assert standings.standing(ANNE, 9.0).closed == "failed"  # a fault is a fault
