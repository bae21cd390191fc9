"""How commands speak to people: whole words, safe cells, nothing folded where nobody looks."""

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

REASON = "Resend: the domain is not verified, and more words than fit into eighty columns of any terminal"


@pytest.fixture(autouse=True)
def _no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)


def test_a_pipe_gets_each_row_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """`… | grep` must see the job's id and its reason together."""
    print_table("1 failed:", ("id", "reason"), [("42", REASON)])
    title, _, header, row = capsys.readouterr().out.splitlines()
    assert title == "1 failed:"
    assert header.split() == ["id", "reason"]
    assert row.split(maxsplit=1) == ["42", REASON]


def test_a_narrow_terminal_folds_the_words_not_the_ids(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short cells stay whole, so that they can be copied."""
    monkeypatch.setenv("COLUMNS", "50")
    print_table("1 failed:", ("id", "added", "reason"), [("my-own-job-id", "2026-03-02 08:00:00", REASON)])
    lines = capsys.readouterr().out.splitlines()
    assert any("my-own-job-id  2026-03-02 08:00:00" in line for line in lines)
    assert max(map(len, lines)) <= 50


def test_facts_without_a_value_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """A zero and a no are facts, an empty cell is none."""
    print_fields("job:", {"attempts_made": 0, "locked": False, "reason": None, "data": {"to": "é"}})
    assert capsys.readouterr().out.splitlines()[2:] == [
        "attempts made  0",
        "locked         no",
        'data           {"to":"é"}',
    ]


def test_what_a_stranger_typed_cannot_move_the_terminal() -> None:
    """Control characters are shown, not obeyed."""
    assert sanitise("a\x1b[2Jb") == "a\\x1b[2Jb"


@pytest.mark.parametrize(("ms", "text"), [(None, ""), (1500, "1.5s"), (90_000, "1m30s"), (7_260_000, "2h01m")])
def test_spans_fit_a_cell(ms: float | None, text: str) -> None:
    """The two largest units are enough."""
    assert format_duration(ms) == text


@pytest.mark.parametrize("instant_ms", [10**300, 99_999_999_999_999_999, -9 * 10**17])
def test_an_absurd_time_is_shown_not_raised(instant_ms: int) -> None:
    """One job with a broken timestamp must not hide all others of its list."""
    assert format_timestamp(instant_ms).endswith(" ms")


def test_json_is_utf_8_whatever_the_terminal_speaks(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """A program that reads it knows of no locale."""
    print_json({"name": "é"})
    assert json.loads(capfdbinary.readouterr().out.decode("utf-8")) == {"name": "é"}
