"""From where an answer goes on, what is asked for it, and how it ends where nothing is left to ask for."""

import json
from typing import Any

import pytest

from node.core.continuation import SAID_CHARS, Closing, Lost, Mark, Rest, Told, go_on
from node.core.resumable import CHAT, COMPLETIONS, Terms, terms_of
from node.core.splice import Splice
from node.core.sse_events import DONE, data_of, events_of
from tests.fakes.token_engine import event


def terms(path: str = CHAT, **fields: Any) -> Terms:
    asked = {"messages": []} if path == CHAT else {"prompt": "x"}
    found = terms_of(path, json.dumps({**asked, "model": "m", "stream": True, "max_tokens": 9, **fields}).encode())
    assert found is not None
    return found


GREEDY = terms(temperature=0)
LUCKY = terms()


def told(*said: tuple[str, int], held: int = 0, **fields: Any) -> Told:
    """Return what was told in events of a text and a number of tokens each."""
    head = {"id": "i", "created": 5, "model": "m"}
    made = Told(prompt=[1, 2, 3], ids=[], marks=[Mark(tokens=0, end=0, clean=True)], head=head, **fields)
    for text, tokens in said:
        made.ids += range(10 + len(made.ids), 10 + len(made.ids) + tokens)
        made.say(text)
        if text:
            made.mark(Mark(tokens=len(made.ids), end=made.end + held, clean=tokens == 1))
    return made


def place(made: Told, on: Terms) -> int:
    step = go_on(made, on, None)
    assert isinstance(step, Rest), step
    return step.mark.tokens


def test_it_goes_on_after_the_last_token_that_said_something() -> None:
    made = told(("a", 1), ("b", 1), ("", 1), ("", 1))
    assert (place(made, GREEDY), place(made, LUCKY)) == (2, 2)


def test_the_end_of_several_tokens_told_together_is_gone_on_from_only_where_there_is_no_other_place() -> None:
    made = told(("a", 1), ("bc", 2))
    assert place(made, GREEDY) == 1
    assert place(made, LUCKY) == 3
    assert (
        place(Told(prompt=[1], ids=[5, 6], marks=[Mark(tokens=2, end=2, clean=False)], end=2, said="ab"), GREEDY) == 2
    )


def test_where_nothing_was_said_it_goes_on_from_the_prompt() -> None:
    assert place(told(), LUCKY) == 0
    assert place(told(("", 1), ("", 1)), LUCKY) == 0


def test_text_that_an_engine_kept_back_for_a_stop_string_is_generated_again() -> None:
    on = terms(temperature=0, stop=["xyz"])
    made = told(("a", 1), ("b", 1), ("c", 1), ("d", 1), held=2)
    # Two characters are known after each token that were not said: after "ab" all of "abcd" was generated.
    assert place(made, on) == 2
    assert place(told(("a", 1), held=2), on) == 0


def test_a_stop_string_that_is_shown_may_have_begun_in_what_was_said() -> None:
    on = terms(temperature=0, stop=["xyz"], include_stop_str_in_output=True)
    assert place(told(("a", 1), ("b", 1), ("c", 1), ("d", 1)), on) == 2
    assert place(told(("a", 1)), on) == 0


def test_what_is_not_kept_any_more_cannot_be_compared_and_is_no_place() -> None:
    made = told(("a", 1), ("b" * (SAID_CHARS + 1), 2))
    assert place(made, GREEDY) == 3
    made.marks = made.marks[:-1]
    assert isinstance(go_on(made, GREEDY, None), Lost)


def test_no_more_is_asked_for_than_was_left() -> None:
    on = terms(temperature=0, max_tokens=9, min_tokens=4)
    step = go_on(told(("a", 1), ("b", 1)), on, None)
    assert isinstance(step, Rest)
    assert json.loads(step.body) == {
        "model": "m", "temperature": 0, "prompt": [1, 2, 3, 10, 11], "max_tokens": 7, "min_tokens": 2, "stream": True,
        "return_token_ids": True,
    }  # fmt: skip


def test_without_a_limit_it_may_become_as_long_as_its_engine_lets_it() -> None:
    on = terms(temperature=0, max_tokens=None)
    made = told(("a", 1), ("b", 1))
    assert isinstance(go_on(made, on, None), Lost)
    step = go_on(made, on, 20)
    assert isinstance(step, Rest)
    assert json.loads(step.body)["max_tokens"] == 15
    assert isinstance(go_on(made, on, 5), Closing)
    assert isinstance(go_on(made, on, 4), Closing)


def whole(data: bytes) -> list[Any]:
    said = [data_of(each) or b"" for each in events_of(data)]
    return [json.loads(each) for each in said if each.startswith(b"{")]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_where_all_tokens_are_there_the_end_is_told_here(path: str) -> None:
    made = told(("a", 1), ("b", 1))
    step = go_on(made, terms(path, max_tokens=2, stream_options={"include_usage": True}), None)
    assert isinstance(step, Closing)
    assert step.data.endswith(DONE)
    last, usage = whole(step.data)
    kind = "chat.completion.chunk" if path == CHAT else "text_completion"
    assert (last["id"], last["object"], last["created"], last["model"]) == ("i", kind, 5, "m")
    assert last["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def test_after_the_last_token_only_what_is_missing_is_told() -> None:
    on = terms(stream_options={"include_usage": True})
    said = go_on(told(("a", 1), finish="stop"), on, None)
    assert isinstance(said, Closing)
    assert [each["choices"] for each in whole(said.data)] == [[]]
    assert go_on(told(("a", 1), finish="stop", usage_told=True), on, None) == Closing(DONE)
    assert go_on(told(("a", 1), finish="stop"), LUCKY, None) == Closing(DONE)
    assert go_on(told(("a", 1), finish="stop", done=True), on, None) == Closing(b"")
    assert go_on(told(("a", 1), finish="stop", blind="x"), LUCKY, None) == Closing(DONE)


def test_more_tokens_than_were_asked_for_are_a_lie() -> None:
    assert isinstance(go_on(told(*[("a", 1)] * 10), LUCKY, None), Lost)


def test_tokens_that_the_client_has_are_not_drawn_again() -> None:
    on = terms(return_token_ids=True)
    assert isinstance(go_on(told(("a", 1), ("", 1)), on, None), Lost)
    assert isinstance(go_on(told(("a", 1)), on, None), Rest)


def chunk(text: str, ids: list[int] | None, finish: str | None = None, **more: object) -> bytes:
    one = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish, "token_ids": ids, **more}
    return event({"id": "other", "created": 9, "model": "n", "choices": [one]})


def test_a_first_text_that_is_all_there_was_is_cut_to_what_is_new() -> None:
    made = told(("12345678901234567890", 2))
    splice = Splice(made, LUCKY, made.marks[-1])
    out = splice.take(chunk("<user>hello</user>12345678901234567890€uro", [5]))
    assert whole(out)[0]["choices"][0]["delta"] == {"content": "€uro"}


@pytest.mark.parametrize("clean", [True, False])
def test_a_first_text_that_happens_to_repeat_what_was_said_is_told(clean: bool) -> None:
    made = told(("ha", 2))
    splice = Splice(made, LUCKY, Mark(tokens=2, end=2, clean=clean))
    assert whole(splice.take(chunk("ha ha haha", [5])))[0]["choices"][0]["delta"] == {"content": "ha ha haha"}


def test_what_a_continuation_says_amiss_is_not_told_and_nothing_after_it() -> None:
    for wrong in (
        event({"error": {"message": "died", "code": 500}}),
        b"data: {\n\n",
        event({"choices": [{"text": 5}]}),
        chunk("x", [1.5]),  # pyright: ignore[reportArgumentType]
        chunk("x", [-1]),
    ):
        made = told(("a", 1))
        splice = Splice(made, LUCKY, made.marks[-1])
        first = splice.take(chunk("b", [5]) + wrong + chunk("c", [6]))
        assert [each["choices"][0]["delta"]["content"] for each in whole(first)] == ["b"]
        assert splice.failed
        assert (made.said, made.ids) == ("ab", [10, 5])
        assert place(made, LUCKY) == 2


def test_who_ends_before_what_was_said_has_not_gone_on() -> None:
    made = told(("a", 1), ("bcd", 1))
    splice = Splice(made, GREEDY, made.marks[1])
    assert splice.take(chunk("b", [5]) + chunk("", [2], "stop")) == b""
    assert splice.failed
    assert made.finish is None
    assert (made.said, made.ids) == ("abcd", [10])


def test_tokens_that_were_told_are_told_once_however_often_they_are_generated() -> None:
    on = terms(temperature=0, return_token_ids=True)
    made = told(("a", 1), ("bcd", 3), ("e", 1))
    ids, texts, shown = list(made.ids), ["b", "c", "d", "e", "f", "g"], []
    made.marks = made.marks[:2]  # clean, and before what was told last
    first = Splice(made, on, made.marks[1])
    assert first.take(chunk("b", ids[1:2])) == b""
    second = Splice(made, on, made.marks[1])
    for text, number in zip(texts, [*ids[1:], 77, 78], strict=True):
        shown += [each["choices"][0]["token_ids"] for each in whole(second.take(chunk(text, [number])))]
    assert shown == [[77], [78]]
    assert made.said == "abcdefg"
