"""A wish that is known already, in place of one that is found out when it is asked about."""

from dataclasses import dataclass

from node.core.wanted import Wanted


@dataclass(frozen=True, slots=True)
class Plain:
    """See `node.core.wanted.Wish`."""

    wanted: Wanted
