"""A token as a QR code: what is drawn is the code, module by module, and as wide as it is said to be."""

import segno

from node.adapters import qr

TEXT = "metainf-join-" + "aZ9_-" * 160  # as long as a token with an address
HALVES = {" ": (1, 1), "\N{UPPER HALF BLOCK}": (0, 1), "\N{LOWER HALF BLOCK}": (1, 0), "\N{FULL BLOCK}": (0, 0)}


def test_what_is_drawn_is_the_code_and_its_margin() -> None:
    lines = qr.drawn(TEXT).splitlines()
    assert {len(line) for line in lines} == {qr.columns(TEXT)}
    rows: list[list[int]] = []
    for line in lines:
        halves = [HALVES[mark] for mark in line]
        rows += [[upper for upper, _ in halves], [lower for _, lower in halves]]
    code = [list(row) for row in segno.make_qr(TEXT, error="l").matrix]
    inside = [row[qr.QUIET : -qr.QUIET] for row in rows[qr.QUIET : qr.QUIET + len(code)]]
    assert inside == code
    assert not any(sum(row) for row in rows[: qr.QUIET])
