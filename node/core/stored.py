"""Which replica keeps which stored answer of the Responses API: whoever goes on from one must ask the same again.

Knows no network. An engine keeps answers in its own memory, so nobody else can give them. Ids are read off the
first bytes of answers that pass by, and off the paths and bodies of prompts.
"""

import re
from collections import OrderedDict

import msgspec

from node.core.prompt import Prompt
from node.errors import Refusal
from protocol.ids import PeerId

PATH = "/v1/responses"
ANSWERS = 4096  # remembered, the latest used: engines forget theirs with each restart
LOOKED_AT = 4096  # bytes of an answer's beginning: the id is among its first fields
_ID = re.compile(rb'"id":\s*"(resp_[A-Za-z0-9_-]{1,128})"')


class _Fields(msgspec.Struct):
    previous_response_id: object = None


_decoder = msgspec.json.Decoder(_Fields)


def stored_answer(prompt: Prompt) -> str | None:
    """Return the id of the stored answer that a prompt is about; None where it is about none."""
    if prompt.path != PATH:
        rest = prompt.path.removeprefix(PATH + "/")
        return None if rest == prompt.path else rest.partition("/")[0]
    if b"previous_response_id" not in prompt.body:
        return None
    try:
        previous = _decoder.decode(prompt.body).previous_response_id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # what is wrong with it is the engine's to say
    return previous if isinstance(previous, str) else None


def not_stored(answer: str) -> Refusal:
    """Refuse an answer that nobody here knows of, in vLLM's words."""
    return Refusal(
        status=404,
        type="invalid_request_error",
        param="response_id",
        as_engine=True,
        message=f"Response with id '{answer[:200]}' not found.",
    )


class StoredAnswers:
    """Who keeps what, as far as this node has seen it."""

    def __init__(self) -> None:
        self._keepers: OrderedDict[str, PeerId] = OrderedDict()

    def note(self, prompt: Prompt, beginning: bytes, replica: PeerId) -> None:
        """Take in the first bytes of an answer to a prompt."""
        found = _ID.search(beginning, 0, LOOKED_AT) if prompt.path == PATH else None
        if found is not None:
            self._keepers[found.group(1).decode("ascii")] = replica
            if len(self._keepers) > ANSWERS:
                self._keepers.popitem(last=False)

    def keeper(self, answer: str) -> PeerId | None:
        """Return who keeps an answer; None where that is not known."""
        keeper = self._keepers.get(answer)
        if keeper is not None:
            self._keepers.move_to_end(answer)
        return keeper
