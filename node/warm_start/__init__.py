"""What a node knows on its first day: performance records that metainf ships with, `snapshot.jsonl` beside this.

Knows nothing but which text that is. `deploy/snapshot` writes both; docs/decisions/warm-start.md says why.
"""

from typing import Final

# SHA-256 of snapshot.jsonl. Being here is the whole rule by which its records are exempt from the clock's: no key opens
# that door, and what the file says counts only as long as it is this very text.
DIGEST: Final = "eb4d7a88bfcf17af72f3e253522d37748d373000b7572eed4b32530d2e93aefb"
