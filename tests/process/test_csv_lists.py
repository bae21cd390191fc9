"""`suppression|unsubscribed import|export` as an operator runs them."""

from __future__ import annotations

import stat
from functools import partial
from pathlib import Path

import pytest

from flowstate_daemon.cli.csv_lists import decode_csv, encode_csv, parse_suppression, parse_unsubscribe
from tests.process.test_database_commands import RunCommand, run  # noqa: F401 - a fixture

SINCE = "2026-03-02T08:00:00+00:00"
LISTS = {
    "suppression": (
        ("address", "reason", "since", "note"),
        [
            ("ada@example.org", "bounced", SINCE, ""),
            ("ada@example.org", "manual", SINCE, 'asked, "twice"\nby phone'),
            ("bob@example.org", "complained", SINCE, "=1+1"),
            ("#" + "0f" * 32, "manual", SINCE, ""),
        ],
    ),
    "unsubscribed": (
        ("address", "kind", "since"),
        [
            ("ada@example.org", "all", SINCE),
            ("ada@example.org", "task-reminder", SINCE),
            ("'+x@example.org", "focus-report", SINCE),
            ("#" + "0f" * 32, "all", SINCE),
        ],
    ),
}


@pytest.mark.parametrize("name", LISTS)
async def test_export_and_import_are_inverse(run: RunCommand, tmp_path: Path, name: str) -> None:  # noqa: F811
    """Every entry with its time and note, also of a forgotten person; a second import adds nothing."""
    columns, rows = LISTS[name]
    given, exported = tmp_path / "given.csv", tmp_path / "exported.csv"
    given.write_text(encode_csv(columns, rows), newline="")
    await run("migrate")
    checked = await run(name, "import", str(given), "--dry-run", "--json")
    assert checked.document == {"rows": 4, "added": 0, "dry_run": True}
    assert (await run(name, "list", "--json")).document == []
    assert (await run(name, "import", str(given), "--json")).document == {"rows": 4, "added": 4, "dry_run": False}
    assert (await run(name, "export", str(exported), "--json")).document == {"exported": 4, "file": str(exported)}
    assert sorted(exported.read_bytes().split(b"\r\n")) == sorted(given.read_bytes().split(b"\r\n"))
    assert stat.S_IMODE(exported.stat().st_mode) == 0o600
    again = await run(name, "import", str(exported))
    assert again.out == "added: 0; in the list already: 4\n"
    assert (await run(name, "export")).out.splitlines()[0] == ",".join(columns)


async def test_existing_file_is_not_overwritten_by_accident(run: RunCommand, tmp_path: Path) -> None:  # noqa: F811
    """Without a terminal --yes is needed."""
    file = tmp_path / "list.csv"
    file.write_text("mine")
    await run("migrate")
    assert (await run("suppression", "export", str(file))).code == 64
    assert file.read_text() == "mine"
    assert (await run("suppression", "export", str(file), "--yes")).code == 0
    assert file.read_text().startswith("address,")


async def test_import_is_in_the_audit(run: RunCommand, tmp_path: Path) -> None:  # noqa: F811
    """As if an operator had added each address."""
    file = tmp_path / "list.csv"
    file.write_text("address\nada@example.org\n")
    await run("migrate")
    await run("suppression", "import", str(file))
    (action,) = (await run("suppression", "audit", "--reveal", "--json")).document
    assert (action["action"], action["target"], action["count"]) == ("suppression add (manual)", "ada@example.org", 1)


@pytest.mark.parametrize(
    "text",
    [
        "", "ada@example.org\n", "address,adress\na@b.de,x\n", "address,address\na@b.de,a@b.de\n",
        "address,reason\na@b.de\n", "address,reason\na@b.de,because\n", "address,since\na@b.de,yesterday\n",
        "address\nnobody\n", 'address\n"a@b.de\n', "address\n#12\n", "address,note\na@b.de,x,y\n",
    ],
)  # fmt: skip
def test_wrong_file_is_refused_with_the_line(text: str) -> None:
    """Nothing of the file is repeated but its columns."""
    _, errors = decode_csv(text, LISTS["suppression"][0], parse_suppression)
    assert errors
    assert all(error.startswith("line ") for error in errors)
    assert not any("a@b.de" in error for error in errors)


@pytest.mark.parametrize(
    "text",
    [
        "address;kind\r\nADA@example.org;all\r\n", "address\nada@example.org",
        "kind\taddress\n\tada@example.org\n", " Address , Kind \n ada@example.org , \n\n,\n",
    ],
)  # fmt: skip
def test_files_of_spreadsheets_are_read(text: str) -> None:
    """Semicolons, tabs, blanks, capitals, empty lines, no last line feed."""
    entries, errors = decode_csv(text, LISTS["unsubscribed"][0], partial(parse_unsubscribe, kinds=["welcome"]))
    assert errors == []
    assert [(entry.address, entry.value, entry.since) for entry in entries] == [("ada@example.org", "*", None)]


async def test_binary_and_missing_files_are_usage_errors(run: RunCommand, tmp_path: Path) -> None:  # noqa: F811
    """A message, no traceback."""
    photo = tmp_path / "photo"
    photo.write_bytes(b"\xff\xd8\0")
    for file in (photo, tmp_path / "missing", tmp_path):
        result = await run("unsubscribed", "import", str(file))
        assert result.code == 64
        assert "Traceback" not in result.err
