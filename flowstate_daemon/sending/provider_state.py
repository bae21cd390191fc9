"""Whether the provider accepts emails, as one daemon knows it: one truth for every place that shows it."""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["accepting", "refused", "circuit_open", "quota_exceeded"]


class ProviderState(msgspec.Struct, frozen=True):
    """`next_probe_ms` is the time until the next try when the state was read; None: none is planned."""

    state: State = "accepting"
    reason: str = ""
    next_probe_ms: int | None = None
    instance: str = ""

    @property
    def is_accepting(self) -> bool:
        return self.state == "accepting"


ACCEPTING = ProviderState()
