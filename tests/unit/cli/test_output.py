"""The output of commands: complete cells, escaped text, no folding without a terminal."""

from __future__ import annotations

import json

import pytest

from flowstate_daemon.cli.output import (
    format_duration,
    format_timestamp,
    print_fields,
    print_json,
    print_table,
    sanitise,
)

REASON = "Resend: the domain is not verified, a text that is longer than the eighty columns of a terminal"


@pytest.fixture(autouse=True)
def _no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)


def test_rows_are_not_folded_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """`… | grep` must find the job's id and its reason on one line."""
    print_table("1 failed:", ("id", "reason"), [("42", REASON)])
    title, _, header, row = capsys.readouterr().out.splitlines()
    assert title == "1 failed:"
    assert header.split() == ["id", "reason"]
    assert row.split(maxsplit=1) == ["42", REASON]


def test_table_without_rows_is_its_title(capsys: pytest.CaptureFixture[str]) -> None:
    """Names of columns above nothing look like a fault."""
    print_table("actions: 0", ("when (UTC)", "who"), [])
    assert capsys.readouterr().out == "actions: 0\n"


def test_only_the_last_column_is_folded_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short cells stay complete, so that they can be copied."""
    monkeypatch.setenv("COLUMNS", "50")
    print_table("1 failed:", ("id", "added", "reason"), [("my-own-job-id", "2026-03-02 08:00:00", REASON)])
    lines = capsys.readouterr().out.splitlines()
    assert any("my-own-job-id  2026-03-02 08:00:00" in line for line in lines)
    assert max(map(len, lines)) <= 50


def test_fields_without_a_value_are_omitted(capsys: pytest.CaptureFixture[str]) -> None:
    """Zero and false are values; None and empty containers are not."""
    print_fields("job:", {"attempts_made": 0, "locked": False, "reason": None, "data": {"to": "é"}})
    assert capsys.readouterr().out.splitlines()[2:] == [
        "attempts made  0",
        "locked         no",
        'data           {"to":"é"}',
    ]


def test_control_characters_are_escaped() -> None:
    """Text typed by users cannot control the terminal."""
    assert sanitise("a\x1b[2Jb") == "a\\x1b[2Jb"


@pytest.mark.parametrize(
    "char", [*map(chr, [*range(10), *range(11, 32), *range(127, 160)]), *"\u061c\u200e\u200f\u2028"]
)
def test_control_character_is_escaped(char: str) -> None:
    """Also changes of direction, line separators and the second set of controls."""
    assert sanitise(f"a{char}b").isprintable()
    assert all(
        sanitise(f"a{bidi}b").isprintable() for bidi in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ud800"
    )


@pytest.mark.parametrize(
    "text",
    [
        "1\xa0200\u202f€",
        "👨\u200d👩\u200d👧",
        "\u0645\u06cc\u200c\u062e\u0648",
        "\U0001fadf\U0001fae9",
        "co\xadop",
        "🏴\U000e0067\U000e007f",
    ],
)
def test_character_that_is_no_control_stays(text: str) -> None:
    """No-break spaces of French and numbers, joiners, soft hyphens, emoji newer than Python's tables."""
    assert sanitise(text) == text


@pytest.mark.parametrize("length", [9_000, 20_000, 200_000])
def test_long_value_is_one_line_in_a_pipe(capsys: pytest.CaptureFixture[str], length: int) -> None:
    """Whatever its length: `queue show` prints a job's data, which may have many kilobytes."""
    print_fields("job:", {"data": "x" * length})
    print_table("jobs:", ("id", "data"), [("1", "y" * length)])
    lines = capsys.readouterr().out.splitlines()
    assert (f"data  {'x' * length}" in lines, f"1   {'y' * length}" in lines) == (True, True)


@pytest.mark.parametrize("columns", ["", "0", "-5", "wide", "8.5"])
def test_columns_that_is_no_width_is_ignored(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    """As if it were not set."""
    monkeypatch.setenv("COLUMNS", columns)
    print_table("1 failed:", ("id", "reason"), [("42", REASON)])
    assert f"42  {REASON}" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(("ms", "text"), [(None, ""), (1500, "1.5s"), (90_000, "1m30s"), (7_260_000, "2h01m")])
def test_duration_has_at_most_two_units(ms: float | None, text: str) -> None:
    """The two largest units are shown."""
    assert format_duration(ms) == text


@pytest.mark.parametrize("instant_ms", [10**300, 99_999_999_999_999_999, -9 * 10**17])
def test_impossible_timestamp_is_shown(instant_ms: int) -> None:
    """One job with a broken timestamp must not break the list."""
    assert format_timestamp(instant_ms).endswith(" ms")


def test_json_is_utf_8_in_every_locale(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Programs that read it do not depend on the locale."""
    print_json({"name": "é"})
    assert json.loads(capfdbinary.readouterr().out.decode("utf-8")) == {"name": "é"}
