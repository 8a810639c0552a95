"""What is said to all: gossip's verdicts, the table's choices, the pace of adverts."""

from contextlib import suppress
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import advert, dht, gossip, limits, records
from protocol.addresses import MULTIADDR, parse_address
from protocol.errors import Flaw, LocalProtocolError, RemoteProtocolError
from protocol.gossip import Heard, Verdict, Why
from protocol.ids import PUBLIC_SWARM, ContentDigest, ModelName, PeerId, SwarmId
from tests.protocol import samples, swarm_samples
from tests.protocol.strategies import FOREIGN, mutated

NOW = samples.NOW
FULL = records.sign(advert.ADVERT, swarm_samples.FULL_ADVERT, samples.KEY)
KEY = str(dht.peer_key(PUBLIC_SWARM, samples.AUTHOR))
SEALED = [swarm_samples.advert(seq=seq, name=name).sealed for seq in (1, 2, 3) for name in (None, "clone")]


@given(mutated(FULL.sealed) | FOREIGN | st.binary(max_size=200))
def test_a_changed_advert_is_refused_everywhere(raw: bytes) -> None:
    if raw == FULL.sealed:
        return
    with pytest.raises(RemoteProtocolError):
        gossip.open_advert(raw, swarm=PUBLIC_SWARM, now_us=NOW)
    with pytest.raises(RemoteProtocolError):
        dht.validate(KEY, raw, swarm=PUBLIC_SWARM, now_us=NOW)


@given(st.text(max_size=200) | st.binary(max_size=100).map(lambda raw: raw.decode("latin1")))
def test_no_garbage_is_a_key_or_an_address_or_breaks_them(text: str) -> None:
    parse_address(text)
    gossip.parse_topic(text)
    with suppress(RemoteProtocolError):
        assert str(dht.parse_key(text)) == text


@pytest.mark.parametrize("text", ["a" * 240 + "!", "a." * 120 + "!", "a-" * 120 + "!", "/" * 250, "/a" * 127 + "\n"])
def test_no_address_takes_long_to_refuse(text: str) -> None:
    assert parse_address(f"/dns4/{text}/tcp/1") is None
    assert parse_address(text) is None
    with pytest.raises(Flaw):
        MULTIADDR.load(text + " ")


def test_an_address_that_leads_to_somebody_else_is_not_the_authors() -> None:
    said = swarm_samples.advert(
        addresses=(
            f"/ip4/8.8.8.8/tcp/1/p2p/{swarm_samples.OTHER}",
            "/ip4/8.8.4.4/tcp/2",
            f"/ip4/8.8.4.4/tcp/2/p2p/{samples.AUTHOR}",
            "/ip4/8.8.4.4/udp/2/quic-v1",
        )
    )
    assert [str(address) for address in said.body.dialable()] == [f"/ip4/8.8.4.4/tcp/2/p2p/{samples.AUTHOR}"]


def test_an_offer_without_a_digest_is_none_of_a_pinned_name() -> None:
    wanted = ModelName("m", ContentDigest(bytes(32)))
    assert advert.ModelOffer(name="m").answers(ModelName("m"))
    assert not advert.ModelOffer(name="m").answers(wanted)
    assert advert.ModelOffer(name="m", digest=ContentDigest(bytes(32))).answers(wanted)


@given(st.lists(st.sampled_from(SEALED), min_size=1, max_size=6), st.randoms())
def test_what_the_table_chooses_does_not_depend_on_the_order(values: list[bytes], luck: Random) -> None:
    shuffled = list(values)
    luck.shuffle(shuffled)
    one = dht.select(KEY, values, swarm=PUBLIC_SWARM, now_us=NOW)
    other = dht.select(KEY, shuffled, swarm=PUBLIC_SWARM, now_us=NOW)
    assert values[one] == shuffled[other]


def test_what_is_said_anew_with_a_higher_number_replaces_what_lies_there() -> None:
    assert dht.select(KEY, [SEALED[0], SEALED[2]], swarm=PUBLIC_SWARM, now_us=NOW) == 1
    assert dht.select(KEY, [SEALED[0], SEALED[0]], swarm=PUBLIC_SWARM, now_us=NOW) == 0


@given(st.lists(st.sampled_from(SEALED).map(lambda raw: gossip.open_advert(raw, swarm=PUBLIC_SWARM, now_us=NOW))))
def test_of_two_adverts_exactly_one_outranks_unless_they_are_the_same(
    said: list[records.Signed[advert.Advert]],
) -> None:
    for one in said:
        for other in said:
            both = (advert.outranks(one, other), advert.outranks(other, one))
            assert both.count(True) == (0 if one == other else 1)


@given(st.lists(st.integers(0, 8_000_000), min_size=1, max_size=40))
def test_an_author_is_passed_on_at_its_pace_and_no_faster(gaps: list[int]) -> None:
    heard: Heard | None = None
    now, passed = NOW, []
    for seq, gap in enumerate(gaps, start=1):
        now += gap
        said = swarm_samples.advert(seq=seq)
        judged = gossip.judge_advert(said, heard, now_us=now)
        heard = judged.heard
        assert heard.advert == said
        if judged.verdict is Verdict.ACCEPT:
            passed.append(now)
        else:
            assert judged.why is Why.TOO_SOON
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            allowed = limits.ADVERT_BURST + (passed[last] - passed[first]) / limits.ADVERT_GAP_US
            assert last - first + 1 <= allowed


def test_a_clock_that_was_set_back_silences_nobody_for_long() -> None:
    heard = Heard(advert=swarm_samples.advert(seq=1), due_us=NOW + samples.HOUR)
    gap, burst = limits.ADVERT_GAP_US, limits.ADVERT_BURST
    judged = gossip.judge_advert(swarm_samples.advert(seq=2), heard, now_us=NOW)
    assert judged.verdict is Verdict.IGNORE
    judged = gossip.judge_advert(swarm_samples.advert(seq=3), judged.heard, now_us=NOW + burst * gap)
    assert judged.verdict is Verdict.ACCEPT


@pytest.mark.parametrize(
    ("peers", "seconds"), [(0, 60), (1, 60), (10, 60), (300, 60), (500, 100), (10_000, 2_000), (10**6, 3_600)]
)
def test_the_larger_the_swarm_the_more_seldom_each_speaks(peers: int, seconds: int) -> None:
    assert advert.interval_us(peers) == seconds * limits.SECOND_US
    assert advert.lease_us(peers) == 3 * seconds * limits.SECOND_US <= limits.ADVERT_LIFETIME_US


@given(st.lists(st.binary(min_size=1, max_size=limits.RECORD_BYTES).map(bytes), max_size=5), st.integers(0, 200))
def test_packed_records_come_out_as_they_went_in(few: list[bytes], many: int) -> None:
    sealed = [*few, *(b"r%d" % index for index in range(many)), *([bytes(limits.RECORD_BYTES)] * (many // 4))]
    messages = gossip.pack_records(sealed)
    assert [one for message in messages for one in gossip.unpack_records(message)] == sealed
    assert all(len(message) <= limits.GOSSIP_BYTES for message in messages)


def test_what_is_no_record_is_not_packed() -> None:
    for wrong in (b"", bytes(limits.RECORD_BYTES + 1)):
        with pytest.raises(LocalProtocolError):
            gossip.pack_records([wrong])


def test_a_batch_is_passed_on_only_if_every_record_of_it_was_found_good_and_one_is_new() -> None:
    yes, no, never = Verdict.ACCEPT, Verdict.IGNORE, Verdict.REJECT
    assert gossip.verdict_of_batch([yes, yes]) is yes
    assert gossip.verdict_of_batch([yes, no, yes]) is no
    assert gossip.verdict_of_batch([]) is no  # all of it was here before
    assert gossip.verdict_of_batch([yes, no, never]) is never


def test_content_alone_names_a_message() -> None:
    one, other = (str(gossip.Topic(SwarmId("public"), subject)) for subject in gossip.Subject)
    assert gossip.message_id(one, b"x") != gossip.message_id(other, b"x")
    assert gossip.message_id(one, b"x") == gossip.message_id(one, b"x")
    assert gossip.message_id("a", b"\0b") != gossip.message_id("a\0", b"b")


def test_heads_and_batches_lie_under_their_authors_keys_alone() -> None:
    other = PeerId.from_public_key(samples.OTHER_KEY.public_key().public_bytes_raw())
    head = swarm_samples.head()
    key = str(dht.head_key(PUBLIC_SWARM, samples.AUTHOR))
    assert dht.validate(key, head.sealed, swarm=PUBLIC_SWARM, now_us=NOW) == head
    with pytest.raises(RemoteProtocolError):
        dht.validate(str(dht.head_key(PUBLIC_SWARM, other)), head.sealed, swarm=PUBLIC_SWARM, now_us=NOW)
