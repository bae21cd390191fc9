"""Misconfigurations without an error, in the settings or a datastore: for `check`, the log and `/health/ready`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Risk:
    """`name` is the same everywhere. `affects_mails`: emails go wrong already, so `/health/ready` lists it."""

    name: str
    finding: str
    remedy: str
    affects_mails: bool = True
