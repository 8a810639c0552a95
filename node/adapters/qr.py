"""Text as a QR code of characters, for a telephone held before a terminal. The only file that imports segno."""

import io

import segno

QUIET = 2  # modules of margin: the standard asks for four, scanners do with two, and terminals are narrow


def drawn(text: str) -> str:
    """Return the code's lines, two of its rows in each.

    What is light is drawn: right on a dark terminal. On a light one the code is inverse, which telephones read as well.
    """
    code, out = segno.make_qr(text, error="l"), io.StringIO()
    code.terminal(out, border=QUIET, compact=True)
    return out.getvalue()


def columns(text: str) -> int:
    """Return how many columns of a terminal the code takes."""
    return int(segno.make_qr(text, error="l").symbol_size(border=QUIET)[0])
