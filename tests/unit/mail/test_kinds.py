"""The nine kinds of email, and the parsing of job data."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from flowstate_daemon.base.errors import InvalidDataError, PermanentError, RetryableError
from flowstate_daemon.mail.field_types import MAX_TEXT_LENGTH
from flowstate_daemon.mail.kinds import KINDS, UnknownKindError, find_mistakes, parse_request
from flowstate_daemon.mail.render import Renderer
from flowstate_daemon.mail.samples import preview_contexts
from tests.support.mail_samples import SAMPLES
from tests.unit.mail.rendered_mails import BRAND, TO, job_data, sample

RENDERER = Renderer(BRAND)


def refusal(name: str, data: bytes) -> str:
    with pytest.raises(InvalidDataError) as caught:
        parse_request(name, data)
    return caught.value.reason


def test_kinds_have_the_priorities_of_the_backend() -> None:
    """Kinds and priorities are those that FlowState's backend uses."""
    assert {name: kind.priority for name, kind in KINDS.items()} == {
        "otp": 1,
        "password-reset": 1,
        "welcome": 5,
        "project-invitation": 5,
        "task-reminder": 5,
        "overdue-summary": 5,
        "goal-milestone": 10,
        "streak-milestone": 10,
        "focus-report": 10,
    }
    assert {name for name, kind in KINDS.items() if kind.urgent} == {"otp", "password-reset"}
    assert {name for name, kind in KINDS.items() if kind.secret_fields} == {"otp", "password-reset"}


def test_unsubscribable_kinds() -> None:
    """Scheduled emails and milestones can be unsubscribed from; replies to an action of the user cannot."""
    assert {name for name, kind in KINDS.items() if not kind.unsubscribable} == {
        "otp",
        "password-reset",
        "welcome",
        "project-invitation",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_parse_request_when_sample(kind: str) -> None:
    """Each kind has a sample, and all its fields are parsed."""
    request = parse_request(kind, job_data(kind))
    assert (request.kind, request.to) == (kind, TO)
    assert set(SAMPLES) == set(KINDS)
    parsed = {"averageMood", "topTasks", "overdueTasks", "recentTasks"}  # tests/unit/mail/test_backend_text.py
    for field in msgspec.structs.fields(request.context):
        if field.encode_name in parsed:
            continue
        expected = SAMPLES[kind].get(field.encode_name, field.default)
        assert getattr(request.context, field.name) == expected


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("fr", "fr"),
        ("fr-CA", "fr"),
        ("FR_fr", "fr"),
        ("en", "en"),
        ("tlh", None),
        ("", None),
        (7, None),
        (["fr"], None),
    ],
)
def test_parse_request_when_locale_given(written: Any, read: str | None) -> None:
    """Regions are ignored; an unsupported or invalid language means none."""
    data = msgspec.json.decode(job_data("welcome")) | {"locale": written}
    assert parse_request("welcome", msgspec.json.encode(data)).locale == read


def test_samples_link_to_the_frontend_given() -> None:
    """Each link of the samples starts with the address of the application that they are made for."""
    for context in preview_contexts("http://localhost:4200/").values():
        for name, value in context.items():
            if name.endswith("Url"):
                assert value.startswith("http://localhost:4200/")
                assert "//" not in value.removeprefix("http://")


@pytest.mark.parametrize("missing", ["null", "blank", "absent"])
@pytest.mark.parametrize(
    ("kind", "field", "name", "default"),
    [
        ("otp", "expiresIn", "expires_in", "10 minutes"),
        ("welcome", "name", "name", "User"),
        ("task-reminder", "userName", "user_name", "there"),
        ("task-reminder", "projectName", "project_name", ""),
        ("task-reminder", "estimatedTime", "estimated_time", 0),
        ("project-invitation", "projectDescription", "project_description", ""),
    ],
)
def test_parse_request_when_optional_field_missing(
    missing: str, kind: str, field: str, name: str, default: Any
) -> None:
    """A field with a default may be absent, null or blank."""
    if missing == "absent":
        request = sample(kind, without=field)
    elif missing == "blank" and isinstance(default, str):
        request = sample(kind, **{field: "  "})
    else:
        request = sample(kind, **{field: None})
    assert getattr(request.context, name) == default


def test_parse_request_when_unknown_fields() -> None:
    """Unknown fields in the data and the context are ignored."""
    data = msgspec.json.decode(job_data("welcome", plan={"deep": [1, None]}))
    assert parse_request("welcome", msgspec.json.encode({**data, "traceId": 7})).context == sample("welcome").context


def test_parse_request_when_type_missing() -> None:
    """Without a type in the data the job's name is the kind."""
    data = msgspec.json.decode(job_data("welcome"))
    for kind in (None, ...):
        data = {**data, "type": None} if kind is None else {k: v for k, v in data.items() if k != "type"}
        assert parse_request("welcome", msgspec.json.encode(data)).kind == "welcome"


@pytest.mark.parametrize(
    ("written", "read"), [("45", 45), ("45.0", 45), ("44.5", 45), ("44.49", 44), ("0", 0), ("100.00000000000001", 100)]
)
def test_parse_request_when_progress_is_fractional(written: str, read: int) -> None:
    """Progress is rounded as in JavaScript, so that the email shows what the application shows."""
    data = job_data("goal-milestone", progress=987654).replace(b"987654", written.encode())
    assert parse_request("goal-milestone", data).context.progress == read


def test_integral_floats_are_counts() -> None:
    """12.0 is a count, 12.5 is not."""
    assert sample("streak-milestone", streakDays=12.0).context.streak_days == 12
    reason = refusal("streak-milestone", job_data("streak-milestone", streakDays=12.5))
    assert reason == "Expected `int`, got `float` - at `$.context.streakDays`"


@pytest.mark.parametrize(
    ("kind", "field", "value", "expected"),
    [
        ("goal-milestone", "progress", "45", "Expected `int | float`, got `str`"),
        ("goal-milestone", "progress", None, "Expected `int | float`, got `null`"),
        ("goal-milestone", "progress", True, "Expected `int | float`, got `bool`"),
        ("goal-milestone", "totalTasks", -1, "Expected `int` >= 0"),
        ("goal-milestone", "totalTasks", 10**12, "Expected `int` <= 1000000000"),
        ("task-reminder", "taskTitle", 7, "Expected `str`, got `int`"),
        ("task-reminder", "taskTitle", None, "Expected `str`, got `null`"),
        ("otp", "otpCode", 493027, "Expected `str`, got `int`"),
        ("otp", "otpCode", "", "Expected 4 to 10 digits or letters"),
        ("otp", "otpCode", "123", "Expected 4 to 10 digits or letters"),
        ("otp", "otpCode", "12345678901", "Expected 4 to 10 digits or letters"),
        ("otp", "otpCode", "12345\n", "Expected 4 to 10 digits or letters"),
        ("otp", "otpCode", "١٢٣٤٥٦", "Expected 4 to 10 digits or letters"),
        ("project-invitation", "acceptUrl", "", "Expected an http or https address"),
    ],
)
def test_parse_request_when_value_invalid(kind: str, field: str, value: Any, expected: str) -> None:
    """A required value that is wrong fails the job; the error contains the expected value and the path."""
    assert refusal(kind, job_data(kind, **{field: value})) == f"{expected} - at `$.context.{field}`"


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        " JavaScript:alert(1)",
        "java\nscript:alert(1)",
        "data:text/html,<script>",
        "ftp://flowstate.example/x",
        "/tasks/1",
        "//evil.example",
        "undefined/tasks/1",
        "https://",
        "https:///tasks",
        "https://flowstate.example@evil.example/",
        "https://flowstate.example\\@evil.example/",
        "https://flowstate.example/a b",
        "https://flowstate.example/\r\nX: y",
        "https://flowstate.example/\u202egpj",
        'https://flowstate.example"onclick="x',
    ],
)
def test_parse_request_when_url_invalid(url: str) -> None:
    """Only http and https URLs are links: a required one fails the job, an optional one is dropped."""
    reason = refusal("project-invitation", job_data("project-invitation", acceptUrl=url))
    assert reason.endswith("at `$.context.acceptUrl`")
    for kind, field, name in (
        ("task-reminder", "taskUrl", "task_url"),
        ("goal-milestone", "goalUrl", "goal_url"),
    ):
        assert getattr(sample(kind, **{field: url}).context, name) == ""


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:4200/tasks/1",
        "https://flowstate.example",
        "HTTPS://FlowState.example/a?b=c&d=é#e",
        "https://[::1]:8443/",
        "https://bücher.example/x?next='y'",
    ],
)
def test_parse_request_when_url_valid(url: str) -> None:
    """A URL is neither normalised nor shortened."""
    assert sample("project-invitation", acceptUrl=url).context.accept_url == url


def test_parse_request_when_title_has_line_breaks() -> None:
    """A title with line breaks, tabs or direction overrides becomes one line; a description keeps its lines."""
    request = sample("task-reminder", taskTitle="  Buy\r\nmilk\tand\u2028bread \u202eevil\n")
    assert request.context.task_title == "Buy milk and bread evil"
    request = sample("project-invitation", projectDescription="one\r\ntwo\rthree\u2029four\tfive\n")
    assert request.context.project_description == "one\ntwo\nthree\nfour\tfive"
    assert sample("task-reminder", taskTitle=" \n ").context.task_title == "…"


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"", "$"),
        (b"{", "$"),
        (b"[]", "$"),
        (b"null", "$"),
        (b'"otp"', "$"),
        (b'{"to":"ada@example.org"}', "$"),
        (b'{"context":{}}', "$"),
        (b'{"to":"ada@example.org","context":null}', "$.context"),
        (b'{"to":"ada@example.org","context":[]}', "$.context"),
        (b'{"to":"ada@example.org","context":{}}', "$.context"),
        (b'{"to":null,"context":{}}', "$.to"),
        (b'{"to":["ada@example.org"],"context":{}}', "$.to"),
        (b'{"to":"ada@example.org","type":7,"context":{}}', "$.type"),
        (b'{"to":"ada@example.org","type":"welcome","context":{}}', "$.type"),
        (b'{"to":"ada@example.org","context":{"otpCode":"12\xff56"}}', "$.context.otpCode"),
        (b'{"to":"ada@example.org","context":{"otpCode":"12\\ud83d56"}}', "$.context.otpCode"),
        (b'{"to":"ada@example.org","context":{"otpCode":"123456\\u0000"}}', "$.context.otpCode"),
        (b'{"to":"ada@example.org","context":{"otpCode":NaN}}', "$.context.otpCode"),
        (b'{"to":"ada@example.org","context":{"otpCode":"123456","x":' + b"[" * 100_000, "$"),
    ],
)
def test_parse_request_when_data_has_wrong_shape(data: bytes, place: str) -> None:
    """The error contains the path, and the job fails permanently."""
    assert refusal("otp", data).endswith(f"at `{place}`")
    assert issubclass(InvalidDataError, PermanentError)


DIRT = {
    "half a surrogate pair": b"\\ud83d",
    "the other half": b"\\ude42",
    "both halves in the wrong order": b"\\ude42\\ud83d",
    "an escaped NUL": b"\\u0000",
    "an escaped vertical tab": b"\\u000b",
    "an escaped form feed": b"\\f",
    "an escaped unit separator": b"\\u001f",
    "an escaped C1 control": b"\\u0085",
    "a bare vertical tab": b"\x0b",
    "a bare form feed": b"\x0c",
    "a bare unit separator": b"\x1f",
    "a bare NUL": b"\0",
    "a bare newline": b"\n",
    "a byte that is not UTF-8": b"\xff",
    "a surrogate in UTF-8": b"\xed\xa0\xbd",
    "an override": "\u202e".encode(),
}
TEXT_FIELDS = [
    (kind, field)
    for kind, context in SAMPLES.items()
    for field, value in context.items()
    if isinstance(value, str) and field not in {"otpCode", "acceptUrl"}
]


@pytest.mark.parametrize("dirt", DIRT.values(), ids=DIRT)
@pytest.mark.parametrize(("kind", "field"), TEXT_FIELDS)
def test_dirt_in_a_field_never_refuses_the_email(kind: str, field: str, dirt: bytes) -> None:
    """Titles, names, descriptions and links of every kind are cleaned or dropped, and the email is rendered."""
    for position in (b"HERE" + dirt, dirt + b"HERE", b"HE" + dirt + b"RE", dirt):
        request = parse_request(kind, job_data(kind, **{field: "HERE"}).replace(b"HERE", position))
        email = RENDERER.render(request)
        for text in (email.subject, email.html, email.text):
            assert not set("\0\x0b\x0c\x1f\x85\u202e") & set(text)
            text.encode()


@pytest.mark.parametrize("dirt", DIRT.values(), ids=DIRT)
@pytest.mark.parametrize(
    "template",
    [
        b'{"to":"ada@example.org","trace":"HERE","context":{"otpCode":"123456"}}',
        b'{"to":"ada@example.org","HERE":1,"context":{"otpCode":"123456"}}',
        b'{"to":"ada@example.org","context":{"otpCode":"123456","more":{"deep":["HERE",{"HERE":"HERE"}]}}}',
        b'{"to":"ada@example.org","context":{"otpCode":"123456","expiresIn":"HERE"}}',
        b'{"to":"ada@example.org","locale":"HERE","context":{"otpCode":"123456"}}',
    ],
)
def test_dirt_in_an_unknown_field_never_refuses_the_email(template: bytes, dirt: bytes) -> None:
    """Wherever it is, in names and values, at any depth, also in fields that are never shown."""
    request = parse_request("otp", template.replace(b"HERE", b"x" + dirt))
    assert RENDERER.render(request).html.count("123456")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", '"45"', "true", "-1", "1e300", "[]", "{}", "12.5"])
@pytest.mark.parametrize("field", ["priority", "estimatedTime", "taskCount"])
def test_invalid_optional_number_is_dropped(field: str, number: str) -> None:
    """As in JavaScript NaN is no number; a value of another type is none either."""
    data = job_data("task-reminder", **{field: 987654}).replace(b"987654", number.encode())
    name = {"estimatedTime": "estimated_time", "taskCount": "task_count"}.get(field, field)
    assert getattr(parse_request("task-reminder", data).context, name) == 0


@pytest.mark.parametrize("value", [7, True, ["Ada"], {"first": "Ada"}])
def test_invalid_optional_text_is_dropped(value: Any) -> None:
    """The field has its default, and the other fields keep their values."""
    given = {"inviteeName": value, "projectDescription": value, "role": value, "progress": 45}
    context: Any = sample("project-invitation", **given).context
    assert (context.invitee_name, context.project_description, context.role) == ("there", "", "")
    assert context.progress == 45


@pytest.mark.parametrize("to", [b"ada\\udc00@example.org", b"ada@example.org\x0b", b"ada\\u0000@example.org"])
def test_dirt_in_the_address_refuses_the_email(to: bytes) -> None:
    """There is no email without an address, and a cleaned one might belong to somebody else."""
    assert "at `$.to`" in refusal("otp", b'{"to":"' + to + b'","context":{"otpCode":"123456"}}')


def test_cut_emoji_leaves_a_replacement_character() -> None:
    """JSON.stringify writes half a surrogate pair for an emoji that was cut; the rest of the title is shown."""
    data = job_data("task-reminder", taskTitle="HERE").replace(b"HERE", b"cut \\ud83d")
    assert parse_request("task-reminder", data).context.task_title == "cut \ufffd"
    whole = data.replace(b"\\ud83d", b"\\ud83d\\ude42")
    assert parse_request("task-reminder", whole).context.task_title == "cut \U0001f642"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"to":"ada@example.org","context":{}', "valid JSON"),
        (b'{"to":"ada@example.org","context":{}}}', "valid JSON"),
        (b'{"to":NaN}', "got `null`"),
        (b"\xef\xbb\xbf{}", "missing required field"),
        (b'{"to":"\xe9"}', "missing required field"),
        (b'{"to":"\\ud83d"}', "missing required field"),
    ],
)
def test_parse_request_when_json_invalid(data: bytes, said: str) -> None:
    """What is not JSON is refused; dirty JSON is refused only for what is missing."""
    assert said in refusal("otp", data)


@pytest.mark.parametrize("length", [70_000, 300_000, 900_000])
def test_long_text_is_cut(length: int) -> None:
    """An email shows at most 1,500 characters of a description; a longer one never refuses it, in any field."""
    text = "é" * length
    email = RENDERER.render(sample("project-invitation", projectDescription=text, projectName=text, more=text))
    assert 1_400 < email.text.count("é") < 2_200
    assert len(email.subject) <= 200
    assert len(email.html.encode()) < 100_000
    assert len(sample("task-reminder", taskTitle=text).context.task_title) == MAX_TEXT_LENGTH


def test_parse_request_when_kind_unknown() -> None:
    """As in Bull the attempt fails with Bull's message, because a newer daemon may know the kind."""
    with pytest.raises(UnknownKindError) as caught:
        parse_request("newsletter", b"{}")
    assert isinstance(caught.value, RetryableError)
    assert caught.value.reason == "Missing process handler for job type newsletter"


def test_unknown_kind_error_when_name_is_hostile() -> None:
    """The name in the message is short, on one line and without addresses."""
    for name in ("a\nb\x1b[31m\u202e", "x" * 10_000, "ada@example.org", "\ud800", ""):
        with pytest.raises(UnknownKindError) as caught:
            parse_request(name, b"{}")
        shown = caught.value.reason.removeprefix("Missing process handler for job type ")
        assert len(shown) <= 100
        assert shown.isprintable()
        assert "ada@" not in shown


def test_repr_of_request_hides_secrets() -> None:
    """The repr of a request, which may be logged, contains neither the address nor a code."""
    shown = repr(sample("otp", otpCode="493027"))
    assert "493027" not in shown
    assert TO not in shown


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_find_mistakes_finds_what_parse_request_refuses(kind: str) -> None:
    """For each field without its value or with one of a wrong type; and all of them where `parse_request` names one."""
    sent = msgspec.json.decode(job_data(kind))
    context = sent["context"]
    assert find_mistakes(KINDS[kind], context) == []
    for name in context:
        for value in (None, "", [], 17, "x" * 99, {"y": 1}, math.nan):
            changed = {**context, name: value}
            data = msgspec.json.encode({**sent, "context": changed})
            if mistakes := find_mistakes(KINDS[kind], changed):
                assert mistakes == [refusal(kind, data)]
            else:
                assert parse_request(kind, data).kind == kind
    required = [rule for rule in KINDS[kind].rules if not getattr(rule, "optional", True)]
    assert len(find_mistakes(KINDS[kind], {})) == len(required)


@pytest.mark.parametrize("value", [{1, 2}, "\ud800", 10**400, object()])
def test_find_mistakes_when_the_context_is_no_json(value: object) -> None:
    """Values that only a caller in this process can give are a mistake, not an internal error."""
    assert len(find_mistakes(KINDS["welcome"], {"name": value})) <= 1
