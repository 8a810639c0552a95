"""The account on the disk: comes back, is replaced line by line, forgets, and bears damage."""

from pathlib import Path

import pytest

from node.adapters.store.account import AccountFile
from node.core.spending import FIELDS, MOST, REST, Line
from node.errors import Unavailable
from tests.core.routing import PEERS

ANNE = PEERS[0]

LINE = Line(**{name: number for number, name in enumerate(FIELDS, start=1)})


def damage(file: Path, content: bytes = b"no database at all" * 100) -> None:
    file.parent.mkdir()
    file.write_bytes(content)


def there(file: Path) -> bytes | None:
    return file.read_bytes() if file.exists() else None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "account.sqlite"


async def test_reading_makes_no_file(file: Path) -> None:
    assert await AccountFile(file).read(first_day=0) == []
    assert there(file) is None


async def test_lines_come_back_as_they_were_written(file: Path) -> None:
    account = AccountFile(file)
    await account.write([(10, ANNE, LINE), (11, ANNE, Line(owed_micro=MOST)), (11, REST, Line())], first_day=0)
    again = AccountFile(file)
    found = {each[:2]: each[2] for each in await again.read(first_day=0)}
    assert found == {(10, ANNE): LINE, (11, ANNE): Line(owed_micro=MOST), (11, REST): Line()}
    assert len(await again.read(first_day=11)) == 2


async def test_a_line_is_replaced_and_old_days_go(file: Path) -> None:
    account = AccountFile(file)
    await account.write([(10, ANNE, Line(owed_micro=1)), (11, ANNE, Line())], first_day=0)
    await account.write([(11, ANNE, Line(owed_micro=5))], first_day=11)
    assert await account.read(first_day=0) == [(11, ANNE, Line(owed_micro=5))]


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + bytes(5000)])
async def test_a_damaged_file_is_set_aside_and_a_new_one_begun(file: Path, content: bytes) -> None:
    damage(file, content)
    account = AccountFile(file)
    assert await account.read(first_day=0) == []
    assert there(file.with_name("account.sqlite.damaged")) == content
    await account.write([(10, ANNE, LINE)], first_day=0)
    assert await account.read(first_day=0) == [(10, ANNE, LINE)]


async def test_damage_found_while_writing_costs_what_was_there_and_no_more(file: Path) -> None:
    damage(file)
    account = AccountFile(file)
    await account.write([(10, ANNE, LINE)], first_day=0)
    assert await account.read(first_day=0) == [(10, ANNE, LINE)]


async def test_a_folder_that_cannot_be_made_is_the_worlds_fault_and_says_so(tmp_path: Path) -> None:
    damage(tmp_path / "data" / "a file")
    with pytest.raises(Unavailable, match="account") as caught:
        await AccountFile(tmp_path / "data" / "a file" / "account.sqlite").write([(10, ANNE, LINE)], first_day=0)
    assert caught.value.remedy
