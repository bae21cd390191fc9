"""Checks of what the emails are made of: kinds, languages, logo. The `evaluate_…` functions are pure."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import aiohttp

from flowstate_daemon.cli.check.result import CheckResult, fail, ok, warn
from flowstate_daemon.config.loader import Config
from flowstate_daemon.mail.catalog import Catalog, load_catalog

TIMEOUT_S = 5.0
MAX_LOGO_BYTES = 50_000
LOGO = "logo"
LOGO_REMEDY = "correct mail.logo_url (FLOWSTATE_MAIL_LOGO_URL), or remove it: the name is then shown as text"


@dataclass(frozen=True, slots=True)
class FetchedLogo:
    """What a mail program gets from the URL of the logo. `size` is at most one byte more than the limit."""

    status: int
    content_type: str
    size: int


async def check_mail(config: Config) -> list[CheckResult]:
    """The kinds of email with their languages, and the logo."""
    catalog = await asyncio.to_thread(load_catalog, config.mail.kinds_dir, config.mail.default_locale)
    results = [evaluate_kinds(catalog)]
    url = config.mail.logo_url
    if url is None:
        return [*results, ok(LOGO, "none; the name is shown as text")]
    try:
        return [*results, evaluate_logo(url, await fetch_logo(url))]
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        reason = f"{url} cannot be fetched from this machine ({type(error).__name__})"
        return [*results, warn(LOGO, reason, f"if mail programs cannot fetch it either: {LOGO_REMEDY}")]


async def fetch_logo(url: str) -> FetchedLogo:
    """Fetch the logo as a mail program would. Raises ClientError or TimeoutError."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as response:
        content = b""
        while len(content) <= MAX_LOGO_BYTES and (chunk := await response.content.read(MAX_LOGO_BYTES + 1)):
            content += chunk
        return FetchedLogo(response.status, response.content_type, min(len(content), MAX_LOGO_BYTES + 1))


def evaluate_kinds(catalog: Catalog) -> CheckResult:
    """How many kinds there are, and which of them are not in every language. Pure."""
    text = f"{len(catalog.kinds)} kinds in {', '.join(catalog.locales)}"
    partly = [
        f"{kind} in {', '.join(catalog.languages(kind))} only"
        for kind in catalog.kinds
        if catalog.languages(kind) != catalog.locales
    ]
    return ok("emails", f"{text}; {'; '.join(partly)}" if partly else text)


def evaluate_logo(url: str, logo: FetchedLogo) -> CheckResult:
    """Whether mail programs can show it quickly. Pure."""
    if logo.status != 200:  # noqa: PLR2004 - the status of a response with a body
        return fail(LOGO, f"{url} answers {logo.status}", LOGO_REMEDY)
    if not logo.content_type.startswith("image/"):
        return fail(LOGO, f"{url} is no image but {logo.content_type}", LOGO_REMEDY)
    if logo.size > MAX_LOGO_BYTES:
        return warn(
            LOGO, f"{url} is larger than {MAX_LOGO_BYTES // 1000} kB", "use a smaller file: every reader loads it"
        )
    return ok(LOGO, f"{url}, {logo.size / 1000:.0f} kB")
