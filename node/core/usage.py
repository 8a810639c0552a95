"""How many tokens an answer cost, read off the bytes that pass by.

Knows no tokenizer. Where the answer tells its usage (every whole one, and streams with `include_usage`), that counts.
Where it does not, the estimate is: a token for each event of the stream, or for each four bytes of a whole answer, and
one for each four bytes of the prompt, which is what English costs. The estimate only serves quotas.
"""

import re

TAIL_BYTES = 8 * 1024  # usage stands at the end, in the last event or the last object
BYTES_PER_TOKEN = 4
_TOTAL = re.compile(rb'"total_tokens":\s*(\d{1,12})')
_INPUT = re.compile(rb'"input_tokens":\s*(\d{1,12})')
_OUTPUT = re.compile(rb'"output_tokens":\s*(\d{1,12})')


class UsageMeter:
    """Fed with an answer's bytes in order."""

    def __init__(self, *, prompt_bytes: int, stream: bool) -> None:
        self._prompt_bytes = prompt_bytes
        self._stream = stream
        self._events = 0
        self._bytes = 0
        self._tail = b""

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the answer."""
        self._bytes += len(data)
        if self._stream:
            self._events += data.count(b"\n\n")
        self._tail = (self._tail + data)[-TAIL_BYTES:]

    def tokens(self) -> int:
        """Tell the tokens of prompt and answer together, of what was fed so far."""
        total = _last(_TOTAL, self._tail)
        if total is not None:
            return total
        output = _last(_OUTPUT, self._tail)
        if output is not None:
            return output + (_last(_INPUT, self._tail) or self._prompt_bytes // BYTES_PER_TOKEN)
        answered = self._events if self._stream else self._bytes // BYTES_PER_TOKEN
        return answered + self._prompt_bytes // BYTES_PER_TOKEN


def _last(pattern: re.Pattern[bytes], data: bytes) -> int | None:
    found = pattern.findall(data)
    return int(found[-1]) if found else None
