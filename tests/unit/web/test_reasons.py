"""Every reason, error, result and problem of the daemon's source has a translation; what others say has none."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from jinja2 import Environment, nodes

from flowstate_daemon.base.redaction import redact_codes, redact_text
from flowstate_daemon.daemon.risk_monitor import LEDGER_RISK
from flowstate_daemon.database import pool
from flowstate_daemon.delivery.transport import EXCEPTION_RESULTS
from flowstate_daemon.redis_client import errors as redis_errors
from flowstate_daemon.web.dashboard.reasons import PLACEHOLDER, ReasonTranslator
from flowstate_daemon.web.dashboard.rendering import LOCALES, load_reasons, load_texts
from tests.support.source_strings import ROOT, VARYING, SourceModule, find_subclasses, load_module

PACKAGE = ROOT / "flowstate_daemon"
# Modules whose texts no page shows.
NOT_SHOWN = {
    **dict.fromkeys(("cli", "dev"), "commands are in English"),
    "web/api_v1": "answers of the API",
    "delivery/webhooks.py": "answers to the provider",
    "web/unsubscribe.py": "a page for recipients, which has its own texts",
    "database/ledger.py": "malformed entries of the journal, which are logged",
    "queue/encode.py": "errors of a program that adds jobs",
    "queue/repeat.py": "the end of a repeatable job, which is logged",
}
SOURCES = tuple(
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if not any(path == PACKAGE / place or (PACKAGE / place) in path.parents for place in NOT_SHOWN)
)
# Errors that end the process or a command, or are an answer of the API or to a recipient.
UNSHOWN_ERRORS = {
    *("FlowstateError", "ConfigError", "ServiceCrashedError", "HttpPortError", "ApiError", "KeyReusedError"),
    *("InvalidLinkError", "ExpiredLinkError", "ForgedLinkError", "InvalidSignatureError", "StaleTimestampError"),
}
# What makes a text that a page shows, and which argument it is: reasons, errors, health, risks.
CALLS = {
    **dict.fromkeys(find_subclasses(PACKAGE, "FlowstateError") - UNSHOWN_ERRORS, 0),
    "NothingToSend": 0,
    "Rejected": 0,
    "report_error": 0,
    "set_condition": 1,
    "set_warning": 1,
    "hold_bulk": 1,
    "Risk": 1,
    "Workers": 1,
    "Decision": 2,
    "_raise_for_code": 2,
}
REMEDY_OF_RISK = 2
# Arguments that hold a reason which was made elsewhere, by one of the calls above or by the provider.
PASSED_ON = {
    *("__init__: message.replace('`$', f'`{root}')", "batch: row['reason']", "responses: reason"),
    *("__init__: name", "request_recorder: str(error)", "errors: f'Redis: {text}; {remedy}'.removesuffix('; ')"),
    *("service: outage.reason", "daemon: outage.reason", "send_gate: reason", "send_gate: self.refusal"),
    "inspector: workers.note",
    *(
        "batch_sender: error.reason",
        "batch_sender: result.reason",
        "eligibility: built.reason",
        "enqueuer: error.reason",
    ),
    *("executor: job.invalid_reason", "handler: foreign.reason", "outbox: results[0].reason", "reconciler: reason"),
    *("responses: rejections[index]", "scheduled_mail: redact_and_trim(decision.reason)", "transport: shortage"),
}
# By Bull, which the daemon also writes in its place, by the library that checks types, and by Redis' client.
OF_OTHERS = (
    "Redis: {}",
    "Error {} connecting to {}. {}",
    "Timeout connecting to server",
    "Connection closed by server",
    "job stalled more than allowable limit",
    "Expected `{}`, got `{}`",
    "Expected {}",
    "Missing process handler for job type {}",
)
NAMES_OF_TEXTS = {"error", "reason", "failed_reason", "waiting_for", "note", "notes", "problem", "warning", "line"}
SAMPLE = "x7"
TRANSLATOR = ReasonTranslator(load_reasons("fr"))


def passed_to_calls(module: SourceModule) -> list[str]:
    remedies = module.texts_of({"Risk"}, {"Risk": REMEDY_OF_RISK})
    return [*module.texts_of(CALLS, CALLS), *(f"{{}}; {remedy}" for remedy in remedies)]


def reasons() -> Iterator[str]:
    """Every text of the source that a page shows and that is not a page's own, with `{}` for what varies."""
    for path in SOURCES:
        yield from passed_to_calls(load_module(path))
        yield from load_module(path).texts_of_constants("_REASON")
    yield from (re.sub(r"\{[^}]*\}", VARYING, reason) for *_, reason in EXCEPTION_RESULTS)
    yield from (
        f"Expected {text}" for text in load_module(PACKAGE / "mail/field_types.py").texts_of({"ValueError"}, {})
    )
    yield from (f"{{}}; {remedy}" for remedy in store_remedies() if remedy)
    yield from (f"{{}}; next try {when}" for when in load_module(PACKAGE / "base/health.py").texts_assigned_to("when"))
    for name, function in (
        ("scheduler/reconciler.py", "missing_job_reason"),
        ("delivery/transport.py", "_local_cause"),
        ("database/planning.py", "_existing"),
        ("queue/admin.py", "_removed_by"),
        ("queue/bullmq.py", "reason"),
        ("queue/job.py", "_invalid_reason"),
        ("queue/decode.py", "_invalid_reason"),
        ("queue/decode.py", "_timeout"),
        ("web/dashboard/emails.py", "_render"),
    ):
        yield from load_module(PACKAGE / name).texts_returned_by(function)
    yield from (f"{{}}: {text}" for text in load_module(PACKAGE / "queue/bullmq.py").texts_returned_by("remedy"))
    for text in load_module(PACKAGE / "base/shared_clock.py").texts_returned_by("_differences"):
        yield from (text, f"{{}}; {text}")
    yield from load_module(PACKAGE / "queue/decode.py").texts_assigned_to("invalid_reason")
    yield from load_module(PACKAGE / "queue/bullmq.py").texts_assigned_to("jobs")
    yield from load_module(PACKAGE / "queue/lease.py").texts_assigned_to("address")
    yield from load_module(PACKAGE / "queue/inspector.py").texts_of({"append"}, {})
    yield from load_module(PACKAGE / "operations/failures.py").texts_assigned_to("safe")
    yield from OF_OTHERS


def store_remedies() -> Iterator[str]:
    """What an operator can do about an error of Redis or Postgres."""
    for table in (redis_errors.REMEDIES, redis_errors.TLS_HINTS, pool.REMEDIES):
        yield from (remedy for _, remedy in table)
    yield from load_module(PACKAGE / "redis_client/errors.py").texts_returned_by("_remedy")


REASONS = sorted(
    {
        one.replace("job's {}", f"job's {what}")
        for one in reasons()
        if re.search("[a-z]", one)
        for what in ("data", "options")
    }
)


def test_the_source_is_searched() -> None:
    """The search finds reasons of every part, and every argument that it cannot follow is known."""
    assert len(REASONS) > 200
    for known in ("the account is deleted", "this scheduled email was already settled: {}", "removed by {}"):
        assert known in REASONS
    modules = [load_module(path) for path in SOURCES]
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


@pytest.mark.parametrize(
    "health",
    [
        "Redis: Error 111 connecting to 127.0.0.1:6379. Connect call failed; is Redis running, and is REDIS_URL right?",
        "Resend: API key is invalid (401); correct RESEND_API_KEY; next try in 12 s",
        (
            "the clock of this machine is 40 s ahead of that of Redis; the clock of Postgres is 9 s behind "
            "that of Redis: "
            "nothing is planned, and codes do not expire; synchronize the clocks of all machines (chrony, "
            "systemd-timesyncd)"
        ),
        (
            "BullMQ (bullmq:5.1.0) writes under bull:email:, which is a queue of Bull; 3 jobs wait where no "
            "Bull worker "
            "looks: use npm bull in the backend, or another queue name for BullMQ; after that, delete a, b, c and d"
        ),
        (
            "BullMQ writes under bull:email:, which is a queue of Bull: use npm bull in the backend, or "
            "another queue name "
            "for BullMQ; after that, delete a, b, c and d"
        ),
        (
            "waiting for the lease: instance id 'a' is held by another running daemon connected from "
            "10.0.0.7:4242: stop "
            "that daemon, or set another FLOWSTATE_QUEUE_INSTANCE_ID for this one"
        ),
        (
            "waiting for the lease: instance id 'a' is held by another running daemon: stop that daemon, or "
            "set another "
            "FLOWSTATE_QUEUE_INSTANCE_ID for this one"
        ),
        (
            "no job was ever added to bull:email; compare FLOWSTATE_QUEUE_PREFIX, FLOWSTATE_QUEUE_NAME and "
            "REDIS_URL with "
            "the backend's Bull; FlowState's backend uses database 0, whatever number its REDIS_URL has"
        ),
    ],
)
def test_texts_made_of_several_are_translated_whole(health: str) -> None:
    """An outage with its remedy and its next try: no part stays English but what others say."""
    shown = re.sub("API key is invalid|Connect call failed", "", TRANSLATOR.translate(health))
    assert not re.search(r"\b(the|is|are|with|in|of|and|for|to|wait|next|try|connecting)\b", shown), shown


def test_conditions_have_names() -> None:
    """Every condition that makes a daemon not ready has a name in both languages; services are named as everywhere."""
    names = set().union(
        *(load_module(path).texts_of({"set_condition"}, {}) for path in SOURCES),
        *(load_module(path).texts_of_constants("CONDITION") for path in SOURCES),
        {"draining", LEDGER_RISK.name},
    )
    for locale in LOCALES:
        assert load_texts(locale)["condition"].keys() == names


def printed_names(node: nodes.Node) -> Iterator[str]:
    """The last names of the values that an output of a template prints as they are; filters change nothing of that."""
    match node:
        case nodes.Filter(name=name, node=inner) if inner is not None and name != "urlencode":
            yield from printed_names(inner)
        case nodes.CondExpr(expr1=first, expr2=second) | nodes.Or(left=first, right=second):
            yield from (name for one in (first, second) if one is not None for name in printed_names(one))
        case nodes.Getattr(attr=name) | nodes.Name(name=name):
            yield name


def test_templates_translate_every_text_of_the_daemon() -> None:
    """No template prints an error, a reason, a note or a warning of the daemon as it is."""
    printed, translated = set(), 0
    for path in (PACKAGE / "web/dashboard/templates").glob("*.html"):
        tree = Environment(autoescape=True).parse(path.read_text(encoding="utf-8"))
        printed |= {
            (path.name, name)
            for output in tree.find_all(nodes.Output)
            for node in output.nodes
            for name in printed_names(node)
        }
        calls = [call.node.name for call in tree.find_all(nodes.Call) if isinstance(call.node, nodes.Name)]
        translated += sum(name in {"explain", "safe_reason", "advice"} for name in calls)
    assert translated > 20
    assert {one for one in printed if one[1] in NAMES_OF_TEXTS} == {
        ("recipient.html", "problem"),  # a text of the page
        ("recipient.html", "note"),  # written by an operator
        ("emails.html", "reason"),  # of the filter
    }


@pytest.mark.parametrize("locale", ["en", "fr"])
def test_every_check_has_a_name(locale: str) -> None:
    """Every check and result of a decision in the source has a text on the pages."""
    names = load_texts(locale)["check"]
    for path in SOURCES:
        for position in (0, 1):
            texts = load_module(path).texts_of({"Decision"}, {"Decision": position})
            assert {text for text in texts if text} <= names.keys(), path
