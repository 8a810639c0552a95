"""`metainf records`: the history as people see it, moved from node to node, and never believed unverified."""

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from node.adapters.http_server.server import UnixBind, serve
from node.adapters.keystore import Identity, load_or_create
from node.adapters.store.salvage import open_shelf
from node.adapters.system import node_lock
from node.cli.record_reading import Wanted, reading
from node.cli.record_words import listing
from node.clock import wall_us
from node.core.observation import LINE_BYTES, from_line, from_row, to_line, to_row
from node.history import record_rules
from node.http.control import control_app
from node.places import places
from node.record_ports import Admitted, Standing
from protocol import limits
from protocol.ids import PUBLIC_SWARM, Epoch, PeerId, SwarmId
from protocol.performance import PERFORMANCE, TRAFFIC, Performance
from protocol.records import Signed
from tests.cli.conftest import CannedNode
from tests.fakes.history import FakeHistory
from tests.fakes.raw_http import Reports
from tests.protocol import performance_samples as given
from tests.protocol import samples

pytestmark = pytest.mark.slow

Metainf = Callable[..., tuple[int, str, str]]
NOW = time.time_ns() // 1000
EPOCH = Epoch(NOW - 24 * samples.HOUR)
IMPOSSIBLE = given.outcome(tpot_mean_us=1, tpot_p50_us=1, tpot_p95_us=1, latency_mean_us=10, latency_p50_us=10)


def record(seq: int = 1, *, age_s: int = 0, **changes: Any) -> Signed[Performance]:
    return given.performance(**({"seq": seq, "epoch": EPOCH, "time": NOW - age_s * 1_000_000} | changes))


def traffic(seq: int, **changes: Any) -> Signed[Performance]:
    """A record of another author, another model and another origin."""
    model = replace(given.MODEL, name="Qwen/Qwen3-0.6B")
    return record(seq, key=samples.OTHER_KEY, origin=TRAFFIC, model=model, **changes)


def history_file(data_dir: Path, swarm: SwarmId = PUBLIC_SWARM) -> Path:
    return places({}, uid=0, data_dir=data_dir).history_file(swarm)


def fill(data_dir: Path, *records: Signed[Performance]) -> None:
    """Put records into a history as a node keeps them."""
    rules = replace(record_rules(PUBLIC_SWARM), check=lambda _: None)
    shelf = open_shelf(history_file(data_dir), rules, now_us=wall_us)
    verdicts = shelf.admit([each.sealed for each in records], via=None)
    assert {each.standing for each in verdicts} <= {Standing.NEW, Standing.FORK}
    shelf.close()


def tamper(data_dir: Path, signed: Signed[Performance], sealed: bytes) -> None:
    with sqlite3.connect(history_file(data_dir)) as database:
        database.execute("UPDATE records SET sealed = ? WHERE sealed = ?", (sealed, signed.sealed))
    database.close()


def flipped(sealed: bytes) -> bytes:
    """The same record with one bit of its signature changed."""
    place = sealed.index(b"\xa9signature") + 20
    return sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :]


def short(signed: Signed[Performance]) -> str:
    """The name as the table has it: the ends of author and epoch."""
    return f"{str(signed.name.author)[-8:]}/{str(signed.name.epoch)[-6:]}/{signed.name.seq}"


@pytest.fixture
def mine(data_dir: Path) -> Identity:
    return load_or_create(data_dir / "identity.pem")[0]


# -- looking


def test_the_newest_come_first_with_their_figures_and_whose_they_are(
    metainf: Metainf, data_dir: Path, mine: Identity
) -> None:
    own = record(3, key=mine.signing_key(), age_s=12_600)
    fill(data_dir, record(1, age_s=86_400), own, traffic(2, age_s=30))
    code, out, err = metainf("records", "list")
    assert (code, err) == (0, "")
    head, *rows = out.splitlines()
    assert head.split()[:3] == ["record", "age", "model"]
    assert [row.split()[0] for row in rows] == [short(traffic(2)), short(own), short(record(1))]
    assert "Qwen/Qwen3-0.6B" in rows[0]
    for words in ("3 h", "NVIDIA GeForce RTX 3090", "prefix:on", "shared_prefix", "210", "22.0", "3004", "315.0"):
        assert words in rows[1], words
    assert [row.split()[-1] for row in rows] == ["yes"] * 3
    assert [" me " in row for row in rows] == [False, True, False]


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        (["--limit", "2"], [3, 2]),
        (["--origin", "traffic"], [2]),
        (["--model", "llama"], [3, 1]),
        (["--author", str(samples.AUTHOR)[-8:]], [1]),
        (["--author", str(samples.AUTHOR)], [1]),
        (["--mine"], [3]),
        (["--mine", "--origin", "traffic"], []),
    ],
)
def test_what_is_asked_for_is_what_is_listed(
    metainf: Metainf, data_dir: Path, mine: Identity, asked: list[str], numbers: list[int]
) -> None:
    fill(data_dir, record(1, age_s=9), traffic(2, age_s=5), record(3, key=mine.signing_key()))
    code, out, _ = metainf("records", "list", "--json", *asked)
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["record.seq"] for row in rows] == numbers
    assert all(row["verified"] and row["mine"] == (row["record.seq"] == 3) for row in rows)


def test_what_does_not_verify_is_shown_with_the_reason_and_never_hidden(metainf: Metainf, data_dir: Path) -> None:
    liar, honest = record(4, outcome=IMPOSSIBLE), record(5)
    fill(data_dir, record(1), record(2), record(3), liar, honest)
    tamper(data_dir, record(1), flipped(record(1).sealed))
    tamper(data_dir, record(2), b"garbage")
    tamper(data_dir, record(3), traffic(3).sealed)
    _, out, _ = metainf("records", "list")
    marks = {line.split()[0]: line for line in out.splitlines()[1:]}
    assert "NO: bad_signature" in marks[short(record(1))]
    assert "NO: " in marks[short(record(2))]
    assert "NO: misplaced" in marks[short(record(3))]
    assert "signed, but contradiction, speed_of_light" in marks[short(liar)]
    assert marks[short(honest)].split()[-1] == "yes"

    code, out, _ = metainf("records", "verify")
    assert code == 1
    assert out.splitlines()[-1].startswith("1 of 5 records")
    failed = {line.split()[0] for line in out.splitlines()[:-1]}
    assert failed == {str(each.name) for each in (record(1), record(2), record(3), liar)}
    assert metainf("records", "verify", short(honest))[0] == 0
    assert metainf("records", "verify", short(honest), short(liar))[0] == 1
    assert "1 more cannot be read" in metainf("records", "list", "--model", "llama")[2]


def test_one_record_is_shown_whole_by_either_form_of_its_name(metainf: Metainf, data_dir: Path) -> None:
    label = "[red]Tesla[/red] :smile: P4"
    shown = record(7, hardware=replace(given.HARDWARE, name=label))
    fill(data_dir, shown, record(8))
    assert label in metainf("records", "list")[1]
    for name in (short(shown), str(shown.name)):
        code, out, _ = metainf("records", "show", name)
        assert code == 0
        for words in (str(shown.name.author), "verified   yes", label, "ttft_mean_s", "0.21", "ngram", "record.sealed"):
            assert (words in out) == (words != "record.sealed"), words
    row = from_line(metainf("records", "show", short(shown), "--json")[1].encode())
    assert from_row(row) == shown.body


def test_on_a_narrow_terminal_what_was_measured_stands_below_and_nothing_is_cut(data_dir: Path) -> None:
    fill(data_dir, record(1), record(2, age_s=5))
    with reading(places({}, uid=0, data_dir=data_dir), PUBLIC_SWARM) as book:
        wide, narrow = (list(listing(book.pick(Wanted()), now_us=NOW, width=width)) for width in (None, 80))
    assert [len(wide), len(narrow)] == [3, 5]
    assert max(map(len, narrow[:2])) <= 80 < len(wide[1])
    assert set(wide[1].split()) == {word.strip(",") for line in narrow[1:3] for word in line.split()}


def test_a_short_name_of_two_records_is_refused_with_their_whole_names(metainf: Metainf, data_dir: Path) -> None:
    alike = [record(1), record(1, epoch=Epoch(EPOCH.start_us - 1_000_000))]
    fill(data_dir, *alike)
    code, _, err = metainf("records", "show", short(alike[0]))
    assert code == 1
    assert all(str(each.name) in err for each in alike)
    for each in alike:
        ending = str(each.name.author)[-8:]
        assert str(each.name) in metainf("records", "show", f"{ending}/{each.name.epoch}/1")[1]


@pytest.mark.parametrize(
    "name", ["", "x", "a/b/c", "abcdefgh/1/2", "h/1/2", "x" * 52 + "/1/2", "abcdefgh/1/" + "9" * 5000]
)
def test_a_name_of_no_record_is_an_error_for_people(metainf: Metainf, data_dir: Path, name: str) -> None:
    fill(data_dir, record(1))
    for verb in ("show", "verify"):
        code, out, err = metainf("records", verb, name)
        assert (code, out) == (1, "")
        assert "   do: " in err


def test_without_a_history_or_an_identity_people_are_told_what_to_do(metainf: Metainf, data_dir: Path) -> None:
    for verb in (["list"], ["show", "x"], ["verify"], ["stats"], ["export"]):
        code, out, err = metainf("records", *verb)
        assert (code, out) == (69, "")
        assert "metainf up" in err
    fill(data_dir, record(1))
    code, _, err = metainf("records", "list", "--mine")
    assert code == 69
    assert "no identity" in err
    assert metainf("records", "list", "--mine", "--author", "abcdefgh")[0] == 2


def test_the_statistics_are_those_of_the_file(metainf: Metainf, data_dir: Path, mine: Identity) -> None:
    own = record(1, key=mine.signing_key())
    fill(data_dir, own, record(2, age_s=60), record(3), traffic(4), traffic(5), traffic(5, context=2))
    code, out, _ = metainf("records", "stats", "--json")
    facts = json.loads(out)
    assert code == 0
    assert (facts["records"], facts["authors"], facts["mine"], facts["forks"]) == (5, 3, 1, 1)
    assert facts["origins"] == {"trial": 3, "traffic": 2}
    assert facts["models"] == {"meta-llama/Llama-3.1-8B-Instruct": 3, "Qwen/Qwen3-0.6B": 2}
    assert facts["newest_us"] - facts["oldest_us"] == 60_000_000
    assert facts["bytes"] == sum(
        len(each.sealed) for each in (own, record(2, age_s=60), record(3), traffic(4), traffic(5))
    )
    assert f"{PeerId.from_public_key(mine.public_key)} (this node)" in metainf("records", "stats")[1]


def test_a_fork_is_listed_as_evidence_and_the_evidence_is_verified(metainf: Metainf, data_dir: Path) -> None:
    one, other = record(1), record(1, context=2)
    fill(data_dir, one, other)
    assert "author forked" in metainf("records", "list")[1]
    code, out, _ = metainf("records", "verify", "--json")
    assert code == 0
    assert json.loads(out) == {"checked": 1, "failed": [], "forks": [{"name": str(one.name), "proven": True}]}
    with sqlite3.connect(history_file(data_dir)) as database:
        database.execute("UPDATE forks SET second = first")
    database.close()
    code, out, _ = metainf("records", "verify")
    assert code == 1
    assert "DOES NOT VERIFY" in out


# -- out and in again


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """The data folder of another node."""
    return tmp_path / "elsewhere"


@pytest.mark.parametrize("name", ["all.jsonl", "all.parquet"])
def test_what_is_exported_is_imported_elsewhere_verified_and_only_once(
    metainf: Metainf, data_dir: Path, tmp_path: Path, elsewhere: Path, name: str
) -> None:
    everything = [record(seq, age_s=seq) for seq in range(150)] + [traffic(1)]
    fill(data_dir, *everything[:60])
    fill(data_dir, *everything[60:120])
    fill(data_dir, *everything[120:])
    file = tmp_path / name
    code, out, _ = metainf("records", "export", str(file), "--json")
    assert (code, json.loads(out)["written"]) == (0, 151)

    data_dir.rename(elsewhere)
    for new, known in ((151, 0), (0, 151)):
        code, out, _ = metainf("records", "import", str(file), "--json")
        assert code == 0
        assert json.loads(out) == {"new": new, "known": known, "forks": 0, "rejected": {}, "told": []}
    code, out, _ = metainf("records", "verify", "--json")
    assert (code, json.loads(out)["checked"]) == (0, 151)


def test_an_export_replaces_nothing_unasked_and_leaves_no_half_of_a_file(
    metainf: Metainf, data_dir: Path, tmp_path: Path
) -> None:
    fill(data_dir, record(1), traffic(2))
    file = tmp_path / "out.jsonl"
    file.write_text("precious")
    code, _, err = metainf("records", "export", str(file))
    assert (code, file.read_text()) == (69, "precious")
    assert "--force" in err
    assert metainf("records", "export", str(file), "--author", "nobodyhere", "--force")[0] == 1
    assert file.read_text() == "precious"
    assert metainf("records", "export", str(file), "--origin", "traffic", "--force")[0] == 0
    assert [from_row(from_line(line)) for line in file.read_bytes().splitlines()] == [traffic(2).body]
    assert sorted(each.name for each in tmp_path.iterdir() if each.is_file()) == ["out.jsonl"]
    assert metainf("records", "export", "--format", "parquet")[0] == 2
    tamper(data_dir, record(1), flipped(record(1).sealed))
    code, out, err = metainf("records", "export")
    assert (code, [from_row(from_line(line)) for line in out.encode().splitlines()]) == (0, [traffic(2).body])
    assert "1 were left out" in err


async def no_api(*_: object) -> None:
    raise AssertionError("asked of the API")


def line_of(signed: Signed[Performance], sealed: bytes | None = None) -> bytes:
    return to_line(to_row(signed.body, sealed or signed.sealed))


def test_an_import_tells_each_record_s_fate(metainf: Metainf, data_dir: Path, tmp_path: Path) -> None:
    fill(data_dir, record(1), traffic(1))
    file = tmp_path / "mixed.jsonl"
    lines = [
        line_of(record(1)),
        line_of(record(2)),
        line_of(record(3), flipped(record(3).sealed)),
        line_of(record(4, swarm=SwarmId("other"))),
        line_of(record(5, outcome=IMPOSSIBLE)),
        line_of(record(6, time=NOW + samples.HOUR)),
        line_of(traffic(1, context=2)),
        line_of(traffic(2)),
        to_line(to_row(record(7).body)),
        b"{nonsense\n",
        b"x" * (3 * LINE_BYTES) + b"\n",
        b"\n",
        b'{"record.sealed": "!"}\n',
        line_of(record(8))[:-1],
    ]
    file.write_bytes(b"".join(lines))
    code, out, _ = metainf("records", "import", str(file), "--json")
    assert code == 1
    said = json.loads(out)
    assert (said["new"], said["known"], said["forks"]) == (2, 1, 1)
    assert said["rejected"] == {
        "bad_signature": 1, "wrong_swarm": 1, "contradiction": 1, "from_the_future": 1, "quarantined": 1,
        "unsigned": 1, "malformed_line": 2, "line_too_long": 1,
    }  # fmt: skip
    assert f"{file}, line 3: bad_signature" in said["told"]
    listed = [json.loads(line)["name"] for line in metainf("records", "list", "--json")[1].splitlines()]
    assert set(listed) == {str(each.name) for each in (record(1), record(2), record(8), traffic(1))}


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    with node_lock(places({}, uid=0, data_dir=data_dir).lock_file):
        yield


def test_beside_a_running_node_records_are_handed_to_it_in_bounded_requests(
    canned_node: CannedNode, metainf: Metainf, data_dir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "some.jsonl"
    file.write_bytes(b"".join(line_of(record(seq)) for seq in range(2 * limits.BATCH_RECORDS)))
    verdict = {"standing": "rejected", "name": None, "reason": "expired"}
    canned_node.answer("GET", "/status", {})
    canned_node.answer("POST", "/records", {"verdicts": [verdict] * limits.BATCH_RECORDS})
    with locked(data_dir):
        code, out, _ = metainf("records", "import", str(file), "--json")
        assert code == 0
        assert json.loads(out)["rejected"] == {"expired": 2 * limits.BATCH_RECORDS}
        assert [len(body["records"]) for body in canned_node.bodies] == [limits.BATCH_RECORDS] * 2  # type: ignore[arg-type]
        assert not history_file(data_dir).exists()

        canned_node.answer("POST", "/records", {"verdicts": [verdict]})
        assert metainf("records", "import", str(file))[0] == 1
        canned_node.answer("POST", "/records", {"error": {"message": "the disk is full"}}, status=503)
        code, _, err = metainf("records", "import", str(file))
        assert code == 69
        assert "the disk is full" in err


async def test_a_running_node_takes_records_over_its_real_socket(
    metainf: Metainf, data_dir: Path, tmp_path: Path
) -> None:
    history = FakeHistory(PERFORMANCE, now_us=wall_us, check=record_rules(PUBLIC_SWARM).check)
    large = {f"extra-{number}": "x" * 1000 for number in range(6)}
    records = [record(seq, unknown=large) for seq in range(200)]
    file = tmp_path / "some.jsonl"
    file.write_bytes(b"".join(map(line_of, [*records, record(500, outcome=IMPOSSIBLE)])))

    async def admit(sealed: Sequence[bytes]) -> Sequence[Admitted]:
        return await history.admit(sealed, via=None)

    app = control_app(
        api=no_api, status=dict, peers=dict, stop=lambda _: None, restart_engine=lambda _: None, admit=admit
    )
    where = places(os.environ, uid=os.getuid(), data_dir=data_dir)
    where.runtime.mkdir(parents=True, mode=0o700)
    with locked(data_dir):
        async with trio.open_nursery() as nursery:
            bind = UnixBind(path=str(where.control_socket))
            await nursery.start(partial(serve, app, bind=bind, reports=Reports(), stop=trio.sleep_forever))
            with trio.fail_after(60):
                code, out, _ = await trio.to_thread.run_sync(metainf, "records", "import", str(file), "--json")
            nursery.cancel_scope.cancel()
    said = json.loads(out)
    assert (code, said["new"], said["rejected"]) == (1, 200, {"contradiction": 1})
    assert set(history.records) == {each.name for each in records}


def test_what_holds_the_folder_and_does_not_answer_is_waited_for_by_people(
    metainf: Metainf, data_dir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "one.jsonl"
    file.write_bytes(line_of(record(1)))
    with locked(data_dir):
        code, _, err = metainf("records", "import", str(file))
        assert code == 69
        assert "does not answer" in err
    assert metainf("records", "import", str(file))[0] == 0
    assert metainf("records", "import", str(tmp_path / "none.jsonl"))[0] == 2


def test_what_is_no_table_is_said_to_be_none(metainf: Metainf, tmp_path: Path) -> None:
    file = tmp_path / "some.parquet"
    file.write_bytes(b"PAR1 but not really")
    code, _, err = metainf("records", "import", str(file))
    assert code == 69
    assert "Parquet" in err
