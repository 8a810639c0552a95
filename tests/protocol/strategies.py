"""Hypothesis strategies for the wire: values, garbage that is nearly valid, and messages of the inference exchange."""

from typing import Final

import msgpack
from hypothesis import strategies as st

from protocol import headers
from protocol import inference_events as say
from protocol.wire import INT_MAX, INT_MIN

SCALARS: Final = (
    st.none() | st.booleans() | st.integers(INT_MIN, INT_MAX) | st.text(max_size=40) | st.binary(max_size=40)
)
VALUES: Final = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8), inner, max_size=6),
    max_leaves=25,
)


def _packed(value: object) -> bytes:
    try:
        raw = msgpack.packb(value)
    except OverflowError:  # an integer key that msgpack does not have
        return b"\xc1"
    assert isinstance(raw, bytes)
    return raw


# What a foreign encoder may produce: floats, unsorted maps, keys of any type, extensions.
FOREIGN: Final = st.recursive(
    SCALARS | st.floats() | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=4)),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(st.integers() | st.text(max_size=4) | st.binary(max_size=4), inner, max_size=6)
    ),
    max_leaves=15,
).map(_packed)


@st.composite
def mutated(draw: st.DrawFn, raw: bytes) -> bytes:
    """Return `raw` with one to three bytes changed, removed or added."""
    out = bytearray(raw)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(out) - 1)))
        how = draw(st.sampled_from(["set", "cut", "insert"]))
        if how == "insert" or not out:
            out.insert(at, draw(st.integers(0, 255)))
        elif how == "cut":
            del out[at]
        else:
            out[at] = draw(st.integers(0, 255))
    return bytes(out)


def cuts(raw: bytes) -> st.SearchStrategy[list[bytes]]:
    """Return ways to cut `raw` into pieces."""
    return st.lists(st.integers(0, len(raw)), max_size=8).map(
        lambda marks: [raw[a:b] for a, b in zip([0, *sorted(marks)], [*sorted(marks), len(raw)], strict=True)]
    )


_CODES: Final = st.text("abcdefghijklmnopqrstuvwxyz_.0123456789", max_size=20)
_LOADS: Final = st.none() | st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_.]{0,10}", fullmatch=True), st.integers(0, 2**40), max_size=4
)
# Names that messages have not; `kind` and the fields' own names would be no unknown fields.
_UNKNOWN: Final = st.dictionaries(st.from_regex(r"x_[a-z]{1,6}", fullmatch=True), VALUES, max_size=2)


def _headers(allowed: frozenset[bytes]) -> st.SearchStrategy[headers.Headers]:
    value = st.binary(max_size=30).map(lambda raw: bytes(byte for byte in raw if byte >= 0x20 and byte != 0x7F))
    return st.lists(st.tuples(st.sampled_from(sorted(allowed)), value), max_size=5).map(tuple)


ASKS: Final = st.builds(
    say.Ask,
    request_id=st.from_regex(r"[!-~]{1,128}", fullmatch=True),
    method=st.sampled_from(["GET", "POST"]),
    target=st.sampled_from(["/v1/models", "/v1/chat/completions?a=b&c=%20"]),
    headers=_headers(headers.REQUEST),
    body_size=st.integers(0, 40),
    attempt=st.integers(1, 16),
    time_left_us=st.none() | st.integers(1, 10**9),
    session=st.none() | st.from_regex(r"[!-~]{1,20}", fullmatch=True),
    slo_ttft_ms=st.none() | st.integers(1, 1000),
    slo_tpot_ms=st.none() | st.integers(1, 1000),
    objective=st.none() | st.just("latency"),
    resume=st.none() | st.dictionaries(st.text(max_size=5), VALUES, max_size=2),
    unknown=_UNKNOWN,
)
REFUSALS: Final = st.builds(
    say.Refuse,
    status=st.integers(400, 599),
    type=_CODES,
    message=st.text(max_size=50),
    code=st.none() | _CODES,
    param=st.none() | _CODES,
    retry_after=st.none() | st.integers(0, 100),
    load=_LOADS,
    unknown=_UNKNOWN,
)
HEADS: Final = st.builds(
    say.Head, status=st.integers(200, 599), headers=_headers(headers.ANSWER), load=_LOADS, unknown=_UNKNOWN
)
EVENTS: Final = st.one_of(
    ASKS,
    st.builds(say.Body, data=st.binary(min_size=1, max_size=60), unknown=_UNKNOWN),
    st.builds(say.Cancel, unknown=_UNKNOWN),
    REFUSALS,
    HEADS,
    st.builds(say.Data, data=st.binary(min_size=1, max_size=60), unknown=_UNKNOWN),
    st.builds(say.End, data_size=st.integers(0, 2**28), load=_LOADS, unknown=_UNKNOWN),
    st.builds(say.Fail, code=_CODES, message=st.text(max_size=50), load=_LOADS, unknown=_UNKNOWN),
    st.builds(say.Cancelled, load=_LOADS, unknown=_UNKNOWN),
)
