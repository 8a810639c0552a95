"""The settings in the terms of those who act on them: the tuner's and the owner's limits."""

from pathlib import Path

import pytest

from node.core.day_hours import Span
from node.core.spending import SpendLimits
from node.core.tuner_policy import by_littles_law
from node.errors import ConfigError
from node.places import places
from node.policies import Policies, policies_of
from node.settings import effective


def made(text: str = "") -> Policies:
    settings = effective(command_line={}, environment={}, file_text=f"version = 1\n{text}", file_name="f").settings
    return policies_of(settings, places({"HOME": "/nowhere"}, uid=0, data_dir=Path("/nowhere")), version="1")


def test_without_a_word_the_node_tunes_itself_and_has_no_limits() -> None:
    policies = made()
    assert policies.tuner.enabled
    assert (policies.tuner.objective, policies.learner.goals) == ("latency", ("latency",))
    assert (policies.limits.hours, policies.limits.measured) == ((), False)
    assert policies.plan.extra_arguments == ()


def test_what_the_tuner_chooses_by_is_learnt_as_well() -> None:
    assert made('[tuner]\nobjective = "tail"').learner.goals == ("latency", "tail")
    assert made('[learner]\nobjectives = ["cost", "tail"]').tuner.objective == "cost"
    assert made('[learner]\nobjectives = ["cost", "tail"]\n[tuner]\nobjective = "tail"').learner.goals == (
        "cost",
        "tail",
    )
    assert made('[tuner]\nenabled = false\nobjective = "tail"').learner.goals == ("latency",)


def test_for_throughput_the_learner_learns_and_is_asked_for_latency() -> None:
    policies = made('[learner]\nobjectives = ["throughput"]')
    assert (policies.tuner.objective, policies.tuner.goal) == ("throughput", "latency")
    assert policies.learner.goals == ("throughput", "latency")


@pytest.mark.parametrize(
    ("objective", "asked"),
    [
        ("throughput", "latency"),
        ("tail", "tail"),
        ("latency:0.5,cost:0.5", "latency:0.5,cost:0.5"),
        ("throughput:0.25,cost:0.5,latency:0.25", "latency:0.5,cost:0.5"),
        ("throughput:2,latency", "latency"),
    ],
)
def test_throughput_is_latency_in_mixes_too(objective: str, asked: str) -> None:
    assert by_littles_law(objective) == asked


def test_more_objectives_than_can_be_learnt_are_refused() -> None:
    eight = ["tail", "cost", "energy", "latency", "throughput", "tail,cost", "cost,energy", "latency,tail"]
    with pytest.raises(ConfigError, match=r"tuner\.objective") as caught:
        made(f'[learner]\nobjectives = {eight}\n[tuner]\nobjective = "latency,cost"')
    assert "in the place of one" in caught.value.remedy


def test_promises_are_in_seconds_and_slo_wants_one() -> None:
    assert made('[tuner]\nobjective = "slo"\nttft_ms = 500').tuner.promises == {"ttft_s": 0.5}
    assert made("[tuner]\ntpot_ms = 50").tuner.promises == {"tpot_s": 0.05}
    with pytest.raises(ConfigError, match="promises"):
        made('[tuner]\nobjective = "latency:0.5,slo:0.5"')


def test_limits_are_read_and_a_share_of_memory_is_the_engine_s_too() -> None:
    policies = made(
        '[limits]\nhours = ["22:00-07:00"]\nwatts = 250\nmemory_share = 0.5\n[engine]\nextra_arguments = ["--x"]'
    )
    assert policies.limits.hours == (Span(22 * 60, 7 * 60),)
    assert (policies.limits.watts, policies.limits.measured) == (250.0, True)
    assert policies.plan.extra_arguments == ("--gpu-memory-utilization", "0.5", "--x")
    assert policies.tuner.memory_limit(1000) == 500


def test_the_least_limit_of_memory_counts_and_an_unknown_total_is_no_limit() -> None:
    both = made("[limits]\nmemory_bytes = 2097152\nmemory_share = 0.5").tuner
    assert [both.memory_limit(total) for total in (None, 1 << 20, 1 << 30)] == [2 << 20, 1 << 19, 2 << 20]
    assert made("[limits]\nmemory_share = 0.5").tuner.memory_limit(None) is None
    assert made().tuner.memory_limit(1 << 30) is None


def test_an_hour_costs_what_the_machine_and_its_power_do_and_nothing_is_guessed() -> None:
    assert made().tuner.hourly_cost(300.0) is None
    assert made("[limits]\nprice_per_hour = 0.5").tuner.hourly_cost(None) == 0.5
    assert made("[limits]\nenergy_price_per_kwh = 0.3").tuner.hourly_cost(None) is None
    both = made("[limits]\nprice_per_hour = 0.5\nenergy_price_per_kwh = 0.3").tuner
    assert both.hourly_cost(1000.0) == pytest.approx(0.8)


def test_prompts_wait_for_a_switch_as_long_as_the_owner_says() -> None:
    policies = made("[tuner]\nhold_s = 30\nhorizon_h = 2\nstart_first = 'never'")
    assert policies.admission.longest_hold == policies.tuner.hold_s == 30.0
    assert (policies.tuner.horizon_s, policies.tuner.start_first) == (7200.0, False)


def test_what_may_be_owed_and_what_is_asked_are_settings_of_their_own() -> None:
    nothing = made("")
    assert (nothing.routing.spend, nothing.routing.own_price_per_hour) == (SpendLimits(), None)
    limits = made("[routing]\nspend_per_day = 5\nspend_per_request = 0").routing.spend
    assert (limits.per_day, limits.per_request) == (5.0, 0.0)
    asks = made("[p2p]\nprice_per_hour = 0.5")
    assert asks.swarm is not None
    assert (asks.swarm.price_per_hour, asks.routing.own_price_per_hour) == (0.5, 0.5)
    # What a machine costs its owner is his own business, and what he reckons by.
    both = made("[p2p]\nprice_per_hour = 0.5\n[limits]\nprice_per_hour = 0.2")
    assert both.swarm is not None
    assert (both.swarm.price_per_hour, both.routing.own_price_per_hour) == (0.5, 0.2)
    quiet = made("[limits]\nprice_per_hour = 0.2")
    assert quiet.swarm is not None
    assert quiet.swarm.price_per_hour is None


@pytest.mark.parametrize("key", ["routing.spend_per_day", "routing.spend_per_request", "p2p.price_per_hour"])
def test_no_price_and_no_limit_is_below_nothing(key: str) -> None:
    section, name = key.split(".")
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        made(f"[{section}]\n{name} = -1")


def test_the_door_for_peers_is_as_wide_as_the_owner_says() -> None:
    plain = made("").swarm
    assert plain is not None
    assert (plain.door.inbound, plain.door.inbound_per_address, plain.door.trusted) == (256, 32, ())
    wide = made('[p2p]\ninbound = 1000\ninbound_per_address = 500\ntrusted_networks = ["10.1.0.0/16", "fd00::1"]').swarm
    assert wide is not None
    assert [str(each) for each in wide.door.trusted] == ["10.1.0.0/16", "fd00::1/128"]
    with pytest.raises(ConfigError, match=r"p2p\.trusted_networks") as caught:
        made('[p2p]\ntrusted_networks = ["10.1.2.3/16"]')
    assert "10.1.0.0/16" in caught.value.remedy


def test_nodes_to_join_through_are_addresses_or_names_and_nothing_else() -> None:
    peer = "12D3KooWCJDRCShGxdmc2SuYFfRp4ZJ8anPKa9QjTFcHdibm2fD6"
    swarm = made(f'[p2p]\njoin = ["/dns4/a.example/tcp/1/p2p/{peer}", "/dnsaddr/b.example"]').swarm
    assert swarm is not None
    assert [str(each) for each in swarm.join] == [f"/dns4/a.example/tcp/1/p2p/{peer}"]
    assert [str(each) for each in swarm.join_names] == ["/dnsaddr/b.example"]
    for wrong, remedy in (("/dnsaddr/b_/tcp/1", "/dnsaddr/bootstrap.example.org"), ("/ip4/1.2.3.4/tcp/1", "/p2p/12D3")):
        with pytest.raises(ConfigError) as error:
            made(f'[p2p]\njoin = ["{wrong}"]')
        assert wrong in error.value.message
        assert remedy in error.value.remedy
