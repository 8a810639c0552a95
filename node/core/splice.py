"""The events of a continuation, made the rest of the answer that it continues.

Knows no stream. The other engine's events come in, those that the client gets go out: under the answer's own `id`,
`created` and `model`, in the shape that the client asked for, with its tokens counted as the answer's and not as the
prompt's, and without the text that the client has already. Where what should be the same text is another (near ties
are decided otherwise by another batch), the continuation has failed and the client has seen nothing of that.
"""

from typing import Any, Final, cast

from node.core.continuation import Mark, Told, choice, event, headed
from node.core.resumable import Terms
from node.core.sse_events import DONE, events_of
from node.core.token_stream import Garbage, Piece, piece_of

# Characters. What was said before the cut cannot come again by chance in a first event if it is as long as this; if it
# is shorter, the event is a prompt's text only if it is longer than a few tokens' can be.
TELLING: Final = 16
LONG: Final = 32
ANNOUNCEMENT: Final = "metainf"  # the field of an event that tells of a continuation


class Splice:
    """Fed with the whole events of one continuation in order. What it tells is added to `told`."""

    def __init__(self, told: Told, terms: Terms, mark: Mark, *, announced: int = 0) -> None:
        """Begin at `mark`, from which on all is generated anew.

        Args:
            announced: the how-manieth continuation its first event is to say that it is of; 0 has it say nothing.
        """
        self._announced = announced
        self.failed = ""  # why the continuation is none; the rest of it is to be left alone
        self.garbage = False  # whether that is no near tie that fell otherwise: its engine talks nonsense
        self._told = told
        self._terms = terms
        self._mark = mark
        known = len(told.said) - (told.end - mark.end)
        self._expected = told.said[known:]  # the client has it already
        self._before = "" if mark.clean else told.said[:known]
        if len(told.ids) > len(told.shown):
            told.shown = list(told.ids)
        self._engine_end = mark.end
        self._rewind()

    def take(self, block: bytes) -> bytes:
        """Return what the client gets of whole events."""
        out: list[bytes] = []
        for each in events_of(block):
            if self.failed or self._told.done:
                break
            try:
                piece = piece_of(each)
                out.append(each if piece is None else self._one(piece))
            except ValueError as error:
                self.failed = f"its continuation is none: {error}"
                self.garbage = isinstance(error, Garbage)
                if self._expected:
                    self._rewind()
        return b"".join(out)

    def _rewind(self) -> None:
        told, mark = self._told, self._mark
        del told.ids[mark.tokens :]
        told.marks = [each for each in told.marks if each.tokens <= mark.tokens]

    def _one(self, piece: Piece) -> bytes:
        told = self._told
        if piece.done:
            told.done = True
            return DONE
        if piece.usage is not None:
            told.usage_told = True
            kept = {key: value for key, value in piece.whole.items() if key not in {"id", "object", "created", "model"}}
            return self._event({**headed(told, self._terms, []), **kept, "usage": self._counted(piece.usage)})
        self._check(piece)
        text = self._unread(piece.text)
        ids = self._take_ids(piece)
        self._engine_end += len(text)
        if text:
            end = self._engine_end + self._terms.held
            told.mark(Mark(tokens=len(told.ids), end=end, clean=len(piece.ids or ()) == 1))
        text = self._unsaid(text)
        if piece.finish is not None and self._expected:
            raise ValueError("it ends before what was said")
        told.say(text)
        told.finish = piece.finish
        return self._rendered(piece, text, ids)

    def _rendered(self, piece: Piece, text: str, ids: list[int]) -> bytes:
        usage = piece.whole.get("usage")
        if not (text or ids or piece.finish is not None or usage):
            return b""
        shown = ids if self._terms.ids_wanted else None
        one = choice(self._terms, text, ids=shown, finish=piece.finish, stop=piece.stop)
        whole = headed(self._told, self._terms, [one])
        if isinstance(usage, dict):
            whole["usage"] = self._counted(cast("dict[str, Any]", usage))
        if "system_fingerprint" in piece.whole:
            whole["system_fingerprint"] = piece.whole["system_fingerprint"]
        return self._event(whole)

    def _event(self, whole: dict[str, Any]) -> bytes:
        if self._announced:
            whole = {**whole, ANNOUNCEMENT: {"resumed": self._announced}}
            self._announced = 0
        return event(whole)

    def _check(self, piece: Piece) -> None:
        """See that the engine goes on from the tokens that it was given, where it says what it goes on from."""
        given = cast("list[dict[str, Any]]", piece.whole["choices"])[0].get("prompt_token_ids")
        if isinstance(given, list) and len(cast("list[object]", given)) != len(self._told.prompt) + self._mark.tokens:
            raise ValueError("it is of another prompt")

    def _unread(self, text: str) -> str:
        """Return the first text without what an engine puts before it that was given half a character.

        That is the text of all the tokens that it was given.
        """
        before, self._before = self._before, ""
        if not text or not before:
            self._before = before
            return text
        at = text.rfind(before)
        prompts = len(before) >= TELLING or len(text) - len(before) >= max(LONG, len(self._told.prompt) // 2)
        return text[at + len(before) :] if at >= 0 and prompts else text

    def _unsaid(self, text: str) -> str:
        """Return what the client does not have of a text.

        Raises:
            ValueError: it is not what the client was told in its place.
        """
        if not self._expected or not text:
            return text
        common = min(len(text), len(self._expected))
        if text[:common] != self._expected[:common]:
            raise ValueError("it says otherwise what was said already")
        self._expected = self._expected[common:]
        return text[common:]

    def _take_ids(self, piece: Piece) -> list[int]:
        """Add the tokens of a piece; return those that the client is to be told.

        Raises:
            ValueError: they are not those that it was told in their place.
        """
        told = self._told
        if piece.ids is None:
            told.blind = "the engine that went on tells no token ids"
            return []
        before = len(told.ids)
        again = told.shown[before : before + len(piece.ids)] if self._terms.ids_wanted else []
        if piece.ids[: len(again)] != again:
            raise ValueError("it generates other tokens than were told")
        told.ids += piece.ids
        if not self._terms.ids_wanted:
            return []
        new = piece.ids[len(again) :]
        told.shown += new
        return new

    def _counted(self, usage: dict[str, Any]) -> dict[str, Any]:
        """Return the answer's usage, from the continuation's."""
        prompt, answer = len(self._told.prompt), usage.get("completion_tokens")
        if not isinstance(answer, int):
            return usage
        answer += self._mark.tokens
        counted = {**usage, "prompt_tokens": prompt, "total_tokens": prompt + answer, "completion_tokens": answer}
        details = usage.get("prompt_tokens_details")
        cached = cast("dict[str, Any]", details).get("cached_tokens") if isinstance(details, dict) else None
        if isinstance(cached, int):
            counted["prompt_tokens_details"] = {**cast("dict[str, Any]", details), "cached_tokens": min(cached, prompt)}
        return counted
