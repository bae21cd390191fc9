"""What the tests of the installation read: the pinned packages, and which settings are secrets."""

from __future__ import annotations

import re
from pathlib import Path

from flowstate_daemon.config.loader import SECTIONS

ROOT = Path(__file__).parents[2]


def pinned_versions(name: str) -> list[str]:
    """Each package of a requirements file as `name==version`, in lower case and without its extras."""
    lines = (ROOT / name).read_text().splitlines()
    pins = [re.split(r" |\[", line)[0].lower() for line in lines if line and not line.startswith((" ", "#"))]
    return [re.sub(r"\[.*\]", "", pin) for pin in pins]


def is_secret(section: str, key: str) -> bool:
    """Whether a setting is a secret."""
    return "SecretStr" in str(SECTIONS[section].model_fields[key].annotation)
