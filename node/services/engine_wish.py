"""What is wanted of the engine, and a try that may be taken back. Values; knows nothing of who acts on them."""

from dataclasses import dataclass, replace

from node.core.answer_check import FirstTokens
from node.core.switching import Outcome
from node.ports import LaunchPlan


@dataclass(slots=True, kw_only=True)
class Attempt:
    """A plan that is tried in another's place. It has an outcome once it is ready, has failed, or was overruled.

    Attributes:
        fallback: what runs at once where the plan does not become ready; None: the plan is tended as ever.
        before: the wish that holds again where the engine could not be taken from what it answers.
        start_timeout: seconds from launch until it must be ready.
        reference: what the engine before it said, to be compared with; None compares nothing.
        withdrawn: whoever wanted it does no more; what serves still need not end for it.
    """

    fallback: LaunchPlan | None
    before: "Wish"
    start_timeout: float
    reference: FirstTokens | None
    withdrawn: bool = False
    outcome: Outcome | None = None

    @property
    def open(self) -> bool:
        """Whether it has no outcome yet."""
        return self.outcome is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the operator or the tuner wants.

    Attributes:
        running: whether an engine is wanted at all.
        reason: why, for a person.
        number: of this wish; a later one has a higher.
        deadline: the loop's time until which what runs may finish.
        standing: what the engine's snapshot says while it serves under this wish; "" the usual words.
        returning: whether prompts may wait for the engine, where this wish takes it away from them.
        attempt: where the wish is a try.
    """

    running: bool
    plan: LaunchPlan
    reason: str
    number: int = 0
    deadline: float = float("-inf")
    standing: str = ""
    returning: bool = False
    attempt: Attempt | None = None

    def untried(self) -> "Wish":
        """Return the wish without its try: by the plan that is known to work, where the try's outcome is not known."""
        tried = self.attempt
        if tried is None or not tried.open or tried.fallback is None:
            return replace(self, attempt=None)
        return replace(self, plan=tried.fallback, standing=tried.before.standing, attempt=None)
