"""`mail preview`: a folder that shows every mail, on a machine that has nothing but this program."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from flowstate_daemon.cli.main import CONFIG, FAILED, USAGE_ERROR, main
from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.mail.locales import LOCALES
from flowstate_daemon.mail.samples import rich_contexts
from tests.support.html import Page

SETTINGS = ("FLOWSTATE_", "RESEND_", "REDIS_", "DATABASE_", "FRONTEND_", "APP_NAME")


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(SETTINGS)]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("COLUMNS", raising=False)  # a terminal's width folds names


def preview(capsys: pytest.CaptureFixture[str], folder: Path, *text: str) -> str:
    assert main(["mail", "preview", *text, "--folder", str(folder)]) == 0
    return capsys.readouterr().out


def test_everything_is_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Both parts of each kind in each language, richer where this daemon makes it itself, and a page of them all."""
    folder = tmp_path / "a" / "b"
    shown = preview(capsys, folder)
    samples = [*KINDS, *(f"{kind}-rich" for kind in rich_contexts())]
    names = {f"{sample}.{locale}" for sample in samples for locale in LOCALES}
    assert {file.name for file in folder.iterdir()} == {
        "index.html", *(f"{name}.html" for name in names), *(f"{name}.txt" for name in names)
    }  # fmt: skip
    assert all(f"\n{name}.html " in shown for name in names)
    assert str(folder / "index.html") in shown


def test_the_index_shows_and_links_what_is_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """No file is forgotten, no link leads nowhere, and what people typed into samples stays text."""
    preview(capsys, tmp_path)
    page = Page((tmp_path / "index.html").read_text("utf-8").replace("<!doctype html>", ""))
    linked = {link for link in page.links if not link.startswith("#")}
    assert linked == {file.name for file in tmp_path.iterdir()} - {"index.html"}
    assert {frame["src"] for frame in page.all("iframe")} == {link for link in linked if link.endswith(".html")}
    assert {f"#{section['id']}" for section in page.all("section")} == page.links - linked
    assert "Due tomorrow: Send the framer the final sizes" in page.text


def test_one_kind_in_one_language(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """As JSON, with true sizes."""
    output = json.loads(preview(capsys, tmp_path, "otp", "--locale", "fr", "--json"))
    assert output["index"] == str(tmp_path / "index.html")
    (mail,) = output["mails"]
    assert mail == {
        "file": "otp.fr.html",
        "html_bytes": (tmp_path / "otp.fr.html").stat().st_size,
        "text_bytes": (tmp_path / "otp.fr.txt").stat().st_size,
        "subject": "Votre code de vérification FlowState",
    }


def test_it_shows_the_brand_of_the_configuration(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Name and links are the operator's own; the link to unsubscribe stands where theirs will stand."""
    monkeypatch.setenv("APP_NAME", "Calm & Co")
    monkeypatch.setenv("FRONTEND_URL", "https://calm.example/app")
    monkeypatch.setenv("FLOWSTATE_HTTP_PUBLIC_URL", "https://mail.calm.example")
    preview(capsys, tmp_path, "overdue-summary", "--locale", "en")
    page = Page((tmp_path / "overdue-summary.en.html").read_text("utf-8"))
    assert "Calm & Co · " in page.text
    assert "https://calm.example/app/tasks?filter=overdue" in page.links
    assert [link for link in page.links if link.startswith("https://mail.calm.example/unsubscribe/")]


def test_the_same_gallery_is_the_same_bytes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """So that a diff of two galleries shows what a change did to the mails."""
    for folder in (tmp_path / "one", tmp_path / "two"):
        preview(capsys, folder)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_a_folder_that_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A failure with its remedy, not a traceback."""
    file = tmp_path / "file"
    file.write_text("mine")
    assert main(["mail", "preview", "--folder", str(file / "below")]) == FAILED
    assert "--folder" in capsys.readouterr().err


def test_wrong_words_and_wrong_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown kind or language is wrong usage; a wrong setting is named as everywhere."""
    assert main(["mail", "preview", "newsletter"]) == USAGE_ERROR
    assert main(["mail", "preview", "--locale", "tlh"]) == USAGE_ERROR
    monkeypatch.setenv("FRONTEND_URL", "javascript:x")
    assert main(["mail", "preview"]) == CONFIG
