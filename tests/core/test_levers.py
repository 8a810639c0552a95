"""Levers without a restart: which differences they cover, and that splicing changes nothing but what it adds."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.admission import AdmissionLimits
from node.core.levers import LEAST_DEFAULT_SEQS, Levers, apply, levers, limited
from node.core.prompt import OWNER, Prompt, Requester, RequesterKind
from node.core.strategy import DEFAULT, EXTERNAL, Strategy

KEY = Requester(RequesterKind.KEY, "anne")
PEER = Requester(RequesterKind.PEER, "carl")
ORDERED = Strategy(engine_extra=(("scheduling-policy", "priority"),))
BOTH = Levers(strategy=DEFAULT, salted=True, ranked=True)
SALT = "0123456789abcdef"


def prompt(body: bytes, *, requester: Requester = OWNER, target: str = "/v1/completions?x=1") -> Prompt:
    return Prompt(
        request_id="r",
        method="POST",
        target=target,
        headers=((b"a", b"b"),),
        body=body,
        model="tiny",
        stream=False,
        requester=requester,
    )


@pytest.mark.parametrize(
    ("running", "wanted", "expected"),
    [
        (DEFAULT, DEFAULT, {}),
        (EXTERNAL, EXTERNAL, {}),
        (DEFAULT, Strategy(max_num_seqs=8), {"running": 8}),
        (DEFAULT, Strategy(max_num_seqs=LEAST_DEFAULT_SEQS), {"running": LEAST_DEFAULT_SEQS}),
        (Strategy(max_num_seqs=64), Strategy(max_num_seqs=1), {"running": 1}),
        (DEFAULT, Strategy(prefix_caching=False), {"salted": True}),
        (Strategy(prefix_caching=True), Strategy(prefix_caching=False), {"salted": True}),
        (Strategy(prefix_caching=False), Strategy(prefix_caching=False), {}),
        (ORDERED, ORDERED, {"ranked": True}),
        (ORDERED, DEFAULT, {}),
        (ORDERED, Strategy(engine_extra=(("scheduling-policy", "fcfs"),)), {}),
        (
            replace(ORDERED, max_num_seqs=32, chunked_prefill=True),
            replace(ORDERED, max_num_seqs=4, chunked_prefill=True, prefix_caching=False),
            {"running": 4, "salted": True, "ranked": True},
        ),
    ],
)
def test_these_differences_need_no_restart(running: Strategy, wanted: Strategy, expected: dict[str, Any]) -> None:
    assert levers(running, wanted) == Levers(strategy=wanted, **expected)


@pytest.mark.parametrize(
    ("running", "wanted"),
    [
        (DEFAULT, Strategy(max_num_seqs=LEAST_DEFAULT_SEQS + 1)),  # may be more than the engine's own number
        (Strategy(max_num_seqs=8), Strategy(max_num_seqs=9)),
        (Strategy(max_num_seqs=8), DEFAULT),
        (Strategy(prefix_caching=False), DEFAULT),
        (Strategy(prefix_caching=False), Strategy(prefix_caching=True)),
        (DEFAULT, Strategy(prefix_caching=True)),
        (DEFAULT, ORDERED),
        (DEFAULT, Strategy(chunked_prefill=False)),
        (DEFAULT, Strategy(max_num_seqs=8, max_num_batched_tokens=512)),
        (ORDERED, Strategy(engine_extra=(("block-size", "32"),))),
        (DEFAULT, EXTERNAL),
        (EXTERNAL, DEFAULT),
    ],
)
def test_these_need_one(running: Strategy, wanted: Strategy) -> None:
    assert levers(running, wanted) is None


def test_a_cap_never_raises_the_nodes_own_and_leaves_peers_a_place_if_they_had_one() -> None:
    node = AdmissionLimits(running=32, reserved=8)

    def capped(running: int | None, limits: AdmissionLimits = node) -> tuple[int, int]:
        found = limited(limits, Levers(strategy=DEFAULT, running=running))
        return found.running, found.for_peers

    assert limited(node, None) == node
    assert capped(None) == capped(64) == (32, 24)
    assert capped(10) == (10, 2)
    assert capped(8) == (8, 1)
    assert capped(1) == (1, 1)
    assert capped(4, AdmissionLimits(running=8, reserved=8)) == (4, 0)


_WORDS = st.sampled_from(["model", "a{b}", 'quo"te', "{", "}", "umlaut ä", "\u2028", "priority ", "cache"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_WORDS | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
_SPACE = st.text(alphabet=" \t\n\r", max_size=3)


@given(
    pairs=st.lists(st.tuples(_WORDS | st.text(max_size=6), _VALUES), max_size=5),
    spaces=st.tuples(_SPACE, _SPACE, _SPACE, _SPACE),
    ascii_only=st.booleans(),
    requester=st.sampled_from([OWNER, KEY, PEER]),
)
def test_a_spliced_body_says_what_it_said_and_what_was_added(
    pairs: list[tuple[str, Any]], spaces: tuple[str, str, str, str], ascii_only: bool, requester: Requester
) -> None:
    before, within, between, after = spaces
    told = [(key, value) for key, value in pairs if key not in {"cache_salt", "priority"}]
    inner = f"{between},{within}".join(
        f"{json.dumps(key, ensure_ascii=ascii_only)}{between}:{json.dumps(value, ensure_ascii=ascii_only)}"
        for key, value in told
    )  # keys may repeat
    body = f"{before}{{{within}{inner}{between}}}{after}".encode()
    new = apply(prompt(body, requester=requester), BOTH, SALT).body
    added = {"cache_salt": SALT, "priority": {OWNER: 0, KEY: 1, PEER: 2}[requester]}
    assert json.loads(new) == json.loads(body) | added
    said = b'"cache_salt":"%s","priority":%d' % (SALT.encode(), added["priority"])
    at = new.rindex(said)
    comma = b"," if told else b""
    assert (new[: at - len(comma)], new[at - len(comma) : at]) == (body[: body.rindex(b"}")], comma)
    assert new[at + len(said) :] == body[body.rindex(b"}") :]


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'"}"', b"{", b'{"a": }', b"{} {}", b'{"a": 1,}', b"\xff{}", '{"a": 1}'.encode("utf-16"),
     b'{"a": ' + b"[" * 100_000, b"\xef\xbb\xbf{}"],
)  # fmt: skip
def test_what_is_no_object_stays_as_it_is(body: bytes) -> None:
    assert apply(prompt(body), BOTH, SALT).body == body


def test_only_what_generates_is_spliced_and_nothing_else_of_a_prompt_changes() -> None:
    assert apply(prompt(b"{}", target="/tokenize"), BOTH, SALT) == prompt(b"{}", target="/tokenize")
    spliced = apply(prompt(b" { }\n"), BOTH, SALT)
    assert spliced.body == b' { "cache_salt":"0123456789abcdef","priority":0}\n'
    assert replace(spliced, body=b" { }\n") == prompt(b" { }\n")
    plain = prompt(b"{}")
    assert apply(plain, Levers(strategy=DEFAULT, running=3), SALT) is plain


def test_a_clients_own_salt_stays() -> None:
    body = b'{"cache_salt": "mine"}'
    assert apply(prompt(body), Levers(strategy=DEFAULT, salted=True), SALT).body == body


@pytest.mark.parametrize(
    ("requester", "claimed", "counts"),
    [
        (OWNER, "-7", -7),
        (OWNER, "9", 9),
        (KEY, "9", 9),
        (KEY, "1", 1),
        (KEY, "0", 1),
        (PEER, "-100", 2),
        (PEER, '"-100"', 2),
        (PEER, "true", 2),
        (PEER, "1.5", 2),
        (PEER, "null", 2),
        (PEER, "3", 3),
        (PEER, '5, "priority": -1', 2),
    ],
)
def test_nobody_but_the_owner_goes_before_his_class(requester: Requester, claimed: str, counts: int) -> None:
    ranked = Levers(strategy=DEFAULT, ranked=True)
    body = apply(prompt(b'{"priority": %s}' % claimed.encode(), requester=requester), ranked, SALT).body
    assert json.loads(body)["priority"] == counts
