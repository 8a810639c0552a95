"""What a node says of itself: its price, and a model that its engine is still loading."""

from dataclasses import replace

import pytest

from node.core.access import NOBODY, Access
from node.core.engine_state import EngineSnapshot, EngineState, ServedModel
from node.core.self_advert import Description
from node.core.strategy import DEFAULT
from node.describing import describe
from node.policies import Policies, SwarmPolicies
from protocol.advert import SERVE, Accelerator, Hardware
from tests.test_policies import made

TWO = Hardware(accelerators=(Accelerator(name="L4", count=2),))


def said(
    state: EngineState, *, listed: tuple[str, ...] = (), access: Access | None = None, price: float | None = None
) -> Description:
    policies: Policies = made()
    assert policies.swarm is not None
    among: SwarmPolicies = replace(policies.swarm, access=access or Access(), price_per_hour=price)
    return describe(
        EngineSnapshot(state=state, since=0.0, model="m", strategy="default", reason=""),
        [ServedModel(name, 512) for name in listed],
        policies=policies,
        among=among,
        addresses=(),
        hardware=TWO,
        strategy=DEFAULT,
        digest=None,
        running=4,
        intends=None,
    )


@pytest.mark.parametrize("state", [EngineState.PREPARING, EngineState.STARTING])
def test_a_model_that_is_being_loaded_is_named_and_not_served(state: EngineState) -> None:
    found = said(state)
    assert [(each.name, each.max_length) for each in found.models] == [("m", None)]
    assert SERVE not in found.roles
    assert said(state, access=Access(serve=NOBODY)).models == ()  # who will serve nobody names nothing


@pytest.mark.parametrize("state", [EngineState.OFF, EngineState.FAILED, EngineState.STOPPED, EngineState.BACKOFF])
def test_an_engine_that_may_never_come_is_not_spoken_of(state: EngineState) -> None:
    assert said(state).models == ()


def test_one_that_serves_is_offered_with_its_role() -> None:
    found = said(EngineState.READY, listed=("m", "m-lora"))
    assert [(each.name, each.max_length) for each in found.models] == [("m", 512), ("m-lora", 512)]
    assert SERVE in found.roles


def test_the_price_is_told_for_each_device_and_only_where_the_owner_asks_one() -> None:
    assert said(EngineState.READY, listed=("m",), price=3.0).price == {"device_hour_micro": 1_500_000}
    assert said(EngineState.STARTING, price=0.0).price == {"device_hour_micro": 0}
    assert said(EngineState.READY, listed=("m",)).price is None
