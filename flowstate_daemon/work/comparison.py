"""What another worker did with a job, beside what this daemon would have done. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from flowstate_daemon.queue.onlooker import Sign
from flowstate_daemon.work.rehearsal import Verdict

LONGEST_REASON = 300
NOT_SENT = ("skipped", "expired")  # what a daemon of ours answers for a mail that it did not send


@dataclass(frozen=True, slots=True)
class Deed:
    """What the other worker did: `sent`, `failed`, `skipped` or `expired`, and its reason."""

    did: str
    reason: str | None = None


def deed_of(sign: Sign) -> Deed:
    """What an end means. A worker that completes a job has sent its mail, unless its result says otherwise."""
    if sign.what == "failed":
        return Deed("failed", sign.words[:LONGEST_REASON] or None)
    result = _result(sign.words)
    for word in NOT_SENT:
        if isinstance(result, dict) and word in result:
            return Deed(word, str(result[word])[:LONGEST_REASON])
    return Deed("sent")


def agree(verdict: Verdict, deed: Deed) -> bool:
    """Whether the person gets the mail from both, or from neither."""
    return (verdict.would == "send") == (deed.did == "sent")


def _result(words: str) -> Any:
    try:
        return msgspec.json.decode(words.encode("utf-8", "replace"))
    except msgspec.DecodeError:
        return None
