"""How hypothesis runs here: without its clocks, which measure how busy the machine is and not the code.

In continuous integration it is the same examples every time, so that a run tells of the change and not of luck. Runs
by hand look for new ones: what they find is kept by hypothesis and shown again until it is mended.

And how tests with libp2p end: what it left is collected before the next test, which must not be blamed for it.
"""

import gc
import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "here", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("here")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for each in items:
        if _with_libp2p(each):
            each.add_marker(pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"))


@pytest.hookimpl(trylast=True)  # after the fixtures are gone
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if _with_libp2p(item) and not _with_libp2p(nextitem):
        gc.collect()  # while the filter that the marker brings still holds


def _with_libp2p(item: pytest.Item | None) -> bool:
    return item is not None and item.get_closest_marker("libp2p") is not None
