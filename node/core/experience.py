"""What this node learnt by asking: how its peers compare with their curves, how long answers are, what was sent where.

Knows no stream and no clock. Prompts go in and come out as what they want (`node.core.wanted`); answers go in, held
against what had been foretold of them; how often that was right is counted too (`node.core.calibration`).
"""

from math import exp, log
from typing import Final

from node.core.affinity import NO_MARKS, Affinity, Marks, marks_of, of_session
from node.core.answer_meter import MICRO, Measured
from node.core.calibration import Calibration
from node.core.corrections import TPOT_NOISE, TTFT_NOISE, Corrections, Seen
from node.core.forecast import Guess
from node.core.lengths import Lengths
from node.core.peek import peek
from node.core.prompt import Prompt
from node.core.standings import LATE
from node.core.wanted import Aims, Wanted

LEAST_SHARE: Final = 0.1  # of a first byte's time that is the engine's at least: the way varies, too
LEAST_SECONDS: Final = 1e-4


class Experience:
    """See the module.

    Attributes:
        ttft, tpot: how well these are foretold.
    """

    def __init__(self, *, key: bytes) -> None:
        """`key`: 16 to 64 bytes, drawn anew for each run of the node (`node.core.affinity`)."""
        self._key = key
        self.corrections = Corrections()
        self.affinity = Affinity()
        self.lengths = Lengths()
        self.ttft = Calibration()
        self.tpot = Calibration()

    def wanted(self, prompt: Prompt, aims: Aims) -> Wanted:
        """Return what a prompt wants."""
        model = prompt.model or ""
        seen = peek(prompt.body)
        size = len(prompt.body)
        return Wanted(
            model=model,
            requester=prompt.requester,
            prompt_tokens=max(size * self.lengths.tokens_per_byte(model), 1.0),
            output_tokens=self.lengths.answer_tokens(prompt.requester, model, seen.max_tokens),
            body_bytes=size,
            aims=aims,
            marks=self._marks(prompt, model),
            single=seen.single,
            most_tokens=seen.max_tokens or 0,
        )

    def _marks(self, prompt: Prompt, model: str) -> Marks:
        if not prompt.body:
            return NO_MARKS
        marks = marks_of(prompt.body, model, self._key)
        return of_session(marks, prompt.requester, prompt.session, model, self._key) if prompt.session else marks

    def began(self, guess: Guess, took: float, now: float) -> None:
        """Note the first content of a streamed answer, `took` seconds after it was asked for."""
        self.affinity.sent(guess.replica, guess.wanted.marks, guess.wanted.prompt_tokens, run=guess.run, now=now)
        if not guess.wanted.single:
            return
        engine = max(took - guess.net, LEAST_SHARE * took, LEAST_SECONDS)
        self.ttft.add(log(engine / (guess.turn + exp(guess.ttft))), guess.ttft_variance + TTFT_NOISE, now)
        self._learn(guess, now, ttft=log(engine / _alone(guess)))

    def waited(self, guess: Guess, took: float, now: float) -> None:
        """Note that a first byte had not come after so many seconds, when the wait for it ended otherwise.

        What was far too late by then is no better for not having come: a client that gave up must not wipe that out.
        """
        if took > LATE * guess.first_byte and guess.wanted.single:
            self._learn(guess, now, ttft=log(max(took - guess.net, LEAST_SECONDS) / _alone(guess)))

    def went_on(self, guess: Guess, tpot: float, now: float) -> None:
        """Note how many seconds a token takes in a streamed answer."""
        if tpot <= 0.0 or not guess.wanted.single:
            return
        off = log(tpot) - guess.tpot
        self.tpot.add(off, guess.tpot_variance + TPOT_NOISE, now)
        self._learn(guess, now, tpot=off + guess.tpot_added)

    def ended(self, guess: Guess, measured: Measured, now: float) -> None:
        """Note a whole answer: its lengths, and its pace."""
        wanted = guess.wanted
        if measured.prompt_tokens:
            self.lengths.prompted(wanted.model, wanted.body_bytes, measured.prompt_tokens)
        if measured.output_tokens and wanted.single:
            self.lengths.answered(wanted.requester, wanted.model, measured.output_tokens)
        if measured.streamed:
            if measured.tpot is not None and (measured.told or not guess.guesses):
                self.went_on(guess, measured.tpot / MICRO, now)
            return
        self.affinity.sent(guess.replica, wanted.marks, wanted.prompt_tokens, run=guess.run, now=now)
        if wanted.single and measured.told and measured.output_tokens:
            took = measured.latency / MICRO
            engine = max(took - guess.net, LEAST_SHARE * took, LEAST_SECONDS)
            alone = _alone(guess) + measured.output_tokens * exp(guess.tpot - guess.tpot_added)
            off = log(engine / alone)
            self._learn(guess, now, ttft=off, tpot=off, rough=True)

    def facts(self) -> dict[str, object]:
        """Return what is told of it."""
        return {
            "ttft": self.ttft.facts(),
            "tpot": self.tpot.facts(),
            "corrections": len(self.corrections),
            "prefixes": len(self.affinity),
            "lengths": len(self.lengths),
        }

    def _learn(
        self,
        guess: Guess,
        now: float,
        *,
        ttft: float | None = None,
        tpot: float | None = None,
        rough: bool = False,
    ) -> None:
        seen = Seen(ttft=ttft, tpot=tpot, ttft_width=guess.ttft_width, tpot_width=guess.tpot_width, rough=rough)
        self.corrections.observe(guess.replica, guess.model, seen, run=guess.run, now=now)


def _alone(guess: Guess) -> float:
    """Return the seconds to the first token that the curve alone foretells, from the prompt's coming there."""
    return guess.turn + exp(guess.ttft - guess.ttft_added)
