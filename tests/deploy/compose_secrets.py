"""The secrets of docker-compose.yml, made by the commands of docs/container.md."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.docs.pages import PAGES


def create_secrets(folder: Path) -> dict[str, str]:
    """Run the commands of the page in a folder; the text of each file."""
    (commands,) = (block.text for block in PAGES["docs/container.md"].blocks if "mkdir -p secrets" in block.text)
    subprocess.run(["bash", "-euo", "pipefail", "-c", commands], cwd=folder, check=True)
    return {file.name: file.read_text() for file in (folder / "secrets").iterdir()}


def redis_users(backend: str, mailer: str) -> str:
    """The users of Redis as on the page, with these passwords."""
    (commands,) = (block.text for block in PAGES["docs/container.md"].blocks if "mkdir -p secrets" in block.text)
    match = re.search(r"secrets/redis_users <<END\n(.*?)\nEND", commands, re.DOTALL)
    assert match is not None
    return match[1].replace("$backend", backend).replace("$redis", mailer) + "\n"
