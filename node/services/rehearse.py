"""A rehearsal: the same few requests sent to the engine before and after a switch, while nobody else wants an answer.

Knows the board, the upstream and how answers are measured; knows no strategy, and judges nothing. One request after
another, so that each is alone at the engine and two rehearsals of one engine are alike. It gives way to whoever asks.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

import trio

from node.core.answer_meter import AnswerMeter, Measured
from node.core.endpoints import Dialect
from node.core.workloads import Words
from node.errors import Broken, Unavailable
from node.ports import EngineBoard, Upstream
from node.tuner_ports import Engine, Enough

COMPLETIONS: Final = "/v1/completions"
JSON_HEADERS: Final = ((b"content-type", b"application/json"), (b"accept", b"text/event-stream"))
# Words of each prompt: mostly reading, mostly writing, and between. Twice around, eight in all: fewer pairs could not
# tell a difference of a tenth from noise.
PROMPTS: Final = (16, 256, 64, 128) * 2
TOKENS: Final = 24  # of each answer: some tenths of a second on a slow machine
EACH: Final = 20.0  # s for one answer
PIECE: Final = 1 << 20  # bytes of an answer that are read: a thousand times as much as it has


class Rehearsal:
    """Asks the engine that serves, or one that is about to."""

    def __init__(
        self,
        board: EngineBoard,
        upstream: Upstream,
        *,
        asked: Callable[[], int],
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        """Prepare. `asked`: how many prompts ever came; when another comes, the rehearsal is over."""
        self._board = board
        self._upstream = upstream
        self._asked = asked
        self._clock = clock

    async def __call__(self, enough: Enough, engine: Engine | None = None) -> Sequence[Measured]:
        """Return the answers in order: all of them, or those until somebody asked or they were enough.

        Args:
            enough: whether the answers so far are.
            engine: which one is asked; None is the one that serves.

        Raises:
            Unavailable: no engine serves, or it gave no answer that can be measured.
        """
        before, found = self._asked(), list[Measured]()
        for number, words in enumerate(PROMPTS):
            if enough(found):
                break
            measured: Measured | None = None
            with trio.move_on_after(EACH):
                measured = await self._ask(number, words, engine or self._serving())
            if measured is None:
                raise Unavailable(f"no answer to a rehearsal within {EACH:.0f} s")
            if self._asked() != before:  # and it shared the engine
                break
            found.append(measured)
        return tuple(found)

    def _serving(self) -> Engine:
        endpoint, model = self._board.endpoint(), self._board.snapshot().model
        if endpoint is None or model is None:
            raise Unavailable("no engine serves")
        return endpoint, model

    async def _ask(self, number: int, words: int, engine: Engine) -> Measured | None:
        endpoint, model = engine
        meter, read = AnswerMeter(began=self._clock(), dialect=Dialect.OPENAI), 0
        try:
            async with self._upstream.send(
                endpoint, method="POST", target=COMPLETIONS, headers=JSON_HEADERS, body=self._body(model, number, words)
            ) as answer:
                meter.head(answer.status, answer.headers, self._clock())
                asked = self._clock()
                while read < PIECE and (data := await answer.receive()):
                    meter.piece(data, asked, self._clock())
                    read += len(data)
                    asked = self._clock()
        except Broken as error:
            raise Unavailable(f"the rehearsal broke off: {error.message}") from error
        if meter.failed or (measured := meter.measured()) is None:
            raise Unavailable("an answer to a rehearsal cannot be measured")
        return measured

    def _body(self, model: str, number: int, words: int) -> bytes:
        asked: dict[str, Any] = {
            "model": model,
            "prompt": Words("rehearsal", number).part(words).text,
            "max_tokens": TOKENS,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            # An engine that was rehearsed before would find the prompts in its cache, and the new one would look slow.
            "cache_salt": f"rehearsal {self._clock()} {number}",
        }
        return json.dumps(asked).encode()
