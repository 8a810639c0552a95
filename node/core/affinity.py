"""Where the beginnings of prompts were sent: which replica may still have what of a prompt in its prefix cache.

Knows no text and keeps none: of a body it keeps marks, hashes of its beginnings under a key that is drawn for each run
of the node, from which nothing can be learnt and which never leave it. Knows no engine's cache either: what it holds is
guessed from what this node sent there since.

Theory. Turn after turn a conversation's body begins with the same bytes, and so do prompts that share instructions. A
mark stands for the body's beginning up to one length; the lengths grow by a quarter each, so that a body of any size
has a few dozen and what two have in common is known to a quarter. Hashing begins where the messages do: fields that
stand before them (`model`, sampling) may differ without the prompt's being another. The longest mark that a replica was
sent tells how much of the prompt it has read before. How much of that it still holds shrinks with what was sent there
since, and with time, for others send there too.

A client may give its conversation a name (a session token). Whoever answered the last prompt of that name is taken to
hold as much as that prompt had, even where its beginning has changed or is too short to be marked: the client knows.

There is no rule that follows affinity: it shortens the prefill that is foretold, and that is all. A replica that is
busy loses a prompt that it knows to one that is not, by the same arithmetic.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from math import exp
from typing import Final

from node.core.prompt import Requester
from protocol.ids import PeerId

FIRST_LENGTH: Final = 256  # bytes of the shortest beginning: about one block of an engine's cache
GROWTH: Final = 1.25
LONGEST: Final = 1 << 20  # bytes of a body that are looked at
LOOK_AT: Final = 4096  # bytes in which the messages begin, where fields stand before them
KEYS: Final = (b'"messages"', b'"prompt"', b'"input"')
HOLDERS: Final = 8  # replicas remembered of one mark, the latest
MARKS: Final = 32_768  # kept, least lately used gone first: some 20 MB, and thousands of conversations
CACHE_TOKENS: Final = 200_000.0  # of a replica's prefix cache, where it does not say: 24 GB at 128 kB a token
FORGET_S: Final = 600.0  # in which, by what others send there, a cache keeps 1/e of what it held
LEAST_TOKENS: Final = 16.0  # below a block of an engine's cache nothing is kept

Mark = bytes


def _lengths() -> tuple[int, ...]:
    found: list[int] = []
    length = float(FIRST_LENGTH)
    while length <= LONGEST:
        found.append(int(length))
        length *= GROWTH
    return tuple(found)


LENGTHS: Final = _lengths()


@dataclass(frozen=True, slots=True)
class Marks:
    """Of one body: its size from where the messages begin, and (length, mark) of its beginnings, shortest first.

    `session` is the mark of its conversation, where the client named that.
    """

    size: int
    marks: tuple[tuple[int, Mark], ...]
    session: Mark | None = None

    @property
    def all(self) -> tuple[Mark, ...]:
        """Every mark, the shortest beginning's first."""
        named = () if self.session is None else (self.session,)
        return (*(mark for _, mark in self.marks), *named)


NO_MARKS: Final = Marks(0, ())


def marks_of(body: bytes, model: str, key: bytes) -> Marks:
    """Return the marks of a body; `key` is 16 to 64 secret bytes. One pass over the body, at most `LONGEST` bytes."""
    start = min((at for word in KEYS if (at := body.find(word, 0, LOOK_AT)) >= 0), default=0)
    size = len(body) - start
    if size < FIRST_LENGTH:
        return NO_MARKS
    state = blake2b(model.encode(), key=key, digest_size=8)
    view, last = memoryview(body), start
    found: list[tuple[int, Mark]] = []
    for length in LENGTHS:
        if length > size:
            break
        state.update(view[last : start + length])
        last = start + length
        found.append((length, state.copy().digest()))
    return Marks(size, tuple(found))


def of_session(marks: Marks, requester: Requester, name: bytes, model: str, key: bytes) -> Marks:
    """Return the marks of a body whose client gives its conversation a name, which is its own and nobody else's."""
    state = blake2b(name, key=key, digest_size=8, person=b"session")
    state.update(f"\0{model}\0{requester.kind.value}\0{requester.name}".encode())
    return replace(marks, session=state.digest())


@dataclass(slots=True)
class _Sent:
    """What one run of one replica was sent."""

    run: int
    tokens: float = 0.0


@dataclass(slots=True)
class _Holder:
    sent: _Sent
    tokens_then: float  # of `sent`, when the mark was noted
    noted_at: float
    prompt_tokens: float  # of the prompt that it was noted of

    def held(self, now: float) -> float:
        """Return the share of it that is still in the cache."""
        since = self.sent.tokens - self.tokens_then
        return exp(-since / CACHE_TOKENS - max(now - self.noted_at, 0.0) / FORGET_S)


class Affinity:
    """What was sent where."""

    def __init__(self, *, marks: int = MARKS) -> None:
        self._places: OrderedDict[Mark, dict[PeerId, _Holder]] = OrderedDict()  # the latest last, in both
        self._sent: OrderedDict[PeerId, _Sent] = OrderedDict()
        self._most = marks

    def __len__(self) -> int:
        """Return how many marks are kept."""
        return len(self._places)

    def sent(self, replica: PeerId, marks: Marks, prompt_tokens: float, *, run: int, now: float) -> None:
        """Note that a replica has read a prompt. `run`: the number of its present run (`node.core.standings`)."""
        sent = self._sent.get(replica)
        if sent is None or sent.run != run:
            sent = self._sent[replica] = _Sent(run)
        self._sent.move_to_end(replica)
        if len(self._sent) > self._most:
            self._sent.popitem(last=False)
        sent.tokens += prompt_tokens
        for mark in marks.all:
            holders = self._places.setdefault(mark, {})
            self._places.move_to_end(mark)
            holders.pop(replica, None)
            holders[replica] = _Holder(sent, sent.tokens, now, prompt_tokens)
            if len(holders) > HOLDERS:
                del holders[next(iter(holders))]
        while len(self._places) > self._most:
            self._places.popitem(last=False)

    def cached(
        self, marks: Marks, prompt_tokens: float, *, run: Callable[[PeerId], int], now: float
    ) -> Mapping[PeerId, float]:
        """Return, of the replicas that were sent a beginning of this prompt, how many of its tokens they may hold.

        `run` tells a replica's present run: what a former one was sent is gone.
        """
        found: dict[PeerId, float] = {}
        for length, mark in reversed(marks.marks):
            holders = self._places.get(mark)
            if holders is None:
                continue
            share = length / marks.size
            for replica, holder in holders.items():
                if replica in found or run(replica) != holder.sent.run:
                    continue
                tokens = prompt_tokens * share * holder.held(now)
                if tokens >= LEAST_TOKENS:
                    found[replica] = tokens
        for replica, holder in self._places.get(marks.session, {}).items() if marks.session else ():
            tokens = min(holder.prompt_tokens, prompt_tokens) * holder.held(now)
            if run(replica) == holder.sent.run and tokens >= max(LEAST_TOKENS, found.get(replica, 0.0)):
                found[replica] = tokens
        return found
