"""docs/emails.md, followed step by step: a tenth kind, and Polish with its three plural forms, through a reload."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.mail.catalog import load_catalog
from flowstate_daemon.mail_producer import MailProducer, NewMail
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.docs.pages import PAGES
from tests.process.conftest import MakeDaemon
from tests.support.fake_resend import FakeResend
from tests.support.kind_folders import BADGE, write_kind
from tests.support.waiting import eventually

PAGE = PAGES["docs/emails.md"]


def follow_the_page(folder: Path) -> Path:
    """Run the blocks that write files, as a reader would; returns the folder of kinds."""
    script = "\n".join(
        "\n".join(line for line in block.text.splitlines() if not line.startswith(("flowstate-daemon", "export")))
        for block in PAGE.blocks
        if block.language == "sh" and block.needs is None
    )
    subprocess.run(["bash", "-eu"], input=script, text=True, check=True, cwd=folder)
    return folder / "kinds"


async def test_tenth_kind_and_third_language(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys, tmp_path: Path
) -> None:
    """A running daemon with an empty folder gets both by SIGHUP, and sends them."""
    kinds = tmp_path / "kinds"
    kinds.mkdir()
    async with make_daemon(FLOWSTATE_MAIL_KINDS_DIR=str(kinds)) as daemon:
        await daemon.ready()
        follow_the_page(tmp_path)
        daemon.send(signal.SIGHUP)
        await eventually(lambda: daemon.events("reloaded"), "the folder is loaded")
        bull = BullQueue(connection, keys, Clock(), token="test")
        producer = MailProducer(bull, attempts=4, backoff_ms=2000, kinds=load_catalog(kinds).kinds)
        context = {"userName": "Ola", "badgeName": "Early bird"}
        counts = {1: "1 punkt", 3: "3 punkty", 5: "5 punktów", 22: "22 punkty", 25: "25 punktów"}
        await producer.enqueue_many(
            [NewMail("badge", f"p{n}@example.org", {**context, "points": n}, locale="pl") for n in counts]
            + [NewMail("badge", "fr@example.org", {**context, "points": 2}, locale="fr"),
               NewMail("welcome", "pl@example.org", {"name": "Ola"}, locale="pl")]
        )  # fmt: skip
        await eventually(lambda: len(provider.accepted) == len(counts) + 2, "all emails accepted")
    sent = {mail.to[0]: mail for mail in provider.accepted}
    for number, text in counts.items():
        mail = sent[f"p{number}@example.org"]
        assert mail.subject == "Nowa odznaka: Early bird"
        for part in ("html", "text"):
            assert f"Za {text} otrzymujesz odznakę" in mail.body[part]
        assert "Cześć" in mail.body["text"]
    assert sent["fr@example.org"].subject == "New badge: Early bird"
    assert sent["pl@example.org"].subject == "Welcome to FlowState"


async def test_broken_folder_at_reload(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys, tmp_path: Path
) -> None:
    """The emails stay as they were, the log says what is wrong and where, and the next reload works."""
    kinds = write_kind(tmp_path / "kinds", "badge", BADGE)
    async with make_daemon(FLOWSTATE_MAIL_KINDS_DIR=str(kinds)) as daemon:
        await daemon.ready()
        write_kind(kinds, "badge", {"texts/en.toml": BADGE["texts/en.toml"].replace("New badge", "<b>New")})
        daemon.send(signal.SIGHUP)
        await eventually(lambda: daemon.events("reload_failed"), "the reload is refused")
        (event,) = daemon.events("reload_failed")
        assert f"{kinds}/badge/texts/en.toml:1: subject: contains markup" in event["errors"][0]
        bull = BullQueue(connection, keys, Clock(), token="test")
        producer = MailProducer(
            bull, attempts=4, backoff_ms=2000, kinds=load_catalog(write_kind(tmp_path / "copy", "badge", BADGE)).kinds
        )
        await producer.enqueue(NewMail("badge", "ada@example.org", {"badgeName": "Early bird", "points": 1}))
        await eventually(lambda: len(provider.accepted) == 1, "sent with the old texts")
        write_kind(kinds, "badge", {"texts/en.toml": BADGE["texts/en.toml"].replace("New badge", "Badge")})
        daemon.send(signal.SIGHUP)
        await eventually(lambda: daemon.events("reloaded"), "the corrected folder is loaded")
        await producer.enqueue(NewMail("badge", "ada@example.org", {"badgeName": "Early bird", "points": 1}))
        await eventually(lambda: len(provider.accepted) == 2, "sent with the new texts")
    assert [mail.subject for mail in provider.accepted] == ["New badge: Early bird", "Badge: Early bird"]


async def test_broken_folder_at_start(make_daemon: MakeDaemon, tmp_path: Path) -> None:
    """The daemon refuses to start with the exit code of an invalid configuration."""
    kinds = write_kind(tmp_path / "kinds", "badge", {**BADGE, "kind.toml": "priority = 0\n"})
    daemon = make_daemon(FLOWSTATE_MAIL_KINDS_DIR=str(kinds))
    await daemon.start()
    assert await daemon.ended() == 78
    assert f"{kinds}/badge/kind.toml:1: priority: should be greater than or equal to 1" in daemon.log_text()


@pytest.mark.parametrize("name", ["docs/emails.md", "docs/fr/e-mails.md"])
def test_page_exists_in_both_languages(name: str) -> None:
    """The walk through is in English; the French page leads to it."""
    assert "mail.kinds_dir" in PAGES[name].text
