"""How many bytes of peers' prompts lie here, of all and of each: what is full takes no more.

Knows no stream and no prompt. Bytes count when they have come, not when they are announced: announcing costs nothing,
and would let one peer take all the room with empty words.

Nobody holds more than is left for the others (dynamic thresholds, Choudhury and Hahne, 1998): so however many names
one machine goes by, a small prompt finds room.
"""

from collections import Counter

from node.errors import Refusal
from protocol.ids import PeerId

SMALL = 16 * 1024  # bytes that anybody may hold while there is room: what a chat's prompt commonly has


class Holdings:
    """The bytes held. What was taken is given back by whoever took it.

    Args:
        whole: bytes of all peers' prompts together.
        each: bytes of one peer's.
    """

    def __init__(self, *, whole: int, each: int) -> None:
        self._whole = whole
        self._each = each
        self._of: Counter[PeerId] = Counter()
        self._sum = 0

    @property
    def held(self) -> int:
        """Bytes held in all."""
        return self._sum

    def refusal(self, peer: PeerId, size: int) -> Refusal | None:
        """Say why `size` bytes more of a peer's cannot be held; None where they can."""
        left = self._whole - self._sum - size
        if left >= 0 and self._of[peer] + size <= min(self._each, max(left, SMALL)):
            return None
        return Refusal(
            status=429,
            type="overloaded",
            code="bodies_full",
            message="The prompts that this node holds already leave no room for this one.",
            retry_after=1,
        )

    def take(self, peer: PeerId, size: int) -> None:
        """Count bytes that are held from now on."""
        self._of[peer] += size
        self._sum += size

    def give_back(self, peer: PeerId, size: int) -> None:
        """Count bytes that are held no longer."""
        self._of[peer] -= size
        self._sum -= size
        if not self._of[peer]:
            del self._of[peer]  # peers are many, and choose their names
