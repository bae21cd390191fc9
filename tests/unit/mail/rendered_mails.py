"""Job data for the tests of `mail`, made from the samples."""

from __future__ import annotations

from typing import Any

import msgspec

from flowstate_daemon.mail.kinds import MailRequest, parse_request
from flowstate_daemon.mail.render import Brand
from tests.support.mail_samples import SAMPLES

TO = "ada@example.org"
BRAND = Brand("FlowState <hello@flowstate.example>", "FlowState", "https://flowstate.example")


def job_data(kind: str, *, to: Any = TO, without: str = "", **changes: Any) -> bytes:
    """A sample of this kind as a producer would write it, with some fields changed or one left out."""
    context = {**SAMPLES[kind], **changes}
    context.pop(without, None)
    return msgspec.json.encode({"type": kind, "to": to, "context": context})


def sample(kind: str, **changes: Any) -> MailRequest:
    return parse_request(kind, job_data(kind, **changes))
