"""Links into the web application, from the settings of `links`. Pure.

The backend writes links to pages that its frontend does not have: they are replaced by those of the settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

ID = "{id}"
DEFAULT_PATTERNS: Mapping[str, str] = {
    "task": "/today",
    "tasks": "/today",
    "overdue": "/today",
    "goal": "/goals/{id}",
    "habit": "/habits",
    "project": "/projects/{id}",
    "analytics": "/focus",
    "settings": "",
    "reset_password": "",
}
LINK_NAMES = frozenset(DEFAULT_PATTERNS)
# What the backend writes behind the address of its frontend; the group is the id.
BACKEND_PATHS: Mapping[str, re.Pattern[str]] = {
    "task": re.compile(r"/tasks/([^/?#]+)/?"),
    "tasks": re.compile(r"/tasks/?"),
    "overdue": re.compile(r"/tasks/?\?filter=overdue"),
    "goal": re.compile(r"/goals/([^/?#]+)/?"),
    "habit": re.compile(r"/habits/([^/?#]+)/?"),
    "project": re.compile(r"/(?:projects|invitations)/([^/?#]+)/?(?:accept/?)?"),
    "analytics": re.compile(r"/analytics/?"),
    "settings": re.compile(r"/settings/notifications/?"),
}
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1"})


@dataclass(frozen=True, slots=True)
class AppLinks:
    """The pages of the application. A pattern is a path below `frontend_url` or a URL, and empty without a page."""

    frontend_url: str
    patterns: Mapping[str, str] = field(default_factory=lambda: DEFAULT_PATTERNS)

    def url(self, name: str, key: str = "") -> str:
        """The URL of a page; `key` is the id of what it shows. Empty if there is no such page."""
        pattern = self.patterns[name].replace(ID, quote(key, safe="", errors="replace"))
        return f"{self.frontend_url.rstrip('/')}{pattern}" if pattern.startswith("/") else pattern

    def replace(self, name: str, url: str) -> str:
        """A URL of the backend as the settings want it; any other URL unchanged."""
        if not url:
            return url
        root = self.frontend_url.rstrip("/")
        path = url[len(root) :] if url.startswith(root) else _local_path(url)
        match = BACKEND_PATHS[name].fullmatch(path) if name in BACKEND_PATHS else None
        if match is None:
            return url
        pattern = self.patterns[name].replace(ID, match[1] if match.groups() else "")
        return f"{root}{pattern}" if pattern.startswith("/") else pattern

    def task(self, task_id: str) -> str:
        return self.url("task", task_id)

    @property
    def tasks(self) -> str:
        return self.url("tasks")

    @property
    def overdue(self) -> str:
        return self.url("overdue")

    @property
    def analytics(self) -> str:
        return self.url("analytics")

    @property
    def settings(self) -> str:
        return self.url("settings")


def _local_path(url: str) -> str:
    """The path of a URL of a backend that does not know its public address."""
    if "://localhost" not in url and "://127.0.0.1" not in url:
        return ""
    parts = urlsplit(url)
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    return path if parts.hostname in LOCAL_HOSTS else ""
