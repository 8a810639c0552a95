"""What a node says of itself in its adverts, made of its settings and of what its engine does now.

Knows no service: values in, a description out. A part of the composition root, because it knows the policies.
"""

from collections.abc import Sequence
from dataclasses import replace

from node.core.candidates import told_price
from node.core.engine_state import SERVING, EngineSnapshot, EngineState, ServedModel
from node.core.self_advert import Description
from node.core.strategy import Strategy, to_plain
from node.policies import Policies, SwarmPolicies
from protocol.addresses import Address
from protocol.advert import BOOTSTRAP, SERVE, Engine, Hardware, ModelOffer, ServeLimits
from protocol.ids import ContentDigest

COMING = frozenset({EngineState.PREPARING, EngineState.STARTING})  # states from which an engine will serve


def describe(  # noqa: PLR0913 -- all that an advert is made of
    snapshot: EngineSnapshot,
    models: Sequence[ServedModel],
    *,
    policies: Policies,
    among: SwarmPolicies,
    addresses: tuple[Address, ...],
    hardware: Hardware | None,
    strategy: Strategy,
    digest: ContentDigest | None,
    running: int,
    intends: str | None,
) -> Description:
    """Return what a node is and serves.

    An engine that is away for a moment is still offered: its load says that it takes nothing now, and who has nobody
    else to ask waits for it (docs/protocol/load.md).

    Args:
        snapshot, models: of the engine.
        strategy: that it works under, levers included.
        digest: of the content of its own model.
        running: prompts that it works on together at most.
        intends: what the node is about to do with it.
    """
    up = snapshot.state in SERVING or snapshot.returning
    serves = up and not among.access.serve.empty
    roles = ((SERVE,) if serves else ()) + ((BOOTSTRAP,) if among.bootstrap else ())
    said = Description(
        addresses=addresses,
        roles=roles,
        name=policies.name,
        hardware=hardware,
        price=told_price(among.price_per_hour, hardware),
    )
    if not serves:
        # Without the role `serve` an offer is none to ask for: it says that the model is known, and will be served.
        if snapshot.model is None or snapshot.state not in COMING or among.access.serve.empty:
            return said
        return replace(said, models=(ModelOffer(name=snapshot.model),))
    quota = among.access.each
    return replace(
        said,
        models=tuple(_offer(each, digest if each.name == snapshot.model else None) for each in models),
        engine=Engine(name="vllm") if snapshot.strategy != "external" else None,
        strategy=to_plain(strategy),
        limits=ServeLimits(
            running=running,
            waiting=policies.admission.waiting,
            body_bytes=among.limits.body_bytes,
            requests_per_minute=quota.requests_per_minute,
            tokens_per_minute=quota.tokens_per_minute,
            concurrent=quota.concurrent,
        ),
        intends=intends,
    )


def _offer(served: ServedModel, digest: ContentDigest | None) -> ModelOffer:
    """Return the offer of a model. Only the engine's own has the digest: adapters have contents of their own."""
    return ModelOffer(name=served.name, max_length=served.max_length, digest=digest)
