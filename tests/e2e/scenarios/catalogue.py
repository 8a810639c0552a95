"""Every scenario, in the order in which they run."""

from tests.e2e.scenarios import (
    chat,
    completions,
    messages,
    models,
    refusals,
    responses,
    streams,
    structured,
    tokens,
    transport,
)
from tests.e2e.scenarios.scenario import Scenario

CATALOGUE: tuple[Scenario, ...] = (
    *models.SCENARIOS,
    *chat.SCENARIOS,
    *streams.SCENARIOS,
    *completions.SCENARIOS,
    *structured.SCENARIOS,
    *responses.SCENARIOS,
    *messages.SCENARIOS,
    *tokens.SCENARIOS,
    *refusals.SCENARIOS,
    *transport.SCENARIOS,
)
