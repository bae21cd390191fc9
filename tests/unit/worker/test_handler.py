"""What the handler makes of a job's own timestamp."""

from __future__ import annotations

from typing import cast

import pytest

from flowstate_daemon.mail.render import Renderer
from flowstate_daemon.mail.unsubscribe_links import PATH, LinkTokenCodec, UnsubscribeLinks
from flowstate_daemon.queue.decode import decode_job
from flowstate_daemon.sending.dispatcher import Dispatcher
from flowstate_daemon.worker.handler import MailHandler
from tests.support.clock import FakeClock
from tests.unit.mail.rendered_mails import BRAND, job_data, sample

CODEC = LinkTokenCodec(["a secret of more than thirty-two characters"])
DAY_MS = 86_400_000


@pytest.mark.parametrize(
    "written", [b"0", b"NaN", b"-5", b"1e300", b"", b"Infinity", b"seconds", b"long ago", b"later"]
)
async def test_link_works_whatever_the_timestamp_of_the_job(clock: FakeClock, written: bytes) -> None:
    """The link of an email that is sent now works for a year, and each attempt of the day has the same one."""
    now_ms = clock.now_ms()
    relative = {b"seconds": now_ms // 1000, b"long ago": now_ms - 500 * DAY_MS, b"later": now_ms + 500 * DAY_MS}
    timestamp = b"%d" % relative[written] if written in relative else written
    data = job_data("task-reminder")
    job = decode_job([b"task-reminder", data, b"{}", timestamp, b"0", b"5", None, None, None, b"7"], 1_000_000)
    handler = MailHandler(
        Renderer(BRAND, UnsubscribeLinks("https://mail.example", CODEC)), cast("Dispatcher", None), None, clock
    )
    links = set()
    for _ in range(2):
        mail = handler._make_outgoing(job, sample("task-reminder"), urgent=False)
        mail.render()
        links.add(mail.email.headers["List-Unsubscribe"])
    (link,) = links
    token = link.strip("<>").partition(PATH)[2]
    assert CODEC.decode(token, now_ms + 365 * DAY_MS).kind == "task-reminder"
