"""Tokens survive mail and terminals, and say what is wrong with them."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.token import PREFIX, InvalidToken, Token, parse, spell
from tests.protocol.membership_samples import Founder, key_of, peer_of

TEAM = Founder()
ADDRESS = f"/ip4/192.0.2.1/tcp/47470/p2p/{peer_of(key_of('alice'))}"
TOKEN = Token(
    version=1,
    swarm=TEAM.swarm,
    administrator=TEAM.me,
    key=TEAM.key,
    addresses=(ADDRESS,),
    invitation=TEAM.invitation().sealed,
    secret=key_of("holder").private_bytes_raw(),
)


def test_a_token_is_read_as_it_was_spelt_line_breaks_or_not() -> None:
    text = spell(TOKEN)
    assert parse(text) == TOKEN
    assert parse("\n  ".join(text[at : at + 60] for at in range(0, len(text), 60)) + "\n") == TOKEN
    assert len(text) < 1000


def test_nothing_secret_is_shown() -> None:
    for secret in (TOKEN.key, TOKEN.secret or b""):
        assert repr(secret) not in repr(TOKEN)
        assert secret.hex() not in repr(TOKEN)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "begins with"),
        ("hello", "begins with"),
        (PREFIX, "missing"),
        (PREFIX + "A" * 40, "lost or changed"),
        (PREFIX + "ä" * 40, "something else"),
        (PREFIX + "A" * 9000, "something else"),
    ],
)
def test_what_is_no_token_is_told_so(text: str, words: str) -> None:
    with pytest.raises(InvalidToken, match=words):
        parse(text)


@given(st.data())
def test_a_lost_or_changed_character_is_noticed(data: st.DataObject) -> None:
    text = spell(TOKEN)
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.sampled_from(["", "A", "z", "-", "!"])) + text[at + 1 :]
    if changed == text:
        return
    try:
        token = parse(changed)
    except InvalidToken:
        return
    assert token == TOKEN  # the unused bits of the last character


@given(st.text(max_size=200))
def test_any_text_is_a_token_or_told_why_not(text: str) -> None:
    with pytest.raises(InvalidToken):
        parse(PREFIX + text)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"administrator": peer_of(key_of("mallory"))}, "not its administrator's"),
        ({"secret": None}, "without its key"),
        ({"version": 2}, "newer"),
    ],
    ids=["administrator", "half", "version"],
)
def test_a_token_that_makes_no_sense_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidToken, match=words):
        parse(spell(replace(TOKEN, **changes)))
