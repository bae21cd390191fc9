"""`mail preview`: a folder with every email, without Redis, Postgres or provider."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from flowstate_daemon.cli.main import CONFIG, FAILED, USAGE_ERROR, main
from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.mail.locales import LOCALES
from flowstate_daemon.mail.samples import all_samples
from tests.support.html import Page

SETTINGS = ("FLOWSTATE_", "RESEND_", "REDIS_", "DATABASE_", "FRONTEND_", "APP_NAME")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(SETTINGS)]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("COLUMNS", raising=False)  # a narrow terminal would fold names


def preview(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> str:
    assert main(["mail", "preview", *arguments, "--output", str(folder)]) == 0
    return capsys.readouterr().out


def test_all_kinds_are_written_in_all_languages(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Both parts of each kind, the detailed samples of scheduled kinds, and an index page."""
    folder = tmp_path / "a" / "b"
    output = preview(capsys, folder)
    names = {f"{sample.name}.{locale}" for sample in all_samples() for locale in LOCALES}
    assert {sample.kind for sample in all_samples()} == set(KINDS)
    assert {file.name for file in folder.iterdir()} == {
        "index.html", *(f"{name}.html" for name in names), *(f"{name}.txt" for name in names)
    }  # fmt: skip
    assert all(f"\n{name}.html " in output for name in names)
    assert str(folder / "index.html") in output


def test_index_links_every_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Every file is linked, every link has a target, and text typed by users is escaped."""
    preview(capsys, tmp_path)
    page = Page((tmp_path / "index.html").read_text("utf-8").replace("<!doctype html>", ""))
    linked = {link for link in page.links if not link.startswith("#")}
    assert linked == {file.name for file in tmp_path.iterdir()} - {"index.html"}
    assert {frame["src"] for frame in page.all("iframe")} == {link for link in linked if link.endswith(".html")}
    assert {f"#{section['id']}" for section in page.all("section")} == page.links - linked
    assert "Due tomorrow: Send the framer the final sizes" in page.text


def test_one_kind_in_one_language_as_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The JSON document contains the file sizes and the subject."""
    document = json.loads(preview(capsys, tmp_path, "otp", "--locale", "fr", "--json"))
    assert document["index"] == str(tmp_path / "index.html")
    (mail,) = document["mails"]
    assert mail == {
        "file": "otp.fr.html",
        "html_bytes": (tmp_path / "otp.fr.html").stat().st_size,
        "text_bytes": (tmp_path / "otp.fr.txt").stat().st_size,
        "subject": "Votre code de vérification FlowState",
    }


def test_preview_uses_the_configured_brand(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Name and links come from the configuration, the unsubscribe link included."""
    monkeypatch.setenv("APP_NAME", "Calm & Co")
    monkeypatch.setenv("FRONTEND_URL", "https://calm.example/app")
    monkeypatch.setenv("FLOWSTATE_HTTP_PUBLIC_URL", "https://mail.calm.example")
    preview(capsys, tmp_path, "overdue-summary", "--locale", "en")
    page = Page((tmp_path / "overdue-summary.en.html").read_text("utf-8"))
    assert "Calm & Co · " in page.text
    assert "https://calm.example/app/today" in page.links
    assert [link for link in page.links if link.startswith("https://mail.calm.example/unsubscribe/")]


def test_output_is_reproducible(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A diff of two previews then shows what a change did to the emails."""
    for folder in (tmp_path / "one", tmp_path / "two"):
        preview(capsys, folder)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_unwritable_folder_fails_with_a_remedy(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The error names the option, without a traceback."""
    file = tmp_path / "file"
    file.write_text("mine")
    assert main(["mail", "preview", "--output", str(file / "below")]) == FAILED
    assert "--output" in capsys.readouterr().err


def test_invalid_arguments_and_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown kind or language is a usage error, an invalid setting a configuration error."""
    assert main(["mail", "preview", "newsletter"]) == USAGE_ERROR
    assert main(["mail", "preview", "--locale", "tlh"]) == USAGE_ERROR
    monkeypatch.setenv("FRONTEND_URL", "javascript:x")
    assert main(["mail", "preview"]) == CONFIG
