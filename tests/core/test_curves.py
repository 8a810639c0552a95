"""Curves: exact where they were asked about, rising, clamped outside; what a learner says is read with care."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core.curves import (
    COMPOSITE,
    LEARNER,
    LOADS,
    MOST_WIDTH,
    PHYSICS,
    PROMPTS,
    UNKNOWN_ROW,
    Curve,
    Shelf,
    composite,
    read_curve,
    widened,
)
from protocol.ids import PeerId
from tests.protocol import samples, swarm_samples

ANNE, BERT = samples.AUTHOR, swarm_samples.OTHER
PEERS = [PeerId((8 * number + 9).to_bytes(32, "little")) for number in range(40)]
MODEL = "llama"
P, L = len(PROMPTS), len(LOADS)


def said(**changes: Any) -> dict[str, Any]:
    """Return what a learner says of a machine, but for the changes."""
    ttft = [0.1 + prompt / 4000 + 0.05 * load for prompt in PROMPTS for load in LOADS]
    whole: dict[str, Any] = {
        "prompts": list(PROMPTS),
        "loads": list(LOADS),
        "ttft_s": ttft,
        "ttft_half_width": [0.4 + 0.01 * at for at in range(P * L)],
        "tpot_s": [0.02 + 0.001 * load for load in LOADS],
        "tpot_half_width": [0.3] * L,
        "queued_token_s": 0.00025,
        "source": PHYSICS,
    }
    return whole | changes


def curve(scale: float = 1.0) -> Curve:
    whole = said()
    return read_curve(whole | {"ttft_s": [scale * s for s in whole["ttft_s"]]})


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    """Return a curve of any shape that rises."""
    steps = st.floats(0.0, 2.0)
    ttft = np.array(draw(st.lists(steps, min_size=P * L, max_size=P * L))).reshape(P, L)
    tpot = np.array(draw(st.lists(steps, min_size=L, max_size=L)))
    return Curve(
        prompts=np.array(PROMPTS, dtype=np.float64),
        loads=np.array(LOADS, dtype=np.float64),
        log_ttft=np.cumsum(np.cumsum(ttft, axis=0), axis=1) / 50 - 3,
        ttft_width=np.full((P, L), 0.5),
        log_tpot=np.cumsum(tpot) - 5,
        tpot_width=np.full(L, 0.2),
        queued_token_s=draw(st.floats(0, 0.01)),
        source=LEARNER,
    )


def holding(*held: Curve) -> tuple[Shelf, Any]:
    shelf = Shelf()
    for peer, each in zip(PEERS, held, strict=False):
        shelf.put(peer, MODEL, each)
    return shelf, shelf.rows(PEERS[: len(held)], MODEL)


@given(curves(), curves())
def test_at_the_points_that_were_asked_about_it_says_what_was_said(one: Curve, other: Curve) -> None:
    shelf, rows = holding(one, other)
    for p, prompt in enumerate(PROMPTS):
        for q, load in enumerate(LOADS):
            ttft, width = shelf.ttft(rows, prompt, load)
            assert ttft == pytest.approx([one.log_ttft[p, q], other.log_ttft[p, q]], abs=1e-9)
            assert width == pytest.approx([0.5, 0.5])
    for q, load in enumerate(LOADS):
        tpot, width = shelf.tpot(rows, load)
        assert tpot == pytest.approx([one.log_tpot[q], other.log_tpot[q]], abs=1e-9)
        assert width == pytest.approx([0.2, 0.2])


SIZES = st.floats(0, 1e6)


@given(curves(), SIZES, SIZES, st.floats(0, 500), st.floats(0, 500), SIZES)
def test_more_prompt_more_load_and_more_queue_never_take_less(
    one: Curve, short: float, long: float, few: float, many: float, queued: float
) -> None:
    shelf, rows = holding(one)
    (short, long), (few, many) = sorted((short, long)), sorted((few, many))
    slack = 1e-9
    assert shelf.ttft(rows, short, few)[0] <= shelf.ttft(rows, long, few)[0] + slack
    assert shelf.ttft(rows, short, few)[0] <= shelf.ttft(rows, short, many)[0] + slack
    assert shelf.ttft(rows, short, few)[0] <= shelf.ttft(rows, short, few, queued)[0] + slack
    assert shelf.tpot(rows, few)[0] <= shelf.tpot(rows, many)[0] + slack


@given(curves(), st.floats(0, PROMPTS[0]), st.floats(PROMPTS[-1], 1e9), st.floats(0, 1), st.floats(LOADS[-1], 1e6))
def test_outside_the_grid_the_edge_counts(one: Curve, short: float, long: float, none: float, many: float) -> None:
    shelf, rows = holding(one)
    assert shelf.ttft(rows, short, none)[0] == pytest.approx(one.log_ttft[0, 0])
    assert shelf.ttft(rows, long, many)[0] == pytest.approx(one.log_ttft[-1, -1])
    assert shelf.tpot(rows, none)[0] == pytest.approx(one.log_tpot[0])
    assert shelf.tpot(rows, many)[0] == pytest.approx(one.log_tpot[-1])


def test_between_points_it_is_the_mean_on_log_scales() -> None:
    one = curve()
    shelf, rows = holding(one)
    prompt, load = np.sqrt(PROMPTS[2] * PROMPTS[3]), np.sqrt(LOADS[4] * LOADS[5])
    assert shelf.ttft(rows, prompt, load)[0] == pytest.approx(one.log_ttft[2:4, 4:6].mean())
    assert shelf.ttft(rows, prompt, load)[1] == pytest.approx(one.ttft_width[2:4, 4:6].mean())
    assert shelf.tpot(rows, load)[0] == pytest.approx(one.log_tpot[4:6].mean())


def test_each_replica_is_read_at_its_own_place() -> None:
    shelf, _ = holding(curve(), curve(10), curve(100))
    rows = shelf.rows([PEERS[2], ANNE, PEERS[0]], MODEL)
    prompts, loads = np.array([64.0, 1024.0, 4096.0]), np.array([1.0, 4.0, 64.0])
    found, _ = shelf.ttft(rows, prompts, loads, np.array([0.0, 0.0, 4000.0]))
    assert found[0] == pytest.approx(np.log(100 * (0.1 + 64 / 4000 + 0.05)))
    assert found[1] == pytest.approx(composite().log_ttft[3, 2])
    assert found[2] == pytest.approx(np.log(0.1 + 4096 / 4000 + 0.05 * 64 + 1.0))
    assert [shelf.source(row) for row in rows] == [PHYSICS, COMPOSITE, PHYSICS]


def test_what_is_no_number_reads_as_the_least_and_breaks_nothing() -> None:
    shelf, rows = holding(curve(), curve())
    found, _ = shelf.ttft(rows, np.array([np.nan, 16.0]), np.array([1.0, np.nan]))
    assert found[0] == found[1] == pytest.approx(curve().log_ttft[0, 0])


def test_of_a_stranger_the_composite_is_said_with_a_wide_interval() -> None:
    shelf = Shelf()
    rows = shelf.rows([ANNE], MODEL)
    assert rows.tolist() == [UNKNOWN_ROW]
    ttft, width = shelf.ttft(rows, 1024, 1)
    assert 0.1 < np.exp(ttft[0]) < 2
    assert width[0] > np.log(5)
    assert 0.01 < np.exp(shelf.tpot(rows, 1)[0][0]) < 0.1


def test_a_curve_that_is_dropped_leaves_the_composite_behind_for_whoever_kept_its_row() -> None:
    shelf, rows = holding(curve(10), curve(20))
    version = shelf.version
    shelf.put(PEERS[0], MODEL, curve(11))
    assert shelf.version == version
    assert shelf.ttft(rows, 16, 1)[0][0] == pytest.approx(np.log(11 * 0.154))
    shelf.put(PEERS[0], "another", curve(30))
    shelf.drop(PEERS[0], MODEL)
    assert shelf.version > version
    assert shelf.ttft(rows, 16, 1)[0] == pytest.approx([composite().log_ttft[0, 0], np.log(20 * 0.154)])
    assert shelf.rows(PEERS[:2], MODEL).tolist() == [UNKNOWN_ROW, rows[1]]
    assert shelf.rows(PEERS[:1], "another")[0] != UNKNOWN_ROW
    shelf.drop(PEERS[0])
    assert shelf.rows(PEERS[:1], "another").tolist() == [UNKNOWN_ROW]
    assert len(shelf) == 1
    assert shelf.sources() == {LEARNER: 0, PHYSICS: 1, COMPOSITE: 0}
    shelf.drop(PEERS[0])


def test_it_never_holds_more_than_it_may_and_what_was_put_longest_ago_goes_first() -> None:
    shelf = Shelf(most=8)
    shelf.put(PEERS[0], MODEL, curve(100))
    kept = shelf.rows(PEERS[:1], MODEL)
    for number, peer in enumerate(PEERS[1:], start=1):
        assert shelf.rows(PEERS[:1], MODEL) == kept
        shelf.put(PEERS[0], MODEL, curve(100))
        shelf.put(peer, MODEL, curve(number + 1))
        assert len(shelf) <= 7
    rows = shelf.rows(PEERS, MODEL)
    assert rows.max() < 8
    assert np.count_nonzero(rows) == 7
    assert np.exp(shelf.ttft(rows[-6:], 16, 1)[0]) == pytest.approx(0.154 * np.arange(35, 41))


def test_a_curve_on_another_grid_is_read_off_at_ours() -> None:
    other = said(
        prompts=[16, 65536], loads=[1, 128], ttft_s=[1.0, 4.0, 16.0, 64.0], ttft_half_width=[0.1, 0.3, 0.5, 0.7],
        tpot_s=[0.01, 0.04], tpot_half_width=[0.2, 0.4],
    )  # fmt: skip
    shelf, rows = holding(read_curve(other))
    assert shelf.ttft(rows, 16, 1)[0] == pytest.approx(0)
    assert shelf.ttft(rows, 65536, 128)[0] == pytest.approx(np.log(64))
    assert shelf.ttft(rows, 1024, np.sqrt(128))[0] == pytest.approx(np.log(8))
    assert shelf.ttft(rows, 1024, np.sqrt(128))[1] == pytest.approx(0.4)
    assert shelf.tpot(rows, np.sqrt(128))[0] == pytest.approx(np.log(0.02))


def test_what_a_learner_says_is_read_and_made_to_rise() -> None:
    found = read_curve(said())
    assert found.source == PHYSICS
    assert found.log_ttft[2, 3] == pytest.approx(np.log(0.1 + 256 / 4000 + 0.05 * 8))
    assert found.ttft_width[0, 1] == pytest.approx(0.41)
    falling = said(ttft_s=[1.0] + [0.5] * (P * L - 1), tpot_s=[0.03] + [0.02] * (L - 1))
    assert (read_curve(falling).log_ttft == 0).all()
    assert read_curve(falling).log_tpot == pytest.approx(np.log(0.03))


def test_a_learner_that_did_not_say_who_speaks_had_learnt() -> None:
    old = said()
    del old["source"]
    assert read_curve(old).source == LEARNER


@pytest.mark.parametrize(
    "change",
    [
        {"prompts": 16},
        {"prompts": []},
        {"prompts": list(reversed(PROMPTS))},
        {"prompts": [0, *PROMPTS[1:]]},
        {"prompts": [64, *PROMPTS[1:]]},
        {"prompts": list(range(1, 100))},
        {"loads": "many"},
        {"ttft_s": [0.1] * (P * L - 1)},
        {"ttft_s": [0.1] * (P * L - 1) + [None]},
        {"ttft_s": [0.1] * (P * L - 1) + [True]},
        {"ttft_s": [0.1] * (P * L - 1) + [float("nan")]},
        {"ttft_s": [0.1] * (P * L - 1) + [float("inf")]},
        {"ttft_s": [0.1] * (P * L - 1) + [10**400]},
        {"ttft_s": [0.0] * (P * L)},
        {"ttft_s": [-1.0] * (P * L)},
        {"ttft_half_width": [-0.1] * (P * L)},
        {"ttft_half_width": [float("inf")] * (P * L)},
        {"tpot_s": [[0.1]] * L},
        {"tpot_half_width": None},
        {"queued_token_s": None},
        {"queued_token_s": -1e-9},
        {"queued_token_s": [0.1, 0.2]},
        {"queued_token_s": 1e9},
        {"source": "rumour"},
        {"source": ["learner"]},
    ],
)
def test_what_can_be_no_curve_is_none(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        read_curve(said(**change))


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from(list(said())), JUNK))
def test_whatever_a_learner_says_is_a_curve_or_none(junk: dict[str, Any]) -> None:
    try:
        found = read_curve(said() | junk)
    except ValueError:
        return
    shelf, rows = holding(found)
    assert np.isfinite(shelf.ttft(rows, 100, 3, 50.0)).all()
    assert np.isfinite(shelf.tpot(rows, 3)).all()


def test_what_is_doubted_beside_widens_the_interval_and_leaves_the_times() -> None:
    one = curve()
    wide = widened(one, 1.2)
    assert wide.log_ttft is one.log_ttft
    assert wide.ttft_width == pytest.approx(np.hypot(one.ttft_width, 1.2))
    assert wide.tpot_width == pytest.approx(np.hypot(0.3, 1.2))
    assert widened(one, 0.0) is one
    assert widened(one, 1e9).tpot_width.max() == MOST_WIDTH
