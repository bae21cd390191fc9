"""What the provider reports about one mail, after it was taken. `delivery` reads it, `database` keeps it; pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Bounce = Literal["permanent", "transient", "undetermined"]


@dataclass(frozen=True, slots=True)
class ProviderEvent:
    """`svix_id` names the report itself, `provider_id` the mail; `type` is without `email.`, `at` in Unix ms.

    `suppress` is `bounced` or `complained` when the address must not be written to again.
    """

    svix_id: str
    provider_id: str
    type: str
    at: int
    address: str = field(repr=False)
    reason: str | None = None
    suppress: str | None = None
    bounce: Bounce | None = None
