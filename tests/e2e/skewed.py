"""A node whose wall clock is wrong: `python tests/e2e/skewed.py SECONDS up ...`, as `python -m node up ...` else.

The clock that the whole program reads is moved, its logs' and its records' too; the loop's own clock is not.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

ahead_ns = round(float(sys.argv.pop(1)) * 1e9)
honest = time.time_ns
time.time_ns = lambda: honest() + ahead_ns  # as if somebody had set the machine's clock

from node.__main__ import main  # noqa: E402 -- what it imports must find the clock as it is to be

if __name__ == "__main__":
    sys.exit(main())
