"""`check` of the emails: kinds, languages, and the logo as a mail program gets it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from flowstate_daemon.cli.check.mail import check_mail, evaluate_kinds
from flowstate_daemon.cli.check.result import CheckResult, Level
from flowstate_daemon.config.loader import load
from flowstate_daemon.mail.catalog import load_catalog
from tests.support.kind_folders import BADGE, write_kind

ANSWERS = {
    "/logo.png": web.Response(body=b"x" * 4_000, content_type="image/png"),
    "/large.png": web.Response(body=b"x" * 248_000, content_type="image/png"),
    "/limit.png": web.Response(body=b"x" * 50_000, content_type="image/png"),
    "/page": web.Response(body=b"<html>", content_type="text/html"),
    "/none": web.Response(status=404),
}


@pytest.fixture
async def frontend() -> AsyncIterator[str]:
    """The URL of a server with some pictures."""

    async def answer(request: web.Request) -> web.Response:
        found = ANSWERS[request.path]
        return web.Response(body=found.body, status=found.status, content_type=found.content_type)

    app = web.Application()
    app.router.add_get("/{name}", answer)
    async with TestServer(app) as server:
        yield str(server.make_url("")).rstrip("/")


async def logo_check(url: str) -> CheckResult:
    results = await check_mail(load({"FLOWSTATE_MAIL_LOGO_URL": url} if url else {}))
    return next(result for result in results if result.name == "logo")


@pytest.mark.parametrize(
    ("path", "level", "message"),
    [
        ("/logo.png", Level.OK, "4 kB"),
        ("/limit.png", Level.OK, "50 kB"),
        ("/large.png", Level.WARN, "is larger than 50 kB"),
        ("/page", Level.FAIL, "is no image but text/html"),
        ("/none", Level.FAIL, "answers 404"),
    ],
)
async def test_logo(frontend: str, path: str, level: Level, message: str) -> None:
    """It is there, it is a picture, and it is small."""
    result = await logo_check(frontend + path)
    assert result.level is level
    assert message in result.message


async def test_logo_when_server_does_not_respond() -> None:
    """This machine may not reach what readers reach: a warning."""
    assert (await logo_check("http://127.0.0.1:9/logo.png")).level is Level.WARN
    assert (await logo_check("")).message == "none; the name is shown as text"


def test_kinds_that_lack_a_language(tmp_path: Path) -> None:
    """They are named, because their readers get another language."""
    assert evaluate_kinds(load_catalog(None)).message == "9 kinds in en, fr"
    found = evaluate_kinds(load_catalog(write_kind(tmp_path, "badge", BADGE)))
    assert found.message == "10 kinds in en, fr; badge in en only"
