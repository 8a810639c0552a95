"""What a node of a private swarm has beside what others have, as its files say. A part of the composition root."""

from dataclasses import dataclass

import structlog
import trio

from node.adapters import membership_file
from node.core.membership import Membership
from node.errors import Unavailable
from node.membership_ports import Keep
from node.places import Places
from protocol.ids import SwarmId

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateHands:
    """The membership, and the revocations.

    Attributes:
        revocations: the list that the last run went by, sealed; None: there was none.
        keep: keeps one for the next.
    """

    membership: Membership
    revocations: bytes | None
    keep: Keep


def private_hands(where: Places, swarm: SwarmId) -> PrivateHands | None:
    """Return what a private swarm asks for; None where the swarm is no private one. Blocks for the disk.

    Raises:
        NodeError: see `membership_file.load`.
    """
    membership = membership_file.load(where.membership_file)
    if membership is None or membership.swarm != swarm:
        return None
    file = where.revocations_file(swarm)

    async def keep(sealed: bytes) -> None:
        try:
            await trio.to_thread.run_sync(membership_file.save_revocations, file, sealed)
        except Unavailable as error:  # it counts in this run, and is told anew in the next
            log.warning("membership.revocations_not_kept", reason=error.message, remedy=error.remedy)

    revocations = membership_file.load_revocations(file)
    return PrivateHands(membership=membership, revocations=revocations, keep=keep)
