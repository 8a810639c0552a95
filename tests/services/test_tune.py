"""The tuner in virtual time: it decides, switches, verifies, goes back, and remembers."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from node.core.strategy import DEFAULT, Strategy
from node.core.tuner_policy import TunerPolicy
from node.core.tuning_rules import EXPLORED_AGAIN
from node.errors import NodeError
from tests.fakes.tuner_world import GOOD, LIAR, WALL, World


def play(world_of: Callable[[], World], *parts: Callable[[World], Any]) -> World:
    """Run the parts one after another in one world, whose clock jumps."""
    made: list[World] = []

    async def main() -> None:
        made.append(world_of())
        for part in parts:
            await part(made[0])

    trio.run(main, clock=MockClock(autojump_threshold=0))
    return made[0]


def run_for(seconds: float, script: Callable[[World], None] | None = None) -> Callable[[World], Any]:
    return lambda world: world.run(seconds, script)


def world(**changes: Any) -> Callable[[], World]:
    def make() -> World:
        first = {name: changes[name] for name in ("policy", "seed", "rehearsing") if name in changes}
        made = World(**first)
        for name, value in changes.items():
            if name in ("gains", "measured", "silent"):
                setattr(made.adviser, name, value)
            else:
                setattr(made, name, value)
        return made

    return make


def test_without_a_learner_s_answer_the_default_stays_and_nothing_is_probed() -> None:
    end = play(world(silent="nothing was learnt"), run_for(600))
    assert end.switches == []
    assert end.tuner.facts()["phase"] == "steady"
    assert "no advice" in end.tuner.facts()["reason"]
    assert end.tuner.probes() is None


def test_the_first_answer_of_the_learner_is_followed_while_nobody_asks() -> None:
    end = play(world(gains={GOOD: 0.3}, slow={GOOD: 0.7}, start_first=True), run_for(300))
    assert end.switches == [GOOD]
    assert end.tuner.facts()["strategy"] == GOOD.name
    assert end.tuner.facts()["phase"] == "verifying"
    assert end.tuner.facts()["predicted"] == pytest.approx({"gain": 0.3, "low": 0.25, "high": 0.35})


def test_a_good_strategy_is_confirmed_by_people_s_answers_and_kept_over_a_restart() -> None:
    end = play(
        world(gains={GOOD: 0.3}, measured={GOOD: 3}, slow={GOOD: 0.7}, rate=0.5, start_first=True), run_for(3600)
    )
    assert end.switches == [GOOD]
    facts = end.tuner.facts()
    assert facts["phase"] == "steady"
    assert facts["last_good"] == GOOD.name
    assert facts["observed"]["gain"] == pytest.approx(0.36, abs=0.15)
    assert facts["observed"]["low"] > 0
    again = play(end.restarted, run_for(30))
    assert again.tuner.facts()["strategy"] == GOOD.name


def test_what_was_never_tried_here_is_not_tried_on_people_who_ask() -> None:
    end = play(world(gains={LIAR: 0.5}, slow={LIAR: 2.0}, rate=0.1), run_for(3600))
    assert end.switches == []
    decision = end.tuner.explain()["decision"]
    assert decision["best"] == LIAR.name
    assert decision["untried"]
    probes = end.tuner.probes()
    assert probes is not None
    assert probes.strategies[:2] == (DEFAULT, LIAR)


def test_of_what_was_tried_something_good_is_taken_while_the_best_is_yet_to_be_tried() -> None:
    end = play(world(gains={LIAR: 0.5, GOOD: 0.3}, measured={GOOD: 3}, slow={GOOD: 0.7}, rate=0.5), run_for(1200))
    assert end.switches[0] == GOOD
    assert LIAR not in end.switches


def test_a_strategy_that_reality_contradicts_is_taken_back_banned_and_told_of() -> None:
    end = play(world(gains={LIAR: 0.5}, measured={LIAR: 1}, slow={LIAR: 2.0}, rate=0.5), run_for(3600))
    assert end.switches == [LIAR, DEFAULT]
    facts = end.tuner.facts()
    assert facts["rollbacks"] == 1
    assert facts["strategy"] == "default"
    assert [ban["strategy"] for ban in facts["banned"]] == [LIAR.name]
    assert end.flushed == 1
    assert end.steps[-4:] == ["turn", "done", "contradicted", "returned"]
    assert facts["lost_s"] == pytest.approx(60.0)


def test_a_default_that_is_worse_than_what_ran_is_left_alone_until_the_traffic_changes() -> None:
    def lie(here: World) -> None:
        here.adviser.gains = {GOOD: -0.4}  # the learner takes the default for the better one
        here.adviser.teach()

    def longer(here: World) -> None:
        here.prompt_tokens *= 8

    def script(here: World) -> None:
        here.at(1800.0, lie)
        here.at(9000.0, longer)

    end = play(world(gains={GOOD: 0.4}, measured={GOOD: 3}, slow={GOOD: 0.6}, rate=0.5), run_for(12_600, script))
    assert end.switches == [GOOD, DEFAULT, GOOD, DEFAULT, GOOD]  # not ten minutes later again, but for other prompts
    steps = [str(step["event"]) for step in end.tuner.history()]
    assert steps.count("contradicted") == 2
    again = next(step for step in end.told_steps("question") if "traffic has changed" in str(step["reason"]))
    assert "prompt tokens" in str(again["reason"])
    bans = end.tuner.facts()["banned"]
    assert [ban["strategy"] for ban in bans] == ["default"]


def test_nothing_is_decided_before_it_is_known_what_the_engine_takes() -> None:
    def script(here: World) -> None:
        here.known = trio.Event()
        here.at(40.0, lambda world: world.known.set())

    end = play(world(measured={GOOD: 3}, gains={GOOD: 0.3}, rate=0.4), run_for(120, script))
    reasons = [str(step["reason"]) for step in end.told_steps("keep")]
    assert reasons == []
    assert end.switches == [GOOD]


def test_traffic_that_changes_while_a_strategy_is_verified_ends_that_without_a_verdict() -> None:
    def learn(here: World) -> None:
        here.adviser.gains = {GOOD: 0.1}
        here.adviser.teach()

    def longer(here: World) -> None:
        here.prompt_tokens, here.usual_s = 8 * here.prompt_tokens, 1.5 * here.usual_s

    def script(here: World) -> None:
        here.at(600.0, learn)
        here.at(720.0, longer)

    end = play(world(measured={GOOD: 3}, slow={GOOD: 0.92}, rate=0.4), run_for(1800, script))
    assert end.switches == [GOOD]
    assert "contradicted" not in end.steps
    reasons = [str(step["reason"]) for step in end.tuner.history() if step["event"] == "unjudged"]
    assert len(reasons) == 1
    assert "the traffic has changed meanwhile: prompt tokens" in reasons[0]
    assert end.tuner.facts()["last_good"] == "default"
    assert end.adviser.asked[-1]["current"] == 2  # decided anew


def test_after_trials_nothing_is_tried_for_hours_unless_the_traffic_changes() -> None:
    def look(here: World) -> None:
        seen.append(here.tuner.probes() is not None)

    def longer(here: World) -> None:
        here.prompt_tokens *= 8

    def script(here: World) -> None:
        here.at(300.0, look)
        here.at(310.0, lambda world: world.tuner.tried())
        here.at(400.0, look)
        here.at(310.0 + EXPLORED_AGAIN, look)
        here.at(320.0 + EXPLORED_AGAIN, lambda world: world.tuner.tried())
        here.at(400.0 + EXPLORED_AGAIN, look)
        here.at(500.0 + EXPLORED_AGAIN, longer)
        here.at(2000.0 + EXPLORED_AGAIN, look)

    seen: list[bool] = []
    play(world(measured={GOOD: 1, LIAR: 1}, rate=0.1), run_for(EXPLORED_AGAIN + 2100, script))
    assert seen == [True, False, True, False, True]


def test_trials_end_as_soon_as_the_owner_wishes_something() -> None:
    def lent(here: World) -> None:
        here.up()
        here.at(60.0, lambda world: world.down("lent to trials"))
        here.at(70.0, lambda world: (checked.append(world.tuner.engaged()), world.tuner.fix(GOOD)))
        here.at(71.0, lambda world: checked.append(world.tuner.engaged()))

    checked: list[bool] = []
    play(world(), run_for(100, lent))
    assert checked == [False, True]


def test_what_was_banned_is_not_chosen_again_after_a_restart_of_the_node() -> None:
    end = play(world(gains={LIAR: 0.5}, slow={LIAR: 2.0}, rehearsing=True), run_for(900))
    assert end.switches == [LIAR, DEFAULT]
    again = play(end.restarted, run_for(3600))
    assert again.switches == []
    assert again.adviser.asked
    assert all(asked["banned"] == [1] for asked in again.adviser.asked)
    probes = again.tuner.probes()
    assert probes is not None
    assert LIAR in probes.strategies


def test_a_rehearsal_finds_a_slow_strategy_out_before_anybody_asks() -> None:
    end = play(world(gains={LIAR: 0.5}, slow={LIAR: 1.2}, rehearsing=True), run_for(900))
    assert end.switches == [LIAR, DEFAULT]
    assert "equal requests" in end.tuner.facts()["banned"][0]["reason"]
    assert end.costs == []


@pytest.mark.parametrize(("slow", "requests"), [(5.0, 8 + 4), (1.2, 8 + 8)])
def test_a_rehearsal_ends_as_soon_as_it_says_enough(slow: float, requests: int) -> None:
    end = play(world(gains={LIAR: 0.5}, slow={LIAR: slow}, rehearsing=True), run_for(900))
    assert end.switches == [LIAR, DEFAULT]
    assert end.rehearsed == requests


@pytest.mark.parametrize("slow", [1.2, 5.0])
def test_where_two_engines_fit_a_slow_one_is_found_out_before_it_takes_over(slow: float) -> None:
    end = play(world(start_first=True, rehearsing=True, gains={LIAR: 0.5}, slow={LIAR: slow}), run_for(900))
    assert (end.switches, end.auditioned) == ([], [LIAR])
    assert "equal requests" in end.tuner.facts()["banned"][0]["reason"]
    assert end.tuner.facts()["failed_starts"] == end.tuner.facts()["rollbacks"] == 0
    assert end.published == []  # no failure: what it is measured at in idle time is published
    probes = end.tuner.probes()
    assert probes is not None
    assert LIAR in probes.strategies


def test_a_good_one_is_rehearsed_once_before_it_takes_over_and_not_again() -> None:
    end = play(world(start_first=True, rehearsing=True, gains={GOOD: 0.5}, slow={GOOD: 0.7}), run_for(900))
    assert (end.switches, end.auditioned, end.rehearsals) == ([GOOD], [], 2)


def test_what_somebody_broke_off_is_rehearsed_again_once_it_serves() -> None:
    def interrupt(here: World) -> None:
        here.up()
        here.at(166.0, lambda world: setattr(world, "asked", world.asked + 1))

    end = play(world(start_first=True, rehearsing=True, gains={LIAR: 0.5}, slow={LIAR: 5.0}), run_for(1200, interrupt))
    assert end.switches == [LIAR, DEFAULT]
    assert end.auditioned == []


def test_what_is_answered_beside_the_end_of_the_engine_of_before_says_nothing_of_the_new_one() -> None:
    def switched(here: World) -> None:
        here.up()
        here.leaving = True
        here.slow[GOOD] = 4.0  # as long as it shares the machine

    def left(here: World) -> None:
        here.leaving, here.slow[GOOD] = False, 0.7

    def script(lasts: float) -> Callable[[World], None]:
        def plan(here: World) -> None:
            switched(here)
            here.at(lasts, left)

        return plan

    how: dict[str, Any] = {"gains": {GOOD: 0.3}, "measured": {GOOD: 3}, "rate": 0.5, "start_first": True}
    probe = play(world(**how, slow={GOOD: 0.7}), run_for(900))
    at = next(step["at"] for step in probe.tuner.history() if step["event"] == "done")
    began = datetime.fromisoformat(at).timestamp() - WALL
    assert play(world(**how), run_for(1800, script(began + 50.0))).switches == [GOOD]
    assert play(world(**how), run_for(1800, script(began + 300.0))).switches == [GOOD, DEFAULT]


def test_no_rehearsal_shares_the_machine_with_the_engine_of_before() -> None:
    def leave(here: World) -> None:
        here.leaving = True
        here.at(1200.0, lambda world: setattr(world, "leaving", False))

    end = play(world(gains={LIAR: 0.5}, slow={LIAR: 2.0}, rehearsing=True), run_for(1190, leave))
    assert (end.switches, end.rehearsed) == ([LIAR], 8)
    end = play(world(gains={LIAR: 0.5}, slow={LIAR: 2.0}, rehearsing=True), run_for(1500, leave))
    assert (end.switches, end.rehearsed) == ([LIAR, DEFAULT], 8 + 4)


def test_answers_that_break_off_in_a_row_send_the_strategy_back() -> None:
    end = play(world(gains={LIAR: 0.5}, measured={LIAR: 1}, rate=0.5, failing={LIAR}), run_for(1800))
    assert end.switches == [LIAR, DEFAULT]
    assert "broke off" in end.tuner.facts()["banned"][0]["reason"]


@pytest.mark.parametrize("result", ["start_failed", "out_of_memory", "timed_out", "crashed"])
def test_a_start_that_fails_is_banned_and_published_and_the_old_one_serves(result: str) -> None:
    end = play(world(gains={LIAR: 0.5}, results={LIAR: result}), run_for(7200))
    assert end.switches == [LIAR]
    assert end.published == [(LIAR, result)]
    facts = end.tuner.facts()
    assert (facts["failed_starts"], facts["strategy"], facts["phase"]) == (1, "default", "steady")


def test_wrong_answers_ban_and_are_no_record_of_a_failure() -> None:
    end = play(world(gains={LIAR: 0.5}, results={LIAR: "wrong_answers"}), run_for(7200))
    assert (end.switches, end.published) == ([LIAR], [])
    assert end.tuner.facts()["banned"][0]["reason"] == "wrong_answers"


def test_an_engine_too_busy_to_drain_is_nobody_s_fault_and_tried_again_later() -> None:
    end = play(world(gains={GOOD: 0.5}, measured={GOOD: 2}, results={GOOD: "not_drained"}), run_for(3600))
    assert end.switches == [GOOD, GOOD]
    assert end.tuner.facts()["banned"] == []


def test_a_loop_of_crashes_under_a_strategy_that_was_confirmed_leads_back_to_the_default() -> None:
    start = world(gains={GOOD: 0.3}, measured={GOOD: 3}, slow={GOOD: 0.7}, rate=0.5, start_first=True)

    def crash(made: World) -> None:
        made.crashes = 3
        made.down("it died")

    end = play(start, run_for(3600), run_for(200, crash))
    assert end.switches == [GOOD, DEFAULT]
    assert end.published == [(GOOD, "crashed")]
    assert end.tuner.facts()["strategy"] == "default"


def test_the_owner_s_wish_is_done_at_once_and_stays_until_released() -> None:
    def wish(made: World) -> None:
        made.tuner.fix(GOOD)

    end = play(world(gains={LIAR: 0.5}, measured={LIAR: 1}, rate=0.2), run_for(600, wish))
    assert end.switches == [GOOD]
    assert (end.tuner.facts()["mode"], end.tuner.facts()["phase"]) == ("fixed", "fixed")
    again = play(end.restarted, run_for(300))
    assert again.switches == []
    assert again.tuner.facts()["strategy"] == GOOD.name
    freed = play(again.restarted, run_for(1200, lambda made: made.tuner.release()))
    assert freed.tuner.facts()["mode"] == "auto"
    assert freed.switches[0] == LIAR


def test_a_wish_that_fails_leaves_everything_as_it_was_and_says_so() -> None:
    end = play(world(results={GOOD: "out_of_memory"}), run_for(300, lambda made: made.tuner.fix(GOOD)))
    facts = end.tuner.facts()
    assert (facts["mode"], facts["strategy"], facts["banned"]) == ("auto", "default", [])
    assert any("out of memory" in str(step["reason"]) for step in end.tuner.history())


def test_a_wish_that_cannot_be_is_refused_with_the_reason() -> None:
    def wish(made: World) -> None:
        with pytest.raises(NodeError, match="two GPUs"):
            made.tuner.fix(Strategy(tensor_parallel=2))

    assert play(world(), run_for(60, wish)).switches == []


def test_a_switch_waits_for_its_turn_and_is_forgone_when_the_engine_goes_away() -> None:
    async def leave(made: World) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run, 100)
            await trio.sleep(50)
            assert made.tuner.facts()["phase"] == "waiting"
            made.down("paused by its owner")

    end = play(world(gains={GOOD: 0.3}, measured={GOOD: 3}, turn_s=1e6), leave)
    assert end.switches == []
    assert end.steps[-1] == "forgone"
    assert end.tuner.facts()["phase"] == "away"


def test_without_a_turn_it_is_tried_again_after_half_an_hour() -> None:
    end = play(world(gains={GOOD: 0.3}, no_turn="others go first"), run_for(4000))
    assert end.steps.count("forgone") in (2, 3)


def test_a_new_lesson_is_a_reason_to_decide_anew_but_not_more_than_once_a_minute() -> None:
    async def teach(made: World) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run, 300)
            for _ in range(20):
                await trio.sleep(10)
                made.adviser.teach()

    assert len(play(world(), teach).adviser.asked) in (4, 5)


def test_no_more_switches_a_day_than_the_owner_allows() -> None:
    end = play(world(gains={GOOD: 0.3}, policy=TunerPolicy(switches_per_day=0)), run_for(600))
    assert end.switches == []
    assert "enough" in end.tuner.facts()["decision"]["why"]


def test_with_the_tuner_off_nothing_happens_and_wishes_are_refused() -> None:
    def wish(made: World) -> None:
        with pytest.raises(NodeError, match=r"tuner\.enabled"):
            made.tuner.fix(GOOD)

    end = play(world(gains={GOOD: 0.3}, policy=TunerPolicy(enabled=False)), run_for(600, wish))
    assert (end.switches, end.tuner.facts()["mode"]) == ([], "off")


def test_every_step_is_told_with_its_reason() -> None:
    end = play(world(gains={GOOD: 0.3}, measured={GOOD: 3}), run_for(300))
    steps = [facts for event, facts in end.told if event == "tuner"]
    assert [step["phase"] for step in steps] == ["steady", "deciding", "waiting", "switching", "verifying"]
    assert all(step["reason"] for step in steps)


def test_what_nobody_measured_here_is_not_applied_while_somebody_interrupts_the_rehearsal() -> None:
    async def disturb(made: World) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.run, 900)
            while not any(facts.get("phase") == "waiting" for _, facts in made.told):  # noqa: ASYNC110 -- virtual
                await trio.sleep(0.5)
            made.asked += 1

    end = play(world(gains={LIAR: 0.5}, slow={LIAR: 2.0}, rehearsing=True), disturb)
    assert end.switches == []
    assert end.steps[-1] == "forgone"


@pytest.mark.parametrize(("rate", "start_first"), [(0.0, False), (0.1, False), (0.1, True), (1.0, False), (1.0, True)])
def test_an_hour_beside_a_lying_history_costs_people_less_than_two_per_cent(rate: float, start_first: bool) -> None:
    for seed in range(3):
        start = world(
            gains={LIAR: 0.5}, slow={LIAR: 2.0}, rate=rate, start_first=start_first, seed=seed, rehearsing=True
        )
        end = play(start, run_for(3600))
        assert sum(end.costs) <= 0.02 * max(len(end.costs), 1)
        assert end.switches.count(LIAR) <= 1
        assert end.tuner.facts()["strategy"] == "default"


def test_an_idle_node_does_not_ask_its_learner_again_and_again() -> None:
    end = play(world(gains={LIAR: 0.5}, asked=1), run_for(7200, lambda made: setattr(made, "asked", 2)))
    assert end.switches == []
    assert len(end.adviser.asked) <= 6
