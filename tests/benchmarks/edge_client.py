"""Honest prompts at a node, for a time; prints what they took as JSON. A program of its own, to run in a namespace.

python -m tests.benchmarks.edge_client http://127.0.0.1:8470 --seconds 10
"""

import argparse
import asyncio
import json
import sys

from tests.benchmarks.instant_engine import MODEL
from tests.benchmarks.load import LoadFailed, Work, load

TOKENS = 16  # events of each stream
GAP_MS = 5.0


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--concurrency", type=int, default=2)
    options = parser.parse_args()
    work = Work(
        url=options.url,
        model=MODEL,
        tokens=TOKENS,
        concurrency=options.concurrency,
        seconds=options.seconds,
        fields=(("gap_ms", GAP_MS),),
    )
    try:
        samples = asyncio.run(load(work))
    except LoadFailed as failure:
        sys.stdout.write(json.dumps({"failed": str(failure)}) + "\n")
        return 1
    sys.stdout.write(json.dumps({"whole": samples.whole, "first_byte": samples.first_byte}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
