"""The list of models: what this node's own engine lists, and below it what the swarm serves besides.

Knows neither engines nor peers: offers come from the book's view of the swarm, the own engine's list from the replica.
Where the swarm adds nothing, the engine's answer passes through untouched.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import trio

from node.core.prompt import Headers, Prompt
from node.errors import Broken, Refused, unknown_model
from node.ports import EngineBoard, Replica, Served, ServedAnswer
from protocol.advert import ModelOffer

PATH = "/v1/models"
OWN_LIST_BYTES = 4 * 1024 * 1024  # more is no list of models
_HEADERS: Headers = ((b"content-type", b"application/json"),)
Card = Mapping[str, Any]


class ModelList:
    """`node.ports.Replica` for the paths of the list of models alone."""

    def __init__(
        self,
        *,
        replica: Replica,
        board: EngineBoard,
        peer_id: str,
        offers: Callable[[], Sequence[ModelOffer]],
        created: int,
    ) -> None:
        """Prepare.

        Args:
            replica: asked for the own engine's list, as this node (`via`) and nobody else.
            board: tells whether there is an own engine.
            offers: what the swarm serves.
            created: seconds since 1970 that OpenAI's objects must carry; of a peer's model nobody knows them.
        """
        self._replica = replica
        self._board = board
        self._peer_id = peer_id
        self._offers = offers
        self._created = created

    @asynccontextmanager
    async def answer(self, prompt: Prompt) -> AsyncIterator[ServedAnswer]:
        """See `node.ports.Replica.answer`."""
        here = self._board.snapshot().model
        swarm = [card for card in cards(self._offers(), self._created) if card["id"] != here]
        own_only = replace(prompt, via=prompt.via or self._peer_id)
        if prompt.via is not None or (here is not None and not swarm):
            async with self._replica.answer(own_only) as answer:
                yield answer
            return
        listed = _union(await self._own(own_only) if here is not None else (), swarm)
        wanted = prompt.path.removeprefix(PATH).removeprefix("/")
        if not wanted:
            yield self._said({"object": "list", "data": listed})
            return
        card = next((each for each in listed if each.get("id") == wanted), None)
        if card is None:
            raise Refused(unknown_model(wanted, (str(each.get("id")) for each in listed)))
        yield self._said(card)

    async def _own(self, prompt: Prompt) -> Sequence[Card]:
        """Return what the own engine lists; nothing while it is away."""
        gathered = bytearray()
        try:
            async with self._replica.answer(replace(prompt, target=PATH)) as answer:
                while piece := await answer.receive():
                    gathered += piece
                    if answer.status != 200 or len(gathered) > OWN_LIST_BYTES:
                        return ()
            whole = json.loads(gathered)
        except (Refused, Broken, ValueError, RecursionError):
            return ()
        data = whole.get("data") if isinstance(whole, dict) else None
        return [each for each in data if isinstance(each, dict)] if isinstance(data, list) else ()

    def _said(self, content: object) -> ServedAnswer:
        body = json.dumps(content, separators=(",", ":")).encode("ascii")
        length = (b"content-length", b"%d" % len(body))
        return _Said(body, Served(node=self._peer_id), headers=(*_HEADERS, length))


@dataclass(slots=True)
class _Said:
    """An answer that is whole from the start."""

    body: bytes
    served: Served
    status: int = 200
    headers: Headers = _HEADERS

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        body, self.body = self.body, b""
        return body


def cards(offers: Sequence[ModelOffer], created: int) -> list[Card]:
    """Return offers as OpenAI's model objects in vLLM's shape, sorted by id.

    A name stands once. Where unlike contents are served under it, each stands under `name@digest` as well.
    """
    by_name: dict[str, list[ModelOffer]] = {}
    for offer in offers:
        by_name.setdefault(offer.name, []).append(offer)
    listed = {name: _card(name, same, created) for name, same in by_name.items()}
    for name, same in by_name.items():
        digests = {str(offer.digest): offer for offer in same if offer.digest is not None}
        if len(digests) > 1:
            listed |= {f"{name}@{pin}": _card(f"{name}@{pin}", [offer], created) for pin, offer in digests.items()}
    return [listed[name] for name in sorted(listed)]


def _card(name: str, offers: Sequence[ModelOffer], created: int) -> Card:
    lengths = [offer.max_length for offer in offers if offer.max_length is not None]
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "metainf",
        "root": offers[0].name,
        "parent": None,
        "max_model_len": min(lengths, default=None),  # what whoever is asked will take
        "permission": [
            {
                "id": f"modelperm-{name}",
                "object": "model_permission",
                "created": created,
                "allow_create_engine": False,
                "allow_sampling": True,
                "allow_logprobs": True,
                "allow_search_indices": False,
                "allow_view": True,
                "allow_fine_tuning": False,
                "organization": "*",
                "group": None,
                "is_blocking": False,
            }
        ],
    }


def _union(own: Sequence[Card], swarm: Sequence[Card]) -> list[Card]:
    known = {each.get("id") for each in own}
    return [*own, *(each for each in swarm if each["id"] not in known)]
