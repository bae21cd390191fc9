"""Links into the application: pages that exist, instead of those that the backend writes."""

from __future__ import annotations

import pytest

from flowstate_daemon.config.settings import LinksSettings
from flowstate_daemon.mail.app_links import DEFAULT_PATTERNS, AppLinks

ROOT = "https://app.example/flow"
LINKS = AppLinks(ROOT)


def test_defaults_are_those_of_the_settings() -> None:
    """The settings and the tests of this package mean the same pages."""
    assert LinksSettings().model_dump() == dict(DEFAULT_PATTERNS)


@pytest.mark.parametrize(
    ("name", "path", "page"),
    [
        ("task", "/tasks/5d0c", "/today"),
        ("overdue", "/tasks?filter=overdue", "/today"),
        ("tasks", "/tasks", "/today"),
        ("goal", "/goals/c3a1", "/goals/c3a1"),
        ("habit", "/habits/7e9d", "/habits"),
        ("project", "/projects/0b6f", "/projects/0b6f"),
        ("analytics", "/analytics", "/focus"),
    ],
)
def test_pages_of_the_backend_are_replaced(name: str, path: str, page: str) -> None:
    """Every page that the backend names leads to one that the frontend has, also from a backend on localhost."""
    assert LINKS.replace(name, ROOT + path) == ROOT + page
    assert LINKS.replace(name, f"http://localhost:4200{path}") == ROOT + page


@pytest.mark.parametrize(
    "url",
    ["", f"{ROOT}/today", f"{ROOT}/tasks/1/edit", "https://other.example/tasks/1", f"{ROOT}.evil/tasks/1"],
)
def test_other_links_stay(url: str) -> None:
    """A producer that knows better is not corrected."""
    assert LINKS.replace("task", url) == url


def test_page_of_another_site() -> None:
    """A pattern may be a URL, and an empty one means that there is no page."""
    links = AppLinks(ROOT, {**DEFAULT_PATTERNS, "task": "https://tasks.example/t?id={id}", "habit": ""})
    assert links.replace("task", f"{ROOT}/tasks/5%20d") == "https://tasks.example/t?id=5%20d"
    assert links.task("a/b c") == "https://tasks.example/t?id=a%2Fb%20c"
    assert links.replace("habit", f"{ROOT}/habits/7") == links.url("habit", "7") == ""
    assert links.settings == ""
