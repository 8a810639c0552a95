"""How long answers will be, and prompts are, in tokens: foretold from what was seen of the same asker and model.

Knows no tokenizer and no text: counts of tokens and bytes go in, counts come out. What nobody has said yet is a guess
by the general mean; with every answer the guess moves towards the model's own mean, and then the asker's with that
model (shrinkage: a mean of few answers counts little beside that of many). Logarithms, because lengths go over four
powers of ten; bounded steps, because one endless answer says little of the next.
"""

from collections import OrderedDict
from collections.abc import Hashable
from math import exp, log
from typing import Final

USUAL_ANSWER: Final = 200.0  # tokens; the middle of public chat traces lies between 130 and 250
USUAL_BYTES_PER_TOKEN: Final = 4.0  # English prose; JSON and other scripts cost more tokens
LEAST_BYTES_PER_TOKEN, MOST_BYTES_PER_TOKEN = 0.5, 32.0  # of any text that is no attack on the estimate
SHRINKAGE: Final = 4.0  # answers that a mean must be of to count as much as the wider one
MEMORY: Final = 50.0  # answers that a mean is of at most: what a client asks changes
ODD: Final = 1.5  # log-units that one answer is believed to differ by: a factor of 4.5
SPREAD: Final = 1.0  # standard deviation of log-lengths under one asker, to begin with; chat traces have 0.9 to 1.2
KEYS: Final = 4096  # askers and models that means are kept of; the longest unseen go first
MOST_TOKENS: Final = 1_000_000.0  # of an answer or a prompt that counts are believed of


class _Mean:
    """A running mean of logarithms, and their spread."""

    __slots__ = ("count", "mean", "variance")

    def __init__(self, mean: float) -> None:
        self.count = 0.0
        self.mean = mean
        self.variance = SPREAD**2

    def add(self, value: float) -> None:
        self.count = min(self.count + 1.0, MEMORY)
        step = min(max(value - self.mean, -ODD), ODD)
        self.variance += (step * step - self.variance) / (self.count + SHRINKAGE)
        self.mean += step / self.count if self.count > 1 else step


class _Means:
    """Means by key, bounded."""

    def __init__(self) -> None:
        self._held: OrderedDict[Hashable, _Mean] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Hashable) -> _Mean | None:
        return self._held.get(key)

    def of(self, key: Hashable, start: float) -> _Mean:
        found = self._held.get(key)
        if found is None:
            found = self._held[key] = _Mean(start)
            if len(self._held) > KEYS:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        return found


class Lengths:
    """What is known of lengths."""

    def __init__(self) -> None:
        self._all = _Mean(log(USUAL_ANSWER))
        self._of_model = _Means()
        self._of_asker = _Means()
        self._bytes = _Means()

    def __len__(self) -> int:
        """Return how many means are held."""
        return len(self._of_model) + len(self._of_asker) + len(self._bytes)

    def answered(self, asker: Hashable, model: str, tokens: int) -> None:
        """Note how many tokens an answer had."""
        if not 0 < tokens <= MOST_TOKENS:
            return
        value = log(tokens)
        self._of_asker.of((asker, model), self._mean(asker, model)).add(value)
        self._of_model.of(model, self._all.mean).add(value)
        self._all.add(value)

    def prompted(self, model: str, body_bytes: int, tokens: int) -> None:
        """Note how many tokens a body of so many bytes was, as its answer told."""
        if body_bytes > 0 and 0 < tokens <= MOST_TOKENS:
            ratio = min(max(body_bytes / tokens, LEAST_BYTES_PER_TOKEN), MOST_BYTES_PER_TOKEN)
            self._bytes.of(model, log(USUAL_BYTES_PER_TOKEN)).add(log(ratio))

    def answer_tokens(self, asker: Hashable, model: str, most: int | None) -> float:
        """Return how many tokens to expect, in the mean; `most` is what the prompt allows, None where it does not say.

        The mean of a log-normal whose tail is cut off at `most`, taken roughly: never above it, never below one.
        """
        found = self._of_asker.get((asker, model))
        spread = SPREAD if found is None else max(found.variance, 0.01) ** 0.5
        expected = exp(self._mean(asker, model) + min(spread, SPREAD) ** 2 / 2)
        return max(min(expected, MOST_TOKENS if most is None else float(most)), 1.0)

    def tokens_per_byte(self, model: str) -> float:
        """Return how many prompt tokens a byte of a body stands for."""
        found = self._bytes.get(model)
        usual = log(USUAL_BYTES_PER_TOKEN)
        return exp(-usual if found is None else -_shrunk(found, usual))

    def _mean(self, asker: Hashable, model: str) -> float:
        wide = self._all.mean if self._all.count else log(USUAL_ANSWER)
        for found in (self._of_model.get(model), self._of_asker.get((asker, model))):
            if found is not None:
                wide = _shrunk(found, wide)
        return wide


def _shrunk(found: _Mean, wide: float) -> float:
    return (found.count * found.mean + SHRINKAGE * wide) / (found.count + SHRINKAGE)
