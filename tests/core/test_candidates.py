"""Candidates as columns: what adverts say of cost, read with care; rows remembered for as long as they hold."""

from dataclasses import replace
from math import inf, isnan, nan
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.core.candidates import MOST_DEVICES, USUAL_WATTS, Candidates, Offering, offered, offering, told_price
from node.core.corrections import Corrections, Seen
from node.core.standings import Standings
from protocol.advert import Accelerator, Advert, Hardware
from tests.core.routing import PEERS
from tests.protocol import swarm_samples

ANNE, BERT = PEERS[:2]
KEY = Ed25519PrivateKey.from_private_bytes(bytes([9, 1]) + bytes(30))


def advert(**fields: Any) -> Advert:
    return replace(swarm_samples.advert(KEY).body, **fields)


def test_an_advert_tells_devices_price_and_what_the_engine_keeps() -> None:
    hardware = Hardware(accelerators=(Accelerator(name="A", count=2), Accelerator(name="B", count=1)))
    found = offering(
        ANNE,
        advert(
            hardware=hardware,
            price={"device_hour_micro": 2_500_000},
            strategy={"prefix_caching": False, "speculation": {"method": "ngram", "tokens": 4}},
        ),
        connected=False,
    )
    assert found == Offering(
        replica=ANNE, connected=False, devices=3.0, watts=3 * USUAL_WATTS, price=2.5, caches=False, guesses=True
    )


def test_a_machine_without_accelerators_draws_what_its_cores_do() -> None:
    found = offering(ANNE, advert(hardware=Hardware(accelerators=(), cpu_cores=8), price=None, strategy=None))
    assert (found.devices, found.watts, found.caches, found.guesses) == (1.0, 40.0, True, False)


@pytest.mark.parametrize("price", [{}, {"device_hour_micro": -1}, {"device_hour_micro": "free"}, {"x": 1}, None])
def test_a_price_that_makes_no_sense_is_none(price: dict[str, Any] | None) -> None:
    assert isnan(offering(ANNE, advert(price=price)).price)


def test_nobody_is_believed_to_have_a_city_of_devices() -> None:
    many = tuple(Accelerator(name=str(number), count=1024) for number in range(4))
    assert offering(ANNE, advert(hardware=Hardware(accelerators=many))).devices == MOST_DEVICES


def test_rows_are_looked_up_again_only_when_a_table_says_so() -> None:
    standings, corrections = Standings(), Corrections()
    candidates = Candidates(
        [Offering(replica=ANNE), Offering(replica=BERT)], model="m", standings=standings, local=BERT
    )
    assert (len(candidates), candidates.local, candidates.all_connected) == (2, 1, True)
    nothing = candidates.by_replica(standings)
    assert candidates.by_replica(standings) is nothing
    standings.began(ANNE, 0.0)
    known = candidates.by_replica(standings)
    assert known is not nothing
    assert known[0] != known[1] == 0
    assert candidates.by_model(corrections).tolist() == [0, 0]
    seen = Seen(ttft=1.0, ttft_width=0.5, tpot_width=0.5)
    corrections.observe(BERT, "other", seen, run=1, now=0.0)
    assert candidates.by_model(corrections).tolist() == [0, 0]
    corrections.observe(BERT, "m", seen, run=1, now=0.0)
    assert candidates.by_model(corrections)[1] > 0


def test_the_own_machine_is_told_in_the_same_words_as_a_peer_s() -> None:
    hardware = Hardware(accelerators=(Accelerator(name="L4", count=2),))
    told = offered(ANNE, hardware=hardware, strategy={"prefix_caching": False, "speculation": {"method": "ngram"}})
    assert (told.devices, told.watts, told.caches, told.guesses) == (2.0, 2 * USUAL_WATTS, False, True)
    plain = offered(ANNE, hardware=None, strategy=None)
    assert (plain.devices, plain.watts, plain.caches, plain.guesses) == (1.0, USUAL_WATTS, True, False)


def test_the_owners_price_of_the_machine_is_told_as_that_of_one_device() -> None:
    two = Hardware(accelerators=(Accelerator(name="L4", count=2),))
    told = told_price(3.0, two)
    assert told == {"device_hour_micro": 1_500_000}
    assert offered(ANNE, hardware=two, strategy=None, price=told).price == 1.5
    assert told_price(0.5, None) == {"device_hour_micro": 500_000}
    assert told_price(0.0, None) == {"device_hour_micro": 0}
    assert told_price(None, two) is None


def test_an_offer_tells_its_context_and_who_tells_none_may_hold_anything() -> None:
    assert offering(ANNE, advert(), context=4096).context == 4096.0
    assert offering(ANNE, advert()).context == inf


def test_some_of_them_keep_their_order_their_columns_and_who_is_here() -> None:
    offerings = [Offering(replica=peer, price=float(at), context=100.0 * at) for at, peer in enumerate(PEERS[:4])]
    candidates = Candidates(offerings, model="m", standings=Standings(), local=PEERS[2])
    some = candidates.only(np.array([False, True, True, False]))
    assert (some.replicas, some.local, some.price.tolist()) == (tuple(PEERS[1:3]), 1, [1.0, 2.0])
    assert (some.shortest, some.longest) == (100.0, 200.0)
    assert candidates.only(np.array([True, False, False, False])).local is None


@pytest.mark.parametrize(("prices", "priced"), [((0.0, 2.0), False), ((nan, 2.0), False), ((1.0, 0.0), True)])
def test_what_the_own_engine_is_worth_is_no_price(prices: tuple[float, float], priced: bool) -> None:
    offerings = [Offering(replica=peer, price=price) for peer, price in zip((ANNE, BERT), prices, strict=True)]
    assert Candidates(offerings, model="m", standings=Standings(), local=BERT).priced is priced
