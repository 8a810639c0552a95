"""The wall clock of the program: what is signed, kept or shown carries its time.

Knows nothing else. Whoever decides takes the time as an argument; here it is read, for those who put a node together.
"""

import time


def wall_us() -> int:
    """Return microseconds since 1970."""
    return time.time_ns() // 1000
