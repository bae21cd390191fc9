"""Keyed hashes in place of addresses: a list can keep an entry of a person whose address must not be stored.

Without the secret it cannot be found out whose entry it is, or whether an address is in the list.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence

MARK = "#"  # no address starts with it and lacks an @
PURPOSE = b"flowstate-daemon: forgotten recipient\0"


class Pseudonyms:
    """Pseudonyms under each secret of a list; the first one makes new ones, the others find older ones."""

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        self._secrets = tuple(secret.encode() for secret in secrets)

    @property
    def available(self) -> bool:
        return bool(self._secrets)

    def of(self, address: str) -> list[str]:
        """All pseudonyms of a normalised address, the current one first; none without a secret."""
        return [f"{MARK}{_digest(secret, address)}" for secret in self._secrets]


def _digest(secret: bytes, address: str) -> str:
    return hmac.digest(secret, PURPOSE + address.encode("utf-8", "replace"), "sha256").hex()
