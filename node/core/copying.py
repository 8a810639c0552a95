"""How much of an answer repeats its own prompt or itself: what speculation from n-grams lives on.

Knows where dialects keep their text; knows no model, no tokenizer and no engine. Text goes in, one number comes out,
and nothing of the text is kept. The number is the share of an answer's words that stood once before behind the same
two words, in the prompt or earlier in the answer: what a proposer that looks up the last two words could have found.
"""

import re
from itertools import islice
from typing import Final

import msgspec

from node.core.endpoints import Dialect

PPM: Final = 1_000_000
BODY_BYTES: Final = 64 * 1024  # of a request that is looked at: 16,000 tokens; reading more of it takes milliseconds
ANSWER_BYTES: Final = 64 * 1024  # of an answer as it came, at some 200 bytes a token in a stream: its first 300 tokens
# Characters that are compared: the prompt's last and the answer's first, some 4,500 words. With them the largest
# request and answer cost the loop 1.9 ms (3.6 ms with 24 Ki of each), a prompt of 1,000 tokens and a stream 0.4 ms.
PROMPT_CHARS: Final = 16 * 1024
ANSWER_CHARS: Final = 8 * 1024
LEAST_WORDS: Final = 8  # of an answer: what is shorter repeats nothing or all

# A text in JSON, without its quotes. Unrolled, so that it takes one step for a run of ordinary characters.
_TEXT: Final = rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"'
_PROMPT: Final = re.compile(rb'"(?:content|text|prompt|input|system|instructions)":\s*' + _TEXT)
_WHOLE: Final = re.compile(rb'"(?:content|text|reasoning|reasoning_content|thinking)":\s*' + _TEXT)
# In a stream of the Responses the whole text stands once more at the end, under another name than the pieces.
_STREAMED: Final = {
    Dialect.OPENAI: _WHOLE,
    Dialect.RESPONSES: re.compile(rb'"delta":\s*' + _TEXT),
    Dialect.MESSAGES: re.compile(rb'"(?:text|thinking)":\s*' + _TEXT),
}
# Words, marks, and signs of the scripts that put no spaces between words, each by itself.
_SIGNS: Final = "\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff"
_WORD: Final = re.compile(rf"[{_SIGNS}]|[^\W{_SIGNS}]+|[^\w\s]")


def telling(body: bytes) -> bool:
    """Whether a request's text is worth looking at: short enough, and not one that wants its prompt repeated."""
    return len(body) <= BODY_BYTES and b'"echo"' not in body


def copied_ppm(body: bytes, answer: bytes, *, dialect: Dialect, streamed: bool) -> int | None:
    """Return the share of the answer that repeats, in parts per million; None where there is no text to tell it by.

    Args:
        body: the request.
        answer: the bytes that came back, or the first `ANSWER_BYTES` of them.
    """
    prompt = _texts(_PROMPT, body, between=b" ")
    said = _texts(_STREAMED[dialect] if streamed else _WHOLE, answer, between=b"")
    if not prompt or not said:
        return None
    asked = _WORD.findall(prompt[-PROMPT_CHARS:])
    words = _WORD.findall(said[:ANSWER_CHARS])
    return _repeated(asked, words)


def _repeated(asked: list[str], words: list[str]) -> int | None:
    if len(words) < LEAST_WORDS:
        return None
    seen = set(zip(asked, islice(asked, 1, None), islice(asked, 2, None), strict=False))
    found = 0
    # An answer's first words stand behind the prompt's last: a proposer sees one text.
    one, two = (["", "", *asked])[-2:]
    for word in words:
        three = (one, two, word)
        if three in seen:
            found += 1
        else:
            seen.add(three)
        one, two = two, word
    return found * PPM // len(words)


def _texts(pattern: re.Pattern[bytes], data: bytes, *, between: bytes) -> str:
    """Return all texts that the pattern finds, as one; what is no JSON, or cut in mid-character, is none."""
    found = between.join(pattern.findall(data))
    try:
        return msgspec.json.decode(b'"' + found + b'"', type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
