"""What a node says of itself: each advert outranks the last, a leave outranks all, and none is too soon for others."""

from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from node.core.candidates import offering, told_price
from node.core.self_advert import Description, OwnAdverts, Timetable, device_label
from protocol import limits
from protocol.advert import ADVERT, SERVE, Advert, ModelOffer, interval_us, lease_us, outranks
from protocol.gossip import Heard, Verdict, judge_advert
from protocol.ids import PUBLIC_SWARM, Epoch, PeerId
from protocol.records import Signed, sign
from tests.places import at

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ME = PeerId.from_public_key(KEY.public_key().public_bytes_raw())
START = 1_763_640_000_000_000
SECOND = limits.SECOND_US
SERVING = Description(addresses=(at("192.0.2.7", 47470, ME),), models=(ModelOffer(name="tiny"),), roles=(SERVE,))


def own(start: int = START) -> OwnAdverts:
    return OwnAdverts(me=ME, swarm=PUBLIC_SWARM, epoch=Epoch(start), version="0.1.0")


def signed(body: Advert) -> Signed[Advert]:
    return sign(ADVERT, body, KEY)


def test_each_advert_outranks_the_one_before_and_lives_for_a_lease() -> None:
    adverts = own()
    first = adverts.next(SERVING, members=1, now_us=START)
    second = adverts.next(SERVING, members=900, now_us=START)
    assert outranks(signed(second), signed(first))
    assert second.stamp.expiry - START == lease_us(900) == 540 * SECOND
    assert first.addresses == ("/ip4/192.0.2.7/tcp/47470",)


@given(st.lists(st.tuples(st.integers(-2000, 2000), st.integers(1, 100_000)), min_size=1, max_size=8))
def test_a_leave_outlives_all_that_was_said_whatever_the_clock_did(steps: list[tuple[int, int]]) -> None:
    adverts, now, said = own(), START, list[Advert]()
    for seconds, members in steps:
        now += seconds * SECOND
        said.append(adverts.next(SERVING, members=members, now_us=now))
    leave = adverts.leave(now_us=now)
    assert all(outranks(signed(leave), signed(each)) for each in said)
    latest = max(each.stamp.expiry for each in said)
    assert leave.stamp.expiry >= min(latest, leave.stamp.time + limits.ADVERT_LIFETIME_US)


def test_what_the_wire_has_no_room_for_is_left_out_and_the_rest_can_be_signed() -> None:
    crowded = Description(
        addresses=tuple(at("192.0.2.7", port, ME) for port in range(1, 40)),
        models=(ModelOffer(name="Max' model"), *(ModelOffer(name=f"m{index}") for index in range(40))),
        roles=(SERVE,) * 40,
        name="ä" * 63,
    )
    body = signed(own().next(crowded, members=1, now_us=START)).body
    assert (len(body.addresses), len(body.models), len(body.roles)) == (16, 16, 16)
    assert body.models[0].name == "m0"
    assert body.name == "ä" * 32
    assert device_label(" NVIDIA\u00ae\x00 RTX " + "9" * 99) == "NVIDIA   RTX " + "9" * 51
    assert device_label("\x7f ") is None


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0, 2.0, 20.0]), st.booleans()), max_size=40),
    st.sampled_from([0.0, 0.5, 1.0, 3.0, 100.0]),
    st.randoms(use_true_random=False),
)
def test_whatever_is_asked_for_nothing_we_say_is_too_soon_to_be_passed_on_the_leave_included(
    asks: list[tuple[float, bool]], stays: float, random: Random
) -> None:
    adverts, table, now = own(), Timetable(random.random), 0.0
    heard: Heard | None = None

    def passed_on(body: Advert) -> bool:
        nonlocal heard
        judged = judge_advert(signed(body), heard, now_us=body.stamp.time)
        heard = judged.heard
        return judged.verdict is Verdict.ACCEPT

    def speak(until: float) -> None:
        while table.next_at <= until:
            at = max(table.next_at, now)
            table.said(at, 20)
            assert passed_on(adverts.next(SERVING, members=20, now_us=START + round(at * 1e6)))

    for pause, met in asks:
        speak(now + pause)
        now += pause
        if met:
            table.ask(now, 0.3, 0.9)
        else:
            table.heard_newcomer(now, 20)
    speak(now + stays)
    assert passed_on(adverts.leave(now_us=START + round((now + stays) * 1e6)))


def test_one_advert_serves_all_who_wait_and_the_last_to_come_is_served_too() -> None:
    table = Timetable(lambda: 0.5)
    for tenth in range(10):
        table.ask(tenth / 10, 0.3, 0.9)
    assert table.next_at == pytest.approx(0.6)
    table.said(table.next_at, 2)
    assert table.next_at == pytest.approx(0.9 + 0.6)
    table.said(table.next_at, 2)
    assert table.next_at > 50


def test_unasked_the_next_comes_before_a_lease_can_end_even_if_two_in_a_row_are_lost() -> None:
    random = Random(1)  # noqa: S311 -- luck, not secrets
    for members in (1, 300, 2000, 1_000_000):
        table, now, said = Timetable(random.random), 0.0, [0.0]
        table.said(now, members)
        for _ in range(100):
            now = table.next_at
            table.said(now, members)
            said.append(now)
        gaps = [later - earlier for earlier, later in pairwise(said)]
        longest = interval_us(members) / SECOND
        assert 0.9 * longest - 1e-6 <= min(gaps) < max(gaps) <= longest + 1e-6
        assert max(said[n + 3] - said[n] for n in range(90)) <= lease_us(members) / SECOND + 1e-6


def test_a_price_is_said_as_others_read_it_and_none_where_none_is_asked() -> None:
    priced = replace(SERVING, price=told_price(0.5, None))
    said = signed(own().next(priced, members=1, now_us=START)).body
    assert said.price == {"device_hour_micro": 500_000}
    assert offering(ME, said).price == 0.5
    assert own().next(SERVING, members=1, now_us=START).price is None
