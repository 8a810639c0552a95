"""What several tests of the learner stand on."""

import numpy as np
import pytest

from node.learner import brain, objective
from node.learner.brain import Brain
from tests.learner.synthetic import world


@pytest.fixture(scope="session")
def taught() -> Brain:
    """A brain that has learnt one objective by trees; nobody changes it."""
    pytest.importorskip("lightgbm")
    return Brain(make_heads=brain.trees).taught(
        world(24, seed=1), {}, [objective.parse("latency")], np.random.default_rng(0), curves_too=False
    )
