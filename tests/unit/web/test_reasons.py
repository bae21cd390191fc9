"""Every reason that the daemon's source can store has a translation, and nothing else is translated."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from flowstate_daemon.base.redaction import redact_codes, redact_text
from flowstate_daemon.delivery.transport import EXCEPTION_RESULTS
from flowstate_daemon.web.dashboard.reasons import PLACEHOLDER, ReasonTranslator
from flowstate_daemon.web.dashboard.rendering import load_reasons, load_texts
from tests.support.source_strings import ROOT, VARYING, SourceModule, load_module

PACKAGE = ROOT / "flowstate_daemon"
# What makes a reason of its first argument; the third one of a decision is its reason.
CALLS = {
    *("MailSkipped", "MailExpired", "PermanentError", "InvalidDataError", "RetryableError", "MaybeSentError"),
    *("NothingToSend", "InvalidMailError", "UnclearRefusalError", "ProviderRefusedError", "QuotaExceededError"),
    *("ProviderUnreachableError", "Rejected", "Decision"),
}
SOURCES = (
    *(
        path
        for folder in ("mail", "scheduler", "worker", "sending", "delivery")
        for path in (PACKAGE / folder).rglob("*.py")
    ),
    *(PACKAGE / name for name in ("mail_producer.py", "base/address.py", "queue/backoff.py", "queue/job.py")),
)
NOT_STORED = {"webhooks"}  # modules whose errors are answers to a request
# Arguments that hold a reason which was made elsewhere, by one of the calls above or by the provider.
PASSED_ON = {
    *("__init__: message.replace('`$', f'`{root}')", "batch: row['reason']", "responses: reason"),
    *(
        "batch_sender: error.reason",
        "batch_sender: result.reason",
        "eligibility: built.reason",
        "enqueuer: error.reason",
    ),
    *("executor: job.invalid_reason", "handler: foreign.reason", "outbox: results[0].reason", "reconciler: reason"),
    *("responses: rejections[index]", "scheduled_mail: redact_and_trim(decision.reason)", "transport: shortage"),
}
# By Bull, which the daemon also writes in its place, and by the library that checks types.
OF_OTHERS = (
    "job stalled more than allowable limit",
    "Expected `{}`, got `{}`",
    "Expected {}",
    "Missing process handler for job type {}",
)
SAMPLE = "x7"
TRANSLATOR = ReasonTranslator(load_reasons("fr"))


def passed_to_calls(module: SourceModule) -> list[str]:
    return list(module.texts_of(CALLS, {"Decision": 2}))


def reasons() -> Iterator[str]:
    """Every reason of the source, with `{}` for what varies."""
    for path in SOURCES:
        if path.stem not in NOT_STORED:
            yield from passed_to_calls(load_module(path))
            yield from load_module(path).texts_of_constants("_REASON")
    yield from (re.sub(r"\{[^}]*\}", VARYING, reason) for *_, reason in EXCEPTION_RESULTS)
    yield from (
        f"Expected {text}" for text in load_module(PACKAGE / "mail/field_types.py").texts_of({"ValueError"}, {})
    )
    for name, function in (
        ("scheduler/reconciler.py", "missing_job_reason"),
        ("delivery/transport.py", "_local_cause"),
        ("database/planning.py", "_existing"),
        ("queue/admin.py", "_removed_by"),
        ("queue/job.py", "_invalid_reason"),
        ("queue/decode.py", "_invalid_reason"),
        ("queue/decode.py", "_timeout"),
        ("web/dashboard/emails.py", "_render"),
    ):
        yield from load_module(PACKAGE / name).texts_returned_by(function)
    yield from load_module(PACKAGE / "queue/decode.py").texts_assigned_to("invalid_reason")
    yield from load_module(PACKAGE / "operations/failures.py").texts_assigned_to("safe")
    yield from load_module(PACKAGE / "queue/bull_queue.py").texts_of_constants("_REASON")
    yield from OF_OTHERS


REASONS = sorted(
    {one.replace("job's {}", f"job's {what}") for one in reasons() if one.strip("{}") for what in ("data", "options")}
)


def test_the_source_is_searched() -> None:
    """The search finds reasons of every part, and every argument that it cannot follow is known."""
    assert len(REASONS) > 90
    for known in ("the account is deleted", "this scheduled email was already settled: {}", "removed by {}"):
        assert known in REASONS
    modules = [load_module(path) for path in SOURCES if path.stem not in NOT_STORED]
    for module in modules:
        module.unresolved.clear()
        passed_to_calls(module)
    assert {one for module in modules for one in module.unresolved} == PASSED_ON


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_translated(reason: str) -> None:
    """Whole, with its values, also after codes and addresses in it were redacted."""
    stored = reason.replace(VARYING, SAMPLE)
    for shown in (redact_text(stored), redact_codes(redact_text(stored))):
        translated = TRANSLATOR.translate(shown)
        longest = max(re.split(r"\{\}", reason), key=len)
        assert longest not in translated, translated
        assert translated.count(SAMPLE) == shown.count(SAMPLE)
        assert "{" not in translated


def test_every_translation_is_of_a_reason() -> None:
    """None is left over from a reason that has been reworded, and the values of both texts are the same."""
    patterns = [re.compile(re.escape(re.sub(r" - at `[^`]*`$", "", one)).replace(r"\{\}", ".+")) for one in REASONS]
    for english, french in load_reasons("fr").items():
        assert any(pattern.fullmatch(PLACEHOLDER.sub("{}", english)) for pattern in patterns), english
        assert sorted(PLACEHOLDER.findall(english)) == sorted(PLACEHOLDER.findall(french)), english
        assert not re.search(r"[^\u00a0]:(?:\s|$)|[^\u202f][;?!](?:\s|$)|'", PLACEHOLDER.sub("", french)), french


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        (
            "Expected 4 to 10 digits or letters - at `$.context.otpCode`",
            "Valeur attendue\u00a0: 4 à 10 chiffres ou lettres {dash} `$.context.otpCode`",
        ),
        (
            "this otp cannot be sent: Object missing required field `code` - at `$`",
            "cet e-mail (otp) ne peut pas être envoyé\u00a0: Champ obligatoire absent\u00a0: `code` {dash} `$`",
        ),
        (
            "Resend: The `to` field is invalid: no; check it (422); set RESEND_API_KEY",
            "Resend\u00a0: The `to` field is invalid: no; check it (422)\u202f; définissez RESEND_API_KEY",
        ),
        (
            "already skipped for that date: the account is deleted",
            "déjà traité pour cette date (skipped)\u00a0: le compte est supprimé",
        ),
        ("mailbox full", "mailbox full"),
        ("", ""),
        ("the account is deleted, says the provider", "the account is deleted, says the provider"),
        ("Resend: " + "x" * 2_000 + " (500)", "Resend: " + "x" * 2_000 + " (500)"),
    ],
)
def test_what_is_not_ours_stays_as_it_is(stored: str, shown: str) -> None:
    """The provider's words, in a reason of ours or alone; reasons in each other are all translated."""
    assert TRANSLATOR.translate(stored) == shown.replace("{dash}", "\N{EN DASH} dans")


def test_hostile_reason_costs_little() -> None:
    """Text of others that nearly matches many patterns is translated in a moment, or left."""
    for text in ("Resend: " * 60, "`" * 500, "; " * 250, ": (" * 160):
        assert TRANSLATOR.translate(text)


@pytest.mark.parametrize("locale", ["en", "fr"])
def test_every_check_has_a_name(locale: str) -> None:
    """Every check and result of a decision in the source has a text on the pages."""
    names = load_texts(locale)["check"]
    for path in SOURCES:
        for position in (0, 1):
            texts = load_module(path).texts_of({"Decision"}, {"Decision": position})
            assert {text for text in texts if text} <= names.keys(), path
