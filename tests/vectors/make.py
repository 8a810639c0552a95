"""Golden vectors of the wire: bytes and what they mean, valid and invalid, for implementers in any language.

`python -m tests.vectors.make` writes them anew beside this file. What an invalid vector must be refused for is
written down by hand in the cases and checked while writing; the tests hold the code to the committed files.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.vectors import (
    cases_greeting,
    cases_history,
    cases_ids,
    cases_inference,
    cases_membership,
    cases_performance,
    cases_records,
    cases_swarm,
    cases_wire,
)
from tests.vectors.forms import Json

HERE: Final = Path(__file__).parent

FILES: Final[dict[str, Callable[[], Json]]] = {
    "wire.json": cases_wire.wire_vectors,
    "framing.json": cases_wire.framing_vectors,
    "ids.json": cases_ids.ids_vectors,
    "records.json": cases_records.records_vectors,
    "inference.json": cases_inference.inference_vectors,
    "hello.json": cases_greeting.hello_vectors,
    "load.json": cases_greeting.load_vectors,
    "reach.json": cases_greeting.reach_vectors,
    "advert.json": cases_swarm.advert_vectors,
    "gossip.json": cases_swarm.gossip_vectors,
    "history.json": cases_history.history_vectors,
    "dht.json": cases_swarm.dht_vectors,
    "membership.json": cases_membership.membership_vectors,
    "performance.json": cases_performance.performance_vectors,
}


def text_of(name: str) -> str:
    """Return what the file of vectors must hold."""
    return json.dumps(FILES[name](), indent=1, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    for file_name in FILES:
        (HERE / file_name).write_text(text_of(file_name))
        print(HERE / file_name)
