"""The specification says what the code does: limits, reasons, headers, fields and examples are those of the code."""

import json
import re
from dataclasses import fields

import pytest

from protocol import headers, limits
from protocol.errors import Reason
from protocol.inference_events import KINDS
from tests.protocol.pages import PAGES
from tests.vectors.make import HERE

ALL = {page.name: page.read_text() for page in sorted(PAGES.glob("*.md"))}
OURS = [
    "README.md", "advert.md", "dht.md", "framing.md", "gossip.md", "hello.md", "history.md", "ids.md", "inference.md",
    "load.md", "membership.md", "performance.md", "reach.md", "records.md", "wire.md",
]  # fmt: skip
NOT_ON_THE_WIRE = {"KIB", "MIB", "SECOND_US", "DAY_US"}  # units that the other limits are written in


def test_every_limit_is_stated_with_its_value_and_no_other() -> None:
    stated = {
        name: int(value)
        for page in OURS
        for name, value in re.findall(r"^\| `([A-Z_]+)` \| (\d+) \|", ALL[page], re.MULTILINE)
    }
    real = {name: value for name, value in vars(limits).items() if name.isupper() and isinstance(value, int)}
    assert stated == {name: value for name, value in real.items() if name not in NOT_ON_THE_WIRE}


def test_every_reason_is_explained() -> None:
    explained = re.findall(r"^\| `([a-z_]+)` \|", ALL["README.md"], re.MULTILINE)
    assert explained == [reason.value for reason in Reason]


def test_the_page_names_the_headers_that_travel_and_those_that_never_do() -> None:
    section = ALL["inference.md"].partition("### Headers")[2].partition("## Order")[0]
    named = {name.encode() for name in re.findall(r"`([a-z-]+)`", section)} - {b"ask", b"head", b"malformed"}
    assert named == headers.REQUEST | headers.ANSWER | headers.CREDENTIALS


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_names_each_message_with_its_fields(kind: str) -> None:
    section = ALL["inference.md"].partition(f"**`{kind}`**")[2]
    section = re.split(r"^\*\*`|^### ", section, maxsplit=1, flags=re.MULTILINE)[0]
    for item in fields(KINDS[kind]):
        assert item.name == "unknown" or f"`{item.name}`" in section, item.name


def test_each_example_in_bytes_is_a_golden_vector() -> None:
    vectors = "".join(
        (HERE / f"{name}.json").read_text()
        for name in ("wire", "records", "inference", "hello", "history", "load", "membership", "reach")
    )
    known = set(re.findall(r'"([0-9a-f]+)"', vectors))
    blocks = [block for page in OURS for block in re.findall(r"```hex\n(.*?)```", ALL[page], re.DOTALL)]
    assert len(blocks) == 9
    for block in blocks:
        # Two spaces or more begin the remark on a line's bytes.
        lines = [re.split(r"\s{2,}", line.strip(), maxsplit=1)[0] for line in block.splitlines()]
        assert "".join(lines).replace(" ", "") in known, block


def test_the_peer_id_in_the_page_is_a_golden_vector() -> None:
    peer = json.loads((HERE / "ids.json").read_text())["peers"][0]
    for name in ("public_key", "bytes", "text"):
        assert peer[name] in ALL["ids.md"]


@pytest.mark.parametrize("page", OURS)
def test_each_page_ends_with_its_changelog_and_is_in_the_index(page: str) -> None:
    assert ALL[page].rstrip().splitlines()[-1].startswith("Changelog: ")
    assert page == "README.md" or f"]({page})" in ALL["README.md"]
