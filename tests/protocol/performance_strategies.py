"""Hypothesis strategies for performance records: any body that keeps the rules, with fields absent and unknown."""

from dataclasses import fields
from typing import Any, Final, cast, get_args

from hypothesis import strategies as st

from protocol import limits, performance
from protocol.ids import ContentDigest
from protocol.schema import Blob, Flag, Id, Int, Named, Nested, Text
from tests.protocol import performance_samples
from tests.protocol.strategies import VALUES

_WORDS: Final = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+:/-]{0,20}", fullmatch=True)
# Names that no section has: with `x_`; a section's own names would be no unknown fields.
_UNKNOWN: Final = st.dictionaries(st.from_regex(r"x_[a-z]{1,6}", fullmatch=True), VALUES, max_size=1)


def _values(rule: object) -> st.SearchStrategy[Any]:
    if isinstance(rule, Int):
        return st.sampled_from([rule.low, rule.high]) | st.integers(rule.low, rule.high)
    if isinstance(rule, Flag):
        return st.booleans()
    if isinstance(rule, Text):
        return _WORDS
    if isinstance(rule, Named):
        return st.dictionaries(st.from_regex(r"[a-z][a-z0-9-]{0,9}", fullmatch=True), _WORDS, max_size=3)
    if isinstance(rule, Nested):
        return sections(rule.cls)
    if isinstance(rule, Id):
        return st.binary(min_size=32, max_size=32).map(ContentDigest) if rule.form is bytes else _WORDS
    return st.binary(min_size=cast("Blob", rule).least, max_size=cast("Blob", rule).most)


def sections(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Return bodies, or parts of them, of any values that the declaration allows."""
    given = {}
    for item in fields(cls):
        if item.name == "unknown":
            given[item.name] = st.just({}) | _UNKNOWN
        elif item.name == "stamp":
            given[item.name] = st.integers(0, limits.SEQ_MAX).map(lambda seq: performance_samples.body(seq=seq).stamp)
        else:
            values = _values(get_args(item.type)[1])
            given[item.name] = st.none() | values if item.default is None else values
    return st.builds(cls, **given)


BODIES: Final = sections(performance.Performance)
