"""What looks healthy and is not: found in the configuration or at a store, shown by `check`, the log and ready."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Risk:
    """`name` is the same in every place. `affects_mails`: emails go wrong already, so ready's body names it."""

    name: str
    finding: str
    remedy: str
    affects_mails: bool = True
