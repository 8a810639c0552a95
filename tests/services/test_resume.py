"""Streams that break off at every place, go on elsewhere, and tell the client what the whole one would have told."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from node.core.prompt import OWNER, Prompt
from node.core.resumable import terms_of
from node.errors import Broken, Refusal, Refused
from node.services.resume import ResumingReplica
from node.services.resume_stream import ResumeLimits
from tests.fakes.replica import FakeReplica
from tests.fakes.token_engine import PROMPT, Heard, TokenEngine, event, heard, tokens_of
from tests.fakes.upstream import EVENTS, JSON, Request, Script

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
TEXT = 'Ünïcode: 12 €, 😀😀 – naïve café ##END## more 日本語 text; "token_ids":[1,2] it ends.'
GONE = Broken("The peer ended the stream in the middle of an answer.")


def body(path: str, **fields: Any) -> bytes:
    asked: dict[str, Any] = {"model": "m", "stream": True, "temperature": 0, "max_tokens": 60, **fields}
    if path == CHAT:
        asked["messages"] = [{"role": "user", "content": "Say it"}]
    else:
        asked["prompt"] = "Say it"
    return json.dumps(asked).encode()


def prompt(path: str = CHAT, *, deadline: float | None = None, **fields: Any) -> Prompt:
    return Prompt(
        request_id="r-1",
        method="POST",
        target=path,
        headers=((b"content-type", b"application/json"),),
        body=body(path, **fields),
        model="m",
        stream=True,
        requester=OWNER,
        deadline=deadline,
    )


@dataclass
class Stage:
    """Engines that are asked one after another, the last one again and again, each breaking off where it is told to.

    `breaks[n]`: bytes after which the n-th answer breaks off; those that follow are whole.
    """

    engines: Sequence[TokenEngine]
    breaks: Sequence[int] = ()
    piece: int = 1 << 20
    limits: ResumeLimits | None = None
    room: int | None = 1000
    change: Callable[[int, bytes], bytes] = lambda _, stream: stream
    how: Broken | None = GONE  # None: it ends in order, too early

    def __post_init__(self) -> None:
        self.inner = FakeReplica()
        self.inner.upstream.answer_with = self.answer
        self.asked = 0
        self.replica = ResumingReplica(self.inner, room=lambda _: self.room, limits=self.limits)

    def answer(self, request: Request) -> Script:
        number, self.asked = self.asked, self.asked + 1
        engine = self.engines[min(number, len(self.engines) - 1)]
        stream = self.change(number, b"".join(engine.events(request.target, request.body)))
        cut = number < len(self.breaks)
        if cut:
            stream = stream[: self.breaks[number]]
        pieces: list[Any] = [stream[at : at + self.piece] for at in range(0, len(stream), self.piece)]
        if cut and self.how is not None:
            pieces.append(self.how)
        return Script(pieces, headers=EVENTS)

    async def ask(self, one: Prompt) -> bytes:
        told = bytearray()
        async with self.replica.answer(one) as answer:
            while piece := await answer.receive():
                told += piece
        assert self.inner.upstream.at_work == 0
        return bytes(told)


def run(stage: Stage, one: Prompt) -> bytes:
    return trio.run(stage.ask, one, clock=MockClock(autojump_threshold=0))


def run_to_break(stage: Stage, one: Prompt) -> tuple[bytes, Broken]:
    """Return what came before the stream broke off, and with what."""
    told = bytearray()

    async def ask() -> Broken:
        async with stage.replica.answer(one) as answer:
            try:
                while piece := await answer.receive():
                    told.extend(piece)
            except Broken as broken:
                return broken
        raise AssertionError("it did not break off")

    broken = trio.run(ask, clock=MockClock(autojump_threshold=0))
    assert stage.inner.upstream.at_work == 0
    return bytes(told), broken


def whole(engine: TokenEngine, one: Prompt) -> bytes:
    """Return what the engine alone would have told the client."""
    return b"".join(replace(engine, asked=[]).events(one.path, one.body))


def with_ids(engine: TokenEngine, one: Prompt) -> list[bytes]:
    asked = one.body.replace(b"{", b'{"return_token_ids":true,', 1)
    return replace(engine, asked=[]).events(one.path, asked)


def boundaries(events: Sequence[bytes]) -> list[int]:
    """Places in a stream: after each event, and within it."""
    places, at = [], 0
    for each in events:
        places += [at + len(each) - 1, at + len(each)]
        at += len(each)
    return places


def same(told: Heard, wanted: Heard) -> None:
    assert told.text == wanted.text
    assert (told.finishes, told.usages, told.roles, told.ends) == (wanted.finishes, wanted.usages, wanted.roles, 1)
    assert (told.ids, told.errors) == (wanted.ids, 0)
    assert len(told.heads) == 1


WORDS = tokens_of(TEXT)
BYTES = tokens_of("12 €, 😀😀é: –", width=1)
KINDS: dict[str, tuple[str, dict[str, Any], TokenEngine]] = {
    "chat": (CHAT, {}, TokenEngine(WORDS)),
    "completion": (COMPLETIONS, {}, TokenEngine(WORDS)),
    "usage": (CHAT, {"stream_options": {"include_usage": True}}, TokenEngine(WORDS)),
    "usage of a completion": (COMPLETIONS, {"stream_options": {"include_usage": True}}, TokenEngine(WORDS)),
    "usage in every event": (
        CHAT,
        {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        TokenEngine(WORDS),
    ),
    "length": (CHAT, {"max_tokens": 20, "stream_options": {"include_usage": True}}, TokenEngine(WORDS)),
    "no limit": (CHAT, {"max_tokens": None}, TokenEngine(WORDS, context=len(PROMPT) + 12)),
    "single bytes": (CHAT, {}, TokenEngine(BYTES)),
    "drafts": (COMPLETIONS, {}, TokenEngine(WORDS, together=(1, 3, 2, 4))),
    "drafts of single bytes": (CHAT, {}, TokenEngine(BYTES, together=(2, 5, 1))),
    "drafts only": (CHAT, {}, TokenEngine(WORDS, together=(3,))),
    "stop": (CHAT, {"stop": "##END##"}, TokenEngine(WORDS)),
    "stops of a completion": (COMPLETIONS, {"stop": ["nothing like it at all", "##END##"]}, TokenEngine(WORDS)),
    "stop that is shown": (CHAT, {"stop": ["##END##"], "include_stop_str_in_output": True}, TokenEngine(WORDS)),
    "stop after so many tokens": (CHAT, {"stop": ["e"], "min_tokens": 18}, TokenEngine(WORDS)),
    "stop and drafts": (CHAT, {"stop": ["##END##", " m"]}, TokenEngine(WORDS, together=(2, 1, 4))),
    "ids wanted": (CHAT, {"return_token_ids": True}, TokenEngine(WORDS, together=(1, 2))),
    "ids wanted of a completion": (COMPLETIONS, {"return_token_ids": True, "stop": ["##E"]}, TokenEngine(WORDS)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_that_does_not_break_is_byte_for_byte_what_its_engine_sends_without_ids(kind: str) -> None:
    path, fields, engine = KINDS[kind]
    one = prompt(path, **fields)
    stage = Stage([replace(engine, asked=[])])
    assert run(stage, one) == whole(engine, one)
    assert stage.inner.prompts[0].body.startswith(b'{"return_token_ids":true,') or fields.get("return_token_ids")
    assert stage.replica.counts().resumptions == 0


KINDS["stop of one character"] = (CHAT, {"stop": ["#"], "stream_options": {"include_usage": True}}, TokenEngine(WORDS))
LUCK = [
    kind
    for kind, (path, fields, _) in KINDS.items()
    if "return_token_ids" not in fields and terms_of(path, body(path, **fields, temperature=0.7)) is not None
]


@pytest.mark.parametrize(("kind", "temperature"), [*((kind, 0) for kind in KINDS), *((kind, 0.7) for kind in LUCK)])
def test_wherever_a_stream_breaks_off_the_client_gets_the_whole_answer(kind: str, temperature: float) -> None:
    path, fields, engine = KINDS[kind]
    one = prompt(path, **fields, temperature=temperature)
    wanted = heard(whole(engine, one))
    first = len(with_ids(engine, one)[0])
    for place in boundaries(with_ids(engine, one)):
        stage = Stage([replace(engine, asked=[]), replace(engine, asked=[], name="other")], [place])
        told = run(stage, one)
        same(heard(told), wanted)
        # What is broken off before its first event is whole was told to nobody: it is another's from its beginning.
        ours = {name for *_, name in heard(told).heads}
        assert ours == ({"engine"} if place >= first else {"other"})


def test_it_goes_on_again_and_again_where_each_who_goes_on_breaks_off_too() -> None:
    one = prompt(stream_options={"include_usage": True})
    engine = TokenEngine(WORDS, together=(1, 2))
    stage = Stage([engine], breaks=[1400, 1300, 1200, 1500, 900])
    told = heard(run(stage, one))
    same(told, heard(whole(engine, one)))
    assert told.announced == (1, 2, 3, 4, 5)
    counts = stage.replica.counts()
    assert (counts.resumed, counts.resumptions, counts.hidden_failed, counts.lost) == (1, 5, 5, 0)


LUCKY = tokens_of("Ünïcode: 12 €, 😀😀 – naïve or not, it says another thing: 日本語 😀 text, which ends.")


@pytest.mark.parametrize("width", [(1,), (2, 3)])
def test_what_luck_chose_is_not_chosen_again_and_goes_on_from_what_was_said(width: tuple[int, ...]) -> None:
    one = prompt(temperature=1.0)
    words = (*WORDS, *LUCKY)
    engines = [TokenEngine(script, together=width, words=words) for script in (WORDS, LUCKY)]
    possible = {b"".join((*WORDS[:at], *LUCKY[at:])).decode(errors="replace") for at in range(len(WORDS) + 1)}
    events = with_ids(engines[0], one)
    said = 0
    for place in boundaries(events)[2:]:
        told = heard(run(Stage(engines, [place]), one))
        assert told.text in possible
        assert told.ends == 1
        said += told.text not in {TEXT, b"".join(LUCKY).decode()}
    assert said > len(events) // 2


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(sorted(KINDS)),
    shares=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=4),
    piece=st.integers(1, 700),
    together=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    how=st.sampled_from([GONE, None]),
)
@example(kind="ids wanted", shares=[0.6875, 0.0], piece=1, together=[1], how=GONE)
def test_any_cuts_in_any_pieces_leave_the_answer_whole(
    kind: str, shares: list[float], piece: int, together: list[int], how: Broken | None
) -> None:
    path, fields, engine = KINDS[kind]
    one = prompt(path, **fields)
    events = with_ids(engine, one)
    size = sum(map(len, events))
    least = len(events[0]) if how is None else 0  # one that ends in order and told nothing may be meant so
    breaks = [max(int(shares[0] * size), least), *(600 + int(share * size) for share in shares[1:])]
    other = replace(engine, together=together, asked=[], name="other")
    limits = ResumeLimits(fruitless=9)
    stage = Stage([replace(engine, asked=[]), other], breaks, piece=piece, how=how, limits=limits)
    same(heard(run(stage, one)), heard(whole(engine, one)))


@pytest.mark.parametrize("cut", [0, 10, 100])
def test_of_a_stream_that_told_nothing_the_whole_is_asked_for_elsewhere(cut: int) -> None:
    one = prompt(temperature=1.0, stream_options={"include_usage": True})
    stage = Stage([TokenEngine(WORDS)], [cut + 8, cut + 8], change=lambda _, stream: b": wait\n\n" + stream)
    told = run(stage, one)
    assert told.replace(b": wait\n\n", b"").replace(b":1003,", b":1001,") == whole(TokenEngine(WORDS), one)
    assert {each.path for each in stage.inner.prompts} == {CHAT}
    counts = stage.replica.counts()
    assert (counts.resumed, counts.resumptions, counts.hidden_failed) == (0, 0, 2)


def test_a_stream_that_ends_in_order_before_its_end_is_gone_on_with() -> None:
    one = prompt()
    stage = Stage([TokenEngine(WORDS)], [2000], how=None)
    same(heard(run(stage, one)), heard(whole(TokenEngine(WORDS), one)))
    assert stage.replica.counts().hidden_failed == 0


ENGINE_DIED = event({"error": {"message": "EngineCore died", "type": "InternalServerError", "code": 500}})


def with_error(number: int, stream: bytes) -> bytes:
    cut = stream.index(b"\n\n", 2000) + 2
    return stream if number else stream[:cut] + ENGINE_DIED + b"data: [DONE]\n\n"


@pytest.mark.parametrize("piece", [1 << 20, 900, 50])
def test_an_engine_that_tells_of_its_own_death_is_replaced(piece: int) -> None:
    one = prompt()
    stage = Stage([TokenEngine(WORDS)], change=with_error, piece=piece)
    same(heard(run(stage, one)), heard(whole(TokenEngine(WORDS), one)))


def test_where_nobody_can_go_on_the_engine_s_own_words_of_its_death_are_passed_on() -> None:
    one = prompt(max_tokens=None)
    stage = Stage([TokenEngine(WORDS)], change=with_error, room=None)
    told = run(stage, one)
    assert told.endswith(ENGINE_DIED + b"data: [DONE]\n\n")
    assert b'_ids":[' not in told
    assert stage.replica.counts().lost == 1


def test_the_engine_s_own_words_are_gone_where_others_were_asked_in_vain() -> None:
    stage = refusing(1000, status=429, patience=3.0)
    stage.breaks, stage.change = (), with_error
    told, broken = run_to_break(stage, prompt())
    assert "later" in broken.message
    assert heard(told).errors == 0


def test_an_error_that_is_the_request_s_is_not_taken_elsewhere() -> None:
    def refused(_: int, stream: bytes) -> bytes:
        return stream[: stream.index(b"\n\n", 2000) + 2] + ENGINE_DIED.replace(b"500", b"400") + b"data: [DONE]\n\n"

    stage = Stage([TokenEngine(WORDS)], change=refused)
    assert heard(run(stage, prompt())).errors == 1
    assert stage.asked == 1


UNSOUND: dict[str, tuple[str, dict[str, Any]]] = {
    "not streamed": (CHAT, {"stream": False}),
    "two answers": (CHAT, {"n": 2}),
    "seed": (CHAT, {"seed": 1, "temperature": 0.5}),
    "penalty": (CHAT, {"frequency_penalty": 0.5}),
    "presence": (COMPLETIONS, {"presence_penalty": 1}),
    "repetition": (COMPLETIONS, {"repetition_penalty": 1.1}),
    "grammar": (CHAT, {"response_format": {"type": "json_object"}}),
    "structure": (CHAT, {"structured_outputs": {"regex": "a*"}}),
    "tools": (CHAT, {"tools": [{"type": "function", "function": {"name": "f"}}]}),
    "chances": (CHAT, {"logprobs": True}),
    "chances of a completion": (COMPLETIONS, {"logprobs": 0}),
    "echo": (COMPLETIONS, {"echo": True}),
    "stop with luck": (CHAT, {"stop": ["xy"], "temperature": 1}),
    "no ids wanted": (CHAT, {"return_token_ids": False}),
    "something new": (CHAT, {"thoughts": 3}),
    "several prompts": (COMPLETIONS, {"prompt": ["a", "b"]}),
    "prompts of tokens": (COMPLETIONS, {"prompt": [[1, 2], [3]]}),
}


@pytest.mark.parametrize("kind", UNSOUND)
def test_what_cannot_be_continued_passes_untouched_and_breaks_off_as_it_did(kind: str) -> None:
    path, fields = UNSOUND[kind]
    one = prompt(path)
    one = replace(one, body=json.dumps({**json.loads(one.body), **fields}).encode())
    stage = Stage([TokenEngine(WORDS)], [1500], piece=77)

    told, broken = run_to_break(stage, one)
    assert broken is GONE
    assert stage.inner.prompts == [one]
    assert told == whole(TokenEngine(WORDS), one)[:1500]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_an_engine_without_ids_is_left_alone(path: str) -> None:
    one = prompt(path)
    engine = TokenEngine(WORDS, tells_ids=False)
    stage = Stage([engine], piece=33, change=lambda _, stream: b": wait\n\n" + stream)
    assert run(stage, one) == b": wait\n\n" + whole(engine, one)

    stage = Stage([engine], [1500])
    assert run_to_break(stage, one)[1] is GONE
    assert stage.asked == 1


def test_a_chat_with_a_picture_is_not_continued() -> None:
    one = prompt()
    parts = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
    asked = {**json.loads(one.body), "messages": [{"role": "user", "content": parts}]}
    stage = Stage([TokenEngine(WORDS)], [3000])
    with pytest.raises(Broken, match="beside text"):
        run(stage, replace(one, body=json.dumps(asked).encode()))
    assert stage.asked == 1


def test_an_answer_that_says_more_than_text_is_not_continued() -> None:
    def thinks(_: int, stream: bytes) -> bytes:
        return stream.replace(b'"delta":{"content"', b'"delta":{"reasoning"')

    stage = Stage([TokenEngine(WORDS)], [3000], change=thinks)
    with pytest.raises(Broken, match="more than text"):
        run(stage, prompt())


def test_once_only_text_is_said_it_does_not_matter_that_there_was_more_before() -> None:
    text = "First it thinks. " * 30 + "Then it speaks. " * 30
    engine = TokenEngine(tokens_of(text), context=2000)

    def thinks(number: int, stream: bytes) -> bytes:
        events = stream.split(b"\n\n")
        swap = 20 if number == 0 else 0
        head = [each.replace(b'"delta":{"content"', b'"delta":{"reasoning"') for each in events[:swap]]
        return b"\n\n".join([*head, *events[swap:]])

    one = prompt(max_tokens=500)
    stage = Stage([engine], [40_000], change=thinks)
    told = heard(run(stage, one))
    assert told.finishes == ("stop",)
    assert text.endswith(told.text)
    assert len(text) - len(told.text) == 19 * 3


HOSTILE = {
    "no numbers": b'["x"]',
    "negative": b"[-3]",
    "huge": b"[99999999999]",
    "too large": b"[2147483648]",
    "fractions": b"[1.5]",
    "lists": b"[[1],[2]]",
    "without end": b"[" + b"7," * 40_000 + b"7]",
    "more than were asked for": b"[" + b"7," * 80 + b"7]",
    "two for one": b"[1 2]",
    "told twice": b'[5],"token_ids":[6]',
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_ids_that_are_none_cost_nothing_but_the_chance_to_go_on(kind: str) -> None:
    def lies(number: int, stream: bytes) -> bytes:
        at = stream.index(b'"token_ids":[', 2500) + len(b'"token_ids":')
        return stream if number else stream[:at] + HOSTILE[kind] + stream[stream.index(b"]", at) + 1 :]

    one = prompt()
    size = 4000 + len(HOSTILE[kind])
    stage = Stage([TokenEngine(WORDS)], [size], change=lies, piece=333)
    told, broken = run_to_break(stage, one)
    assert "It could not be continued" in broken.message
    assert stage.asked == 1
    whole_lie = Stage([TokenEngine(WORDS)], change=lies, piece=911)
    if kind not in {"lists", "no numbers", "told twice"}:  # what comes of those is a liar's own
        assert run(whole_lie, one) == whole(TokenEngine(WORDS), one)
        assert b'token_ids":[' not in told


@pytest.mark.parametrize("ids", [b"[]", b"[1.5]", b"[-1]", b"[" + b"1," * 200_000 + b"1]"])
def test_a_prompt_s_ids_that_cannot_be_are_not_gone_on_with(ids: bytes) -> None:
    def lies(_: int, stream: bytes) -> bytes:
        at = stream.index(b'"prompt_token_ids":[') + len(b'"prompt_token_ids":')
        return stream[:at] + ids + stream[stream.index(b"]", at) + 1 :]

    stage = Stage([TokenEngine(WORDS)], [len(ids) + 3000], change=lies)
    told, broken = run_to_break(stage, prompt())
    assert "It could not be continued" in broken.message
    assert ids not in told


def test_an_event_without_its_ids_ends_the_chance_to_go_on() -> None:
    def hides(_: int, stream: bytes) -> bytes:
        at = stream.index(b'"token_ids":[', 2000)
        return stream[:at] + b'"other":null' + stream[stream.index(b"]", at) + 1 :]

    _, broken = run_to_break(Stage([TokenEngine(WORDS)], [5000], change=hides), prompt())
    assert "without its token ids" in broken.message


@pytest.mark.parametrize(("size", "why"), [(4_500_000, "passed on alone"), (1_200_000, "no place to go on")])
def test_an_event_larger_than_any_passes_on_and_ends_the_chance_to_go_on(size: int, why: str) -> None:
    def swells(_: int, stream: bytes) -> bytes:
        at = stream.index(b'"token_ids":[', 2000)
        return stream[:at] + b'"x":"' + b"a" * size + b'",' + stream[at:]

    stage = Stage([TokenEngine(WORDS)], [size + 2100], change=swells, piece=50_000)
    _, broken = run_to_break(stage, prompt())
    assert why in broken.message


def test_text_that_is_no_json_is_not_gone_on_with() -> None:
    def babbles(_: int, stream: bytes) -> bytes:
        at = stream.index(b'"delta":', 2000)
        return stream[:at] + b"{{{" + stream[at:]

    _, broken = run_to_break(Stage([TokenEngine(WORDS)], [3500], change=babbles), prompt())
    assert "not understood" in broken.message


OTHERWISE = TEXT[:20] + "and something else altogether, ##END##"
ALL_WORDS = [*WORDS, *tokens_of(OTHERWISE)]


def test_who_says_otherwise_what_was_said_already_is_not_listened_to() -> None:
    # It shows what stops it, so that as much as a stop string is long is generated twice.
    one = prompt(stop=["##END##"], include_stop_str_in_output=True)
    right, other = (TokenEngine(tokens_of(text), words=ALL_WORDS) for text in (TEXT, OTHERWISE))
    cut = sum(map(len, with_ids(right, one)[:12]))
    assert heard(run(Stage([right, other, right], [cut]), one)).text == TEXT.partition(" more")[0]
    stage = Stage([right, other], [cut])
    told, broken = run_to_break(stage, one)
    assert "breaks off at once" in broken.message
    assert TEXT.startswith(heard(told).text)
    assert not OTHERWISE.startswith(heard(told).text)


def test_who_answers_another_prompt_is_not_listened_to() -> None:
    def forgets(number: int, stream: bytes) -> bytes:
        return stream.replace(b'"prompt_token_ids":[', b'"prompt_token_ids":[5,') if number == 1 else stream

    stage = Stage([TokenEngine(WORDS)], [3000], change=forgets)
    told = heard(run(stage, prompt()))
    assert told.text == TEXT
    assert stage.asked == 3


def test_who_goes_on_without_ids_is_the_last_who_can() -> None:
    engines = [TokenEngine(WORDS), TokenEngine(WORDS, tells_ids=False)]
    same(heard(run(Stage(engines, [3000]), prompt())), heard(whole(TokenEngine(WORDS), prompt())))
    _, broken = run_to_break(Stage(engines, [3000, 2000]), prompt())
    assert "tells no token ids" in broken.message


def test_the_usage_counts_what_the_first_one_generated() -> None:
    one = prompt(stream_options={"include_usage": True})
    stage = Stage([TokenEngine(WORDS), TokenEngine(WORDS, cached=500)], [3000])
    (said,) = heard(run(stage, one)).usages
    tokens = len(WORDS) + 1
    assert json.loads(said) == {
        "prompt_tokens": len(PROMPT),
        "completion_tokens": tokens,
        "total_tokens": len(PROMPT) + tokens,
        "prompt_tokens_details": {"cached_tokens": len(PROMPT)},
    }


def test_what_is_asked_of_who_goes_on_is_the_tokens_and_how_to_choose_more() -> None:
    fields: dict[str, Any] = {"top_p": 0.9, "stop_token_ids": [7], "cache_salt": "s", "priority": 1, "user": "u"}
    one = prompt(min_tokens=30, reasoning_effort="low", **fields)
    stage = Stage([TokenEngine(WORDS)], [3000])
    run(stage, one)
    first, second = stage.engines[0].asked
    tokens = len(second["prompt"]) - len(PROMPT)
    assert second["prompt"][: len(PROMPT)] == first.get("prompt", TokenEngine(WORDS).prompt_ids)
    assert 0 < tokens < 30
    assert {key: value for key, value in second.items() if key != "prompt"} == {
        **fields,
        "model": "m",
        "stream": True,
        "return_token_ids": True,
        "temperature": 0,
        "min_tokens": 30 - tokens,
        "max_tokens": 60 - tokens,
    }
    assert stage.inner.prompts[1].path == COMPLETIONS
    assert stage.inner.prompts[1].headers == one.headers


def test_without_announcement_nothing_in_the_stream_tells_of_it() -> None:
    stage = Stage([TokenEngine(WORDS)], [3000], limits=ResumeLimits(announce=False))
    assert b"metainf" not in run(stage, prompt())
    loud = Stage([TokenEngine(WORDS)], [3000])
    assert run(loud, prompt()).count(b'"metainf":{"resumed":1}') == 1


def busy(status: int) -> Refused:
    return Refused(Refusal(status=status, type="overloaded", message="later", retry_after=1))


class Bouncer(FakeReplica):
    """Refuses a number of times after the first answer."""

    def __init__(self, inner: FakeReplica, times: int, status: int) -> None:
        super().__init__()
        self.upstream = inner.upstream
        self.times = times
        self.status = status

    def answer(self, prompt: Prompt) -> Any:
        self.refuse_with = busy(self.status) if self.prompts and self.times > 0 else None
        self.times -= self.refuse_with is not None
        return super().answer(prompt)


def refusing(times: int, *, status: int = 429, patience: float = 60.0) -> Stage:
    stage = Stage([TokenEngine(WORDS)], [3000])
    bouncer = Bouncer(stage.inner, times, status)
    stage.inner = bouncer
    stage.replica = ResumingReplica(bouncer, room=lambda _: None, limits=ResumeLimits(patience=patience))
    return stage


def test_where_all_are_busy_it_waits_and_the_client_hears_of_no_refusal() -> None:
    stage = refusing(20)
    assert heard(run(stage, prompt())).text == TEXT
    assert stage.replica.counts().hidden_refused == 20


def test_it_waits_no_longer_than_it_has_patience_or_the_prompt_has_time() -> None:
    stage = refusing(1000, patience=5.0)
    assert "later" in run_to_break(stage, prompt())[1].message
    assert stage.replica.counts().hidden_refused == 10
    stage = refusing(1000)
    assert "later" in run_to_break(stage, prompt(deadline=3.0))[1].message
    assert stage.replica.counts().hidden_refused == 7


def test_a_refusal_that_does_not_pass_ends_it() -> None:
    stage = refusing(1000, status=403)
    assert "later" in run_to_break(stage, prompt())[1].message
    assert stage.replica.counts().hidden_refused == 1


def test_nobody_is_asked_once_the_time_of_a_prompt_is_over() -> None:
    stage = Stage([TokenEngine(WORDS)], [3000])
    assert "time is over" in run_to_break(stage, prompt(deadline=0.0))[1].message
    assert stage.asked == 1


def test_who_answers_tokens_with_a_refusal_is_asked_three_times_at_most() -> None:
    stage = Stage([TokenEngine(WORDS)], [3000])
    first = stage.answer
    stage.inner.upstream.answer_with = lambda request: (
        first(request) if request.target == CHAT else Script([b"{}"], status=400, headers=JSON)
    )
    assert "status 400" in run_to_break(stage, prompt())[1].message
    assert len(stage.inner.prompts) == 4


def test_a_prompt_at_which_everybody_breaks_off_at_once_is_given_up() -> None:
    stage = Stage([TokenEngine(WORDS)], [3000, *[0] * 50])
    told, broken = run_to_break(stage, prompt())
    assert "breaks off at once" in broken.message
    assert stage.asked == 4
    assert TEXT.startswith(heard(told).text)


def test_a_server_that_does_not_know_ids_is_asked_again_without_and_then_never_with_them() -> None:
    strict = b'{"error":{"message":"Unrecognized request argument supplied: return_token_ids"}}'
    engine = TokenEngine(WORDS, tells_ids=False)

    def answers(request: Request) -> Script:
        if b"return_token_ids" in request.body:
            return Script([strict], status=400, headers=JSON)
        return Script(list(engine.events(request.target, request.body)), headers=EVENTS)

    stage = Stage([engine])
    stage.inner.upstream.answer_with = answers
    assert heard(run(stage, prompt())).text == TEXT
    assert [each.body for each in stage.inner.prompts[1:]] == [prompt().body]
    run(stage, prompt())
    assert len(stage.inner.prompts) == 3


def test_what_a_server_says_of_a_bad_request_comes_as_it_is() -> None:
    stage = Stage([TokenEngine(WORDS)])
    stage.inner.upstream.answer_with = lambda _: Script([b"bad", b" temperature"], status=400, headers=JSON)
    assert run(stage, prompt()) == b"bad temperature"
    assert len(stage.inner.prompts) == 1


def test_no_more_streams_are_followed_than_may_be() -> None:
    stage = Stage([TokenEngine(WORDS)], limits=ResumeLimits(streams=1))

    async def ask() -> None:
        async with stage.replica.answer(prompt()), stage.replica.answer(prompt()):
            pass
        async with stage.replica.answer(prompt()):
            pass

    trio.run(ask)
    assert [b"return_token_ids" in each.body for each in stage.inner.prompts] == [True, False, True]


def test_a_client_that_leaves_while_it_is_gone_on_with_leaves_nothing_behind() -> None:
    stage = refusing(1000)

    async def ask() -> None:
        with trio.move_on_after(10):
            await stage.ask(prompt())

    trio.run(ask, clock=MockClock(autojump_threshold=0))
    assert stage.inner.upstream.at_work == 0


def test_ids_that_were_told_are_told_once_though_who_goes_on_breaks_off_before_the_next() -> None:
    one = prompt(return_token_ids=True)
    engine = TokenEngine(WORDS, together=(1, 2))
    stage = Stage([engine, TokenEngine(WORDS)], [5000, 600])
    same(heard(run(stage, one)), heard(whole(engine, one)))
