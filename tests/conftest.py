"""How hypothesis runs here: without its clocks, which measure how busy the machine is and not the code.

In continuous integration it is the same examples every time, so that a run tells of the change and not of luck. Runs
by hand look for new ones: what they find is kept by hypothesis and shown again until it is mended.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "here", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("here")
