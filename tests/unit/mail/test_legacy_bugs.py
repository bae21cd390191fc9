"""One test for each fault of the old worker's emails; the numbers are those of the list of faults."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest

from flowstate_daemon.base.errors import ConfigError
from flowstate_daemon.mail.catalog import load_catalog
from flowstate_daemon.mail.locales import LOCALES
from flowstate_daemon.mail.samples import Sample, all_samples
from tests.support.html import Page
from tests.support.kind_folders import write_kind
from tests.support.mail_samples import RICH, crowded, rendered

every_locale = pytest.mark.parametrize("locale", LOCALES)
OVERDUE = [sample for sample in all_samples() if sample.kind == "overdue-summary" and sample.name[-3:] != "one"]


@every_locale
@pytest.mark.parametrize("sample", OVERDUE, ids=lambda sample: sample.name)
def test_fault_1_the_overdue_summary_renders(sample: Sample, locale: str) -> None:
    """Its template called a helper that did not exist, so that every such mail failed."""
    mail = rendered(sample, locale)
    assert "Call the printer back" in Page(mail.html).text
    assert "Call the printer back" in mail.text


@pytest.mark.parametrize("part", ["body.mjml", "body.txt", "texts/fr.toml"])
def test_fault_1_templates_are_checked_at_start(part: str, tmp_path: Path) -> None:
    """A helper that does not exist stops the start, for each part of each language, and not an email."""
    file = Path(str(files("flowstate_daemon.mail"))) / "kinds" / "overdue-summary" / part
    text = file.read_text(encoding="utf-8")
    called = text.replace("plural('day', ", "pluralise('day', ", 1).replace("greet(", "greeting_of(", 1)
    assert called != text
    with pytest.raises(ConfigError, match=r"greeting_of|pluralise"):
        load_catalog(write_kind(tmp_path, "overdue-summary", {part: called}))


@every_locale
def test_fault_4_twelve_tasks_are_one_email(locale: str) -> None:
    """Twelve tasks due tomorrow caused twelve emails."""
    twelve = [{"title": f"Task number {number}"} for number in range(12)]
    mail = rendered(Sample("", "task-reminder", RICH["task-reminder"] | {"tasks": twelve, "taskCount": 12}), locale)
    assert len(Page(mail.html).items) == 12
    assert mail.subject.startswith("12 ")
    assert all(task["title"] in mail.text for task in twelve)


@every_locale
def test_fault_5_subject_has_the_total(locale: str) -> None:
    """The count was the length of a list cut at ten."""
    ten = [{"title": f"Task {number}", "days": 20 - number} for number in range(10)]
    mail = rendered(Sample("", "overdue-summary", RICH["overdue-summary"] | {"tasks": ten, "overdueCount": 37}), locale)
    assert "37" in mail.subject
    assert len(Page(mail.html).items) == 11
    assert "27" in mail.text


@pytest.mark.parametrize(("locale", "text"), [("en", "Not rated"), ("fr", "Pas de note")])
def test_fault_6_sessions_without_rating_are_ignored(locale: str, text: str) -> None:
    """Sessions without a rating counted as zero; a week without any has no average."""
    unrated = RICH["focus-report"] | {"averageRating": None, "ratedSessions": 0}
    mail = rendered(Sample("", "focus-report", unrated), locale)
    assert text in Page(mail.html).text
    assert "0/5" not in mail.text.replace("\u00a0", "")


@every_locale
@pytest.mark.parametrize("sample", list(crowded()), ids=lambda sample: sample.name)
def test_fault_7_lists_are_lists(sample: Sample, locale: str) -> None:
    """Lines joined by newlines collapsed into one paragraph, and there was no text part."""
    mail = rendered(sample, locale)
    page = Page(mail.html)
    assert len([table for table in page.all("table") if table.get("role") == "list"]) == 1
    listed = [line for line in mail.text.splitlines() if line.startswith("- ")]
    assert len(page.items) == len(listed) >= 11
