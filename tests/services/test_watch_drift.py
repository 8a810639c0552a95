"""The alarm: once for each episode and quantity, with what a person needs to act on it."""

from collections.abc import Mapping
from typing import Any

import trio
from structlog.testing import capture_logs

from node.core.calibration import SLOWER, Drift
from node.services.watch_drift import LOOK, DriftWatch


class Quantity:
    """Drifts when a test says so."""

    def __init__(self) -> None:
        self.now: Drift | None = None

    def drift(self) -> Drift | None:
        return self.now


async def test_drift_is_said_once_for_each_episode_and_so_is_its_end(autojump_clock: object) -> None:
    ttft, tpot = Quantity(), Quantity()
    began = trio.current_time()
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(DriftWatch({"ttft": ttft, "tpot": tpot}).run)
            await trio.sleep(3 * LOOK)
            assert logs == []
            ttft.now = Drift(since=began, factor=1.8, coverage=0.55)
            await trio.sleep(3 * LOOK)
            ttft.now = Drift(since=began, factor=2.5, coverage=0.31)  # the same one, worse
            await trio.sleep(3 * LOOK)
            assert [said(each) for each in logs] == [("routing.drift", "ttft")]
            ttft.now = None
            await trio.sleep(3 * LOOK)
            ttft.now = tpot.now = Drift(since=trio.current_time(), factor=3.0, coverage=0.2)
            await trio.sleep(3 * LOOK)
            nursery.cancel_scope.cancel()
    assert [said(each) for each in logs] == [
        ("routing.drift", "ttft"),
        ("routing.drift_over", "ttft"),
        ("routing.drift", "ttft"),
        ("routing.drift", "tpot"),
    ]


async def test_the_alarm_says_what_drifted_by_how_much_since_when_and_what_to_do(autojump_clock: object) -> None:
    ttft = Quantity()
    ttft.now = Drift(since=trio.current_time() - 90.0, factor=1.8, coverage=0.55)
    with capture_logs() as logs, trio.move_on_after(5 * LOOK):
        await DriftWatch({"ttft": ttft}).run()
    assert logs == [
        {
            "event": "routing.drift", "log_level": "warning", "quantity": "ttft", "factor": 1.8, "coverage_90": 0.55,
            "since_s": 90.0, "remedy": SLOWER,
        }
    ]  # fmt: skip


def said(each: Mapping[str, Any]) -> tuple[str, str]:
    return each["event"], each["quantity"]
