"""What answers are owed for, and when who is full takes another."""

import pytest

from node.core.candidates import Offering
from node.core.worth import amounts, between_endings
from protocol.load import Load
from tests.core.routing import PEERS, Stage, curve


def test_an_answer_is_owed_its_share_of_the_devices_at_the_price_that_is_told() -> None:
    stage = Stage([curve(1.0, 0.1)] * 4)
    stage.idle(0.0)
    stage.offerings[PEERS[0]] = Offering(replica=PEERS[0], price=3.6)
    stage.offerings[PEERS[1]] = Offering(replica=PEERS[1], price=3.6, devices=2.0)
    stage.offerings[PEERS[3]] = Offering(replica=PEERS[3], price=3.6)
    stage.local = PEERS[3]
    forecast = stage.forecast()
    owed = amounts(forecast)
    assert owed[0] == pytest.approx((forecast.total[0] - forecast.net[0]) / 1000)
    assert owed[1] == pytest.approx(2 * owed[0])
    assert owed[2] == 0.0  # nobody owes what nobody asked for
    assert owed[3] == 0.0  # the own engine


def test_company_makes_an_answer_cheaper_than_it_makes_it_longer() -> None:
    stage = Stage([curve(1.0, 0.1, crowding=0.0)] * 2)
    for peer in stage.peers:
        stage.offerings[peer] = Offering(replica=peer, price=3.6)
    stage.idle(0.0)
    stage.standings.read(PEERS[1], Load(running=9, waiting=0, slots=64), 0.0)
    owed = amounts(stage.forecast())
    assert owed[1] == pytest.approx(owed[0] / 10, rel=0.01)


def test_who_is_full_takes_another_when_one_of_those_it_has_ends() -> None:
    stage = Stage([curve(1.0, 0.1, crowding=0.0), curve(1.0, 0.1, crowding=0.0)])
    stage.standings.read(PEERS[0], Load(running=4, waiting=0, slots=4, accepting=False), 0.0)
    stage.standings.read(PEERS[1], Load(running=0, waiting=0, slots=4), 0.0)
    forecast = stage.forecast()
    whole = forecast.parts[0] + forecast.parts[1]
    assert between_endings(forecast).tolist() == pytest.approx([whole[0] / 4, whole[1]])
