"""Reading off how far away peers are: each measurement of the transport once, of whoever is connected."""

import trio

from node.services.measure_rtt import LOOK, RttReader
from protocol.ids import PeerId

ANNE, BERT = (PeerId((8 * number + 9).to_bytes(32, "little")) for number in range(2))


class Transport:
    """Says of its connections how long a message there and back last took."""

    def __init__(self) -> None:
        self.trips: dict[PeerId, float | None] = {}

    def connected(self) -> frozenset[PeerId]:
        return frozenset(self.trips)

    def round_trip(self, peer: PeerId) -> float | None:
        return self.trips[peer]


async def test_each_measurement_is_told_once_and_again_after_another_connection(autojump_clock: object) -> None:
    transport, told = Transport(), []
    transport.trips = {ANNE: 0.02, BERT: None}
    reader = RttReader(transport, lambda peer, seconds: told.append((peer, seconds)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.run)
        await trio.sleep(5 * LOOK)
        assert told == [(ANNE, 0.02)]
        transport.trips |= {ANNE: 0.03, BERT: 0.1}
        await trio.sleep(5 * LOOK)
        assert sorted(told[1:]) == sorted([(ANNE, 0.03), (BERT, 0.1)])
        gone = transport.trips.pop(ANNE)
        await trio.sleep(2 * LOOK)
        transport.trips[ANNE] = gone
        await trio.sleep(2 * LOOK)
        assert told[3:] == [(ANNE, 0.03)]
        nursery.cancel_scope.cancel()
