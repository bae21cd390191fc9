"""`mail preview`: a folder with every email, without Redis, Postgres or provider."""

from __future__ import annotations

import json
import os
from pathlib import Path
from threading import Timer

import pytest

from flowstate_daemon.base.errors import ConfigError
from flowstate_daemon.cli.mail import watch_folder
from flowstate_daemon.cli.main import CONFIG, FAILED, USAGE_ERROR, main
from flowstate_daemon.mail.kind_files import BUILT_IN_FOLDER
from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.mail.locales import LOCALES
from flowstate_daemon.mail.samples import all_samples
from tests.support.html import Page
from tests.support.kind_folders import BADGE, write_kind

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
        "index.html", *(f"{name}{end}" for name in names for end in (".html", ".dark.html", ".txt"))
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


def test_index_shows_the_inbox_the_dark_form_and_the_text(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What a reader sees first, and what is easily forgotten."""
    preview(capsys, tmp_path, "overdue-summary")
    page = Page((tmp_path / "index.html").read_text("utf-8").replace("<!doctype html>", ""))
    assert "FlowState You have 3 overdue tasks – Call the printer back, and 2 more" in page.text  # noqa: RUF001
    assert "- Call the printer back (6 days overdue) - Choose the paper" in page.text
    assert "Vous avez 3 tâches en retard – Rappeler l’imprimeur, et 2 autres" in page.text  # noqa: RUF001
    light, dark = ((tmp_path / f"overdue-summary.en{end}.html").read_text("utf-8") for end in ("", ".dark"))
    assert "@media (prefers-color-scheme:dark)" in light
    assert dark == light.replace("@media (prefers-color-scheme:dark)", "@media all")


def test_french_emails_have_french_samples(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A French reader judges the sentences with French titles in them."""
    preview(capsys, tmp_path, "task-reminder", "--locale", "fr")
    text = (tmp_path / "task-reminder.fr.txt").read_text("utf-8")
    assert "Envoyer les dimensions finales" in text
    assert "framer" not in text


def test_preview_of_a_folder_with_mistakes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All of them with file and line, and the exit code of an invalid configuration."""
    texts = 'subject = "<"' + BADGE["texts/en.toml"][BADGE["texts/en.toml"].index("\n") :]
    write_kind(tmp_path / "kinds", "badge", {**BADGE, "texts/en.toml": texts})
    monkeypatch.setenv("FLOWSTATE_MAIL_KINDS_DIR", str(tmp_path / "kinds"))
    monkeypatch.setenv("RESEND_FROM_EMAIL", "hello@flowstate.example")
    monkeypatch.setenv("FLOWSTATE_DELIVERY", "outbox")
    assert main(["mail", "preview", "--output", str(tmp_path / "out")]) == CONFIG
    assert f"{tmp_path}/kinds/badge/texts/en.toml:1: subject: contains markup" in capsys.readouterr().err
    assert main(["check", "--config-only"]) == CONFIG
    assert "badge/texts/en.toml:1" in capsys.readouterr().err


def test_further_kind_in_preview_and_enqueue(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Commands know the kinds of the folder, and name them when they are given another."""
    monkeypatch.setenv("FLOWSTATE_MAIL_KINDS_DIR", str(write_kind(tmp_path / "kinds", "badge", BADGE)))
    assert "New badge: Early bird" in preview(capsys, tmp_path / "out", "badge")
    assert main(["enqueue", "badges", "--to", "ada@example.org"]) == USAGE_ERROR
    assert "'badges' is not one of badge, focus-report" in " ".join(capsys.readouterr().err.split())


def test_copy_of_a_built_in_kind(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The copy is a folder for `mail.kinds_dir`; files that are already there stay."""
    (tmp_path / "welcome").mkdir()
    (tmp_path / "welcome/kind.toml").write_text("# mine\n" + (BUILT_IN_FOLDER / "welcome/kind.toml").read_text("utf-8"))
    assert main(["mail", "copy", "welcome", str(tmp_path)]) == 0
    assert f"{tmp_path}/welcome/texts/fr.toml\n" in capsys.readouterr().out
    assert (tmp_path / "welcome/kind.toml").read_text("utf-8").startswith("# mine")
    monkeypatch.setenv("FLOWSTATE_MAIL_KINDS_DIR", str(tmp_path))
    preview(capsys, tmp_path / "out", "welcome")
    assert main(["mail", "copy", "newsletter", str(tmp_path)]) == USAGE_ERROR


def test_watch_needs_a_folder(tmp_path: Path) -> None:
    """Without `mail.kinds_dir` there is nothing to watch."""
    assert main(["mail", "preview", "otp", "--watch", "--output", str(tmp_path)]) == USAGE_ERROR


def test_watch_writes_again_after_a_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Mistakes are printed, and the next change is seen as well."""
    folder = write_kind(tmp_path, "badge", BADGE)
    rounds = []

    def write() -> None:
        """Change the folder again, with a mistake the first time, and stop at the third change."""
        rounds.append(None)
        (folder / f"badge/samples.{'x' * (len(rounds) + 1)}.toml").write_text("x" * len(rounds))
        if len(rounds) == 1:
            raise ConfigError(["badge/kind.toml:3: a mistake"])
        if len(rounds) == 3:
            raise KeyboardInterrupt

    timer = Timer(0.1, lambda: (folder / "badge/new.toml").write_text("x"))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        watch_folder(folder, write)
    timer.join()
    assert "badge/kind.toml:3: a mistake" in capsys.readouterr().err


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


def test_further_kind_in_unsubscribed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`--kind` knows the kinds of the folder: the command ends only because there is no Postgres."""
    monkeypatch.setenv("FLOWSTATE_MAIL_KINDS_DIR", str(write_kind(tmp_path, "badge", BADGE)))
    for kind, said in (("badge", "DATABASE_URL"), ("welcome", "'badge', 'focus-report'"), ("other", "'task-reminder'")):
        assert main(["unsubscribed", "add", "ada@example.org", "--kind", kind]) != 0
        assert said in capsys.readouterr().err
