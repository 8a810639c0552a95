import threading

import pytest
import trio

from node.adapters.devices import DeviceReader
from node.core.operator_limits import Readings

WARM = Readings(temperature_c=50.0)


async def test_what_the_driver_says_is_what_is_read() -> None:
    assert await DeviceReader(lambda: WARM).read() == WARM


@pytest.mark.slow
async def test_a_driver_that_hangs_holds_one_thread_and_no_more() -> None:
    go_on = threading.Event()
    began: list[int] = []

    def hanging() -> Readings:
        began.append(1)
        go_on.wait(10.0)
        return WARM

    reader = DeviceReader(hanging)
    for _ in range(3):
        with trio.move_on_after(0.05) as patience:
            await reader.read()
        assert patience.cancelled_caught
    assert len(began) == 1
    go_on.set()
    with trio.fail_after(5.0):
        assert await reader.read() == WARM
