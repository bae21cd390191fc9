"""Emails written to a folder instead of sent."""

from __future__ import annotations

import asyncio
import json
import stat
from email import message_from_bytes
from email.policy import compat32, default
from pathlib import Path

import pytest

from flowstate_daemon.base.address import Mailbox
from flowstate_daemon.base.errors import PermanentError, ProviderRefusedError
from flowstate_daemon.delivery.gateway import Rejected
from flowstate_daemon.delivery.outbox import Outbox
from flowstate_daemon.delivery.resend_gateway import ResendGateway, ResendOptions
from tests.integration.delivery.conftest import build_request, mail, send
from tests.support.clock import FakeClock


@pytest.fixture
async def outbox(tmp_path: Path, clock: FakeClock) -> Outbox:
    outbox = Outbox(tmp_path / "deep" / "outbox", clock=clock)
    await outbox.open()
    return outbox


async def test_file_is_a_complete_email(outbox: Outbox) -> None:
    """An RFC 5322 message with both bodies, extra headers and the date of the clock."""
    email = mail(subject="Überfällig: 3 Aufgaben", text="Grüße\n", headers={"List-Unsubscribe": "<https://x.dev/u>"})
    accepted = await send(outbox, email, idempotency_key="k")
    content = outbox.path(accepted.provider_id).read_bytes()
    message = message_from_bytes(content, policy=default)
    assert accepted.provider == "outbox"
    assert (message["From"], message["To"]) == ("FlowState <hello@flowstate.dev>", "ada1@mail.dev")
    assert message["Subject"] == "Überfällig: 3 Aufgaben"
    assert message["Date"].datetime.isoformat() == "2026-03-02T08:00:00+00:00"
    assert message["List-Unsubscribe"] == "<https://x.dev/u>"
    assert message.get_content_type() == "multipart/alternative"
    assert message.get_body(("plain",)).get_content().strip() == "Grüße"
    assert message.get_body(("html",)).get_content().strip() == "<p>Hello 1</p>"
    assert b"\n" not in content.replace(b"\r\n", b"")


@pytest.mark.parametrize("reply_to", ["", "FlowState Help <help@flowstate.dev>"])
async def test_address_for_replies(outbox: Outbox, reply_to: str) -> None:
    """It is a header of the file, and a member of the provider's request; without it there is neither."""
    email = mail(reply_to=reply_to)
    accepted = await send(outbox, email, idempotency_key="k")
    message = message_from_bytes(outbox.path(accepted.provider_id).read_bytes(), policy=default)
    assert message["Reply-To"] == (reply_to or None)
    request = json.loads(ResendGateway(ResendOptions("re_key")).encode(email))
    assert request.get("reply_to", "") == reply_to


async def test_long_link_in_a_header_is_not_folded(outbox: Outbox) -> None:
    """The unsubscribe link is in its header as it is, neither folded nor encoded."""
    link = f"<https://mail.flowstate.dev/unsubscribe/{'A-_9' * 120}>"
    accepted = await send(outbox, mail(headers={"List-Unsubscribe": link}), idempotency_key="k")
    content = outbox.path(accepted.provider_id).read_bytes()
    assert f"\r\nList-Unsubscribe: {link}\r\n".encode() in content


ATTACKS = (
    "=?utf-8?q?Hello=0D=0ABcc:_eve@mail.dev?=",
    "=?utf-8?q?Hello=0D=0A=0D=0AAnother_body?=",
    "=?utf-8?b?SGVsbG8NCkJjYzogZXZlQG1haWwuZGV2?=",
    "=?iso-8859-1?q?=0A?= =?utf-8?q?Bcc:_eve@mail.dev?=",
    "=?utf-8?q?=E2=80=A8Bcc:_eve@mail.dev?=",
    "a =?utf-8?q?=00?= é",
    "=?utf-8?q?unfinished",
)


def without_spaces(text: str) -> str:
    """Python's parser keeps the spaces between the encoded words of a long name, unlike RFC 2047."""
    return "".join(text.split())


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("field", ["Subject", "List-Unsubscribe", "X-Flowstate-Kind", "From"])
async def test_encoded_word_in_a_header_adds_nothing(outbox: Outbox, field: str, attack: str) -> None:
    """A value that looks encoded is shown as it is: no reader finds another field or another body in the file."""
    changes: dict[str, object] = {
        "Subject": {"subject": attack},
        "List-Unsubscribe": {"headers": {field: attack}},
        "X-Flowstate-Kind": {"kind": attack},
        "From": {"sender": str(Mailbox(attack, "hello@flowstate.dev"))},
    }[field]
    accepted = await send(outbox, mail(**changes), idempotency_key="k")
    content = outbox.path(accepted.provider_id).read_bytes()
    plain = await send(outbox, mail(headers={"List-Unsubscribe": "x"}), idempotency_key="plain")
    expected = message_from_bytes(outbox.path(plain.provider_id).read_bytes(), policy=default).keys()
    for policy in (default, compat32):
        message = message_from_bytes(content, policy=policy)
        assert set(message.keys()) <= set(expected)
        assert "Bcc" not in message
        assert len([part for part in message.walk() if not part.is_multipart()]) == 2
    message = message_from_bytes(content, policy=default)
    shown = message[field].addresses[0].display_name if field == "From" else str(message[field])
    assert without_spaces(shown) == without_spaces(attack)
    assert not any(line.lower().startswith(b"bcc") for line in content.splitlines())


@pytest.mark.parametrize(
    "name", ["Équipe FlowState", "🚀", "Flow, Inc.", "é" * 80, "チーム " * 20, 'a "quoted" \\ name', "=?utf-8?q?x?="]
)
async def test_sender_and_subject_in_any_language(outbox: Outbox, name: str) -> None:
    """A reader of the file sees the name and the title as they were written, however long."""
    email = mail(sender=str(Mailbox(name.strip(), "hello@flowstate.dev")), subject=name.strip())
    accepted = await send(outbox, email, idempotency_key="k")
    content = outbox.path(accepted.provider_id).read_bytes()
    message = message_from_bytes(content, policy=default)
    assert without_spaces(message["From"].addresses[0].display_name) == without_spaces(name)
    assert message["From"].addresses[0].addr_spec == "hello@flowstate.dev"
    assert message["Subject"] == name.strip()
    content.partition(b"\r\n\r\n")[0].decode("ascii")


async def test_same_key_writes_one_file(outbox: Outbox) -> None:
    """Requests with one key, also concurrent ones, leave one complete file; other keys have their own files."""
    same_key = await asyncio.gather(*(send(outbox, mail(), idempotency_key="k") for _ in range(10)))
    other = await send(outbox, mail(), idempotency_key="another")
    assert len(set(same_key)) == 1
    files = sorted(path.name for path in outbox.folder.iterdir())
    assert files == sorted(f"{accepted.provider_id}.eml" for accepted in (same_key[0], other))
    assert outbox.path(same_key[0].provider_id).read_bytes().endswith(b"--\r\n")


async def test_only_the_owner_can_read_the_files(outbox: Outbox) -> None:
    """Emails contain codes."""
    accepted = await send(outbox, mail(), idempotency_key="k")
    assert stat.S_IMODE(outbox.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(outbox.path(accepted.provider_id).stat().st_mode) == 0o600


async def test_key_with_path_parts_stays_in_the_folder(outbox: Outbox) -> None:
    """A key cannot escape the folder."""
    accepted = await send(outbox, mail(), idempotency_key="../../etc/passwd\x00")
    assert outbox.path(accepted.provider_id).parent == outbox.folder
    assert len(list(outbox.folder.iterdir())) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"subject": "a\r\nBcc: eve@mail.dev"},
        {"to": "a@b.dev\nBcc: eve@mail.dev"},
        {"headers": {"X-A": "a\nb"}},
        {"headers": {"X-A": "a\x0bb"}},
        {"headers": {"X-A\r\nBcc": "b"}},
        {"headers": {"X-A:": "b"}},
        {"kind": "a\r\nBcc: eve@mail.dev"},
        {"sender": "a\r\nBcc: eve@mail.dev <a@b.dev>"},
        {"sender": "a@b.dev, eve@mail.dev"},
        {"to": "=?utf-8?q?a=0D=0ABcc?=@mail.dev"},
        {"to": "a@b.dev, eve@mail.dev"},
        {"to": "Eve <eve@mail.dev>"},
        {"text": "\ud800"},
    ],
)
async def test_invalid_mail_is_a_permanent_error(outbox: Outbox, changes: dict[str, object]) -> None:
    """Injected header lines and invalid text are rejected, and no file is left behind."""
    with pytest.raises(PermanentError):
        await send(outbox, mail(**changes), idempotency_key="k")
    assert list(outbox.folder.iterdir()) == []


async def test_each_mail_of_a_batch_has_its_own_result(outbox: Outbox) -> None:
    """The email that cannot be written is rejected; the others have their files."""
    path, body = build_request(outbox, mail(0), mail(1, subject="a\nb"), mail(2))
    first = await outbox.send(path, body, "k", 3)
    assert [isinstance(result, Rejected) for result in first.results] == [False, True, False]
    assert await outbox.send(path, body, "k", 3) == first
    assert len(list(outbox.folder.iterdir())) == 2


async def test_unusable_folder_is_provider_refused(tmp_path: Path) -> None:
    """A file in place of the folder, or a missing folder, is not the fault of an email."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ProviderRefusedError):
        await Outbox(tmp_path / "file").open()
    with pytest.raises(ProviderRefusedError):
        await send(Outbox(tmp_path / "gone"), mail(), idempotency_key="k")
