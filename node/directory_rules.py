"""The rules of the swarm's directory, as its adapter wants to be told them. A part of the composition root."""

from collections.abc import Callable, Sequence

from protocol import dht
from protocol.errors import RemoteProtocolError
from protocol.ids import SwarmId


def dht_rules(
    swarm: SwarmId, wall: Callable[[], int]
) -> dict[str, tuple[Callable[[str, bytes], bool], Callable[[str, Sequence[bytes]], int]]]:
    """Return, for each namespace of the directory, which values are valid and which of several counts."""

    def valid(key: str, value: bytes) -> bool:
        try:
            dht.validate(key, value, swarm=swarm, now_us=wall())
        except RemoteProtocolError:
            return False
        return True

    def best(key: str, values: Sequence[bytes]) -> int:
        try:
            return dht.select(key, values, swarm=swarm, now_us=wall())
        except RemoteProtocolError:
            return 0  # all of them have just expired: whichever it is, nobody believes it

    return {namespace.value: (valid, best) for namespace in dht.Namespace}
