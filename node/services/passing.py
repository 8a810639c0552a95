"""An answer that passes: somebody else's status and headers, and who served it. What bytes tell is for subclasses."""

from node.core.prompt import Headers
from node.ports import Answer, Served


class Passing:
    """`node.ports.ServedAnswer` but for `receive`."""

    __slots__ = ("_answer", "served")

    def __init__(self, answer: Answer, served: Served) -> None:
        self.served = served
        self._answer = answer

    @property
    def status(self) -> int:
        """See `node.ports.Answer`."""
        return self._answer.status

    @property
    def headers(self) -> Headers:
        """See `node.ports.Answer`."""
        return self._answer.headers
