"""What the end-to-end tests share: one real engine, and one node in front of it."""

from collections.abc import Iterator

import pytest

from tests.e2e.daemon import NODE_KEY, Daemon, key_section, running_node
from tests.e2e.engine import KEY as ENGINE_KEY
from tests.e2e.engine import MODEL_NAME, Engine, running_engine
from tests.e2e.entry import Entry

ENGINE_SEEN_S = 30.0  # from the node's start until it knows an engine that already runs


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The suite's own vLLM."""
    with running_engine(tmp_path_factory.mktemp("engine")) as running:
        yield running


@pytest.fixture(scope="session")
def node(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A node that speaks for the suite's engine, open to the holder of NODE_KEY."""
    folder = tmp_path_factory.mktemp("node")
    config = f'[engine]\nurl_key = "{ENGINE_KEY}"\n{key_section("suite", NODE_KEY)}'
    with running_node(folder, "--engine-url", engine.entry.url, config=config) as daemon:
        daemon.wait_for_engine(within=ENGINE_SEEN_S)
        yield daemon


@pytest.fixture(scope="session")
def entry(node: Daemon) -> Entry:
    """The way in that is held to the engine's answers. A swarm's tests give another one."""
    return Entry(url=node.url, model=MODEL_NAME, api_key=NODE_KEY)
