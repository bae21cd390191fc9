"""Durations of options."""

from __future__ import annotations

import pytest

from flowstate_daemon.cli.durations import parse_duration
from flowstate_daemon.cli.main import USAGE_ERROR, main


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0), ("90", 90), ("1.5", 1.5), ("1e3", 1000), ("2s", 2), ("500ms", 0.5), ("5m", 300), ("1h30m", 5400),
        ("7d", 604_800), ("2w", 1_209_600), (" 7D ", 604_800), ("1.5h", 5400), ("1d12h", 129_600),
    ],
)  # fmt: skip
def test_numbers_count_seconds_and_units_are_added(text: str, seconds: float) -> None:
    """A number without a unit means what it meant before there were units."""
    assert parse_duration(text) == seconds


def test_plain_numbers_of_a_delay_stay_milliseconds() -> None:
    """As `enqueue --delay` had them."""
    assert parse_duration("1500", "ms") == 1.5
    assert parse_duration("2s", "ms") == 2


@pytest.mark.parametrize(
    "text", ["", "x", "7 days", "d7", "7dd", "1h 30", "nan", "inf", "1e999", "7y", "\N{ARABIC-INDIC DIGIT ONE}h"]
)
def test_what_is_no_duration_is_rejected(text: str) -> None:
    """Also what Python takes for a number and a clock does not."""
    assert parse_duration(text) is None


TO_ADA = ["enqueue", "welcome", "--to", "a@example.org"]


@pytest.mark.parametrize(
    "arguments",
    [
        [*command, value]
        for command in (
            ["queue", "clean", "failed", "--grace"],
            ["queue", "list", "failed", "--older-than"],
            ["queue", "retry", "--newer-than"],
            ["queue", "remove", "--older-than"],
            ["queue", "promote", "--older-than"],
            [*TO_ADA, "--wait"],
            [*TO_ADA, "--delay"],
            ["health", "--timeout"],
        )
        for value in ("-1", "7y", "nan", "inf", "9999999999d", "")
    ],
    ids=" ".join,
)
def test_every_option_that_takes_a_duration_rejects_what_is_none(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the command connects to a store; the message has examples or the range."""
    assert main(arguments) == USAGE_ERROR
    error = capsys.readouterr().err
    assert "expected a duration" in error or "out of range" in error
