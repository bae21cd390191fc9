"""Kinds and languages from `mail.kinds_dir`: further ones, changed files of the built-in ones, and every mistake."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowstate_daemon.base.errors import ConfigError, InvalidDataError
from flowstate_daemon.mail.catalog import Catalog, CompiledOnDemand, built_in_catalog, load_catalog
from flowstate_daemon.mail.kind_files import BUILT_IN_FOLDER, read_kind_files
from flowstate_daemon.mail.kinds import KINDS, UNREADABLE_DATA, load_kinds, parse_request, redact_codes
from flowstate_daemon.mail.lifetimes import Lifetimes
from flowstate_daemon.mail.policy import UNKNOWN_RECIPIENT, decide, expires_at_ms
from flowstate_daemon.mail.render import Renderer
from flowstate_daemon.mail.templates import CompiledTemplates
from flowstate_daemon.web.dashboard.emails import mask_codes
from tests.support.html import Page
from tests.support.kind_folders import BADGE, write_kind
from tests.unit.mail.rendered_mails import BRAND, TO, sample

BODIES = ("body.mjml", "body.txt")
COMMON_TEXTS = (BUILT_IN_FOLDER / "common/texts/en.toml").read_text("utf-8")


def badge(catalog: Catalog, **context: object) -> bytes:
    """The data of a job of the further kind."""
    return msgspec.json.encode(
        {"type": "badge", "to": TO, "context": {"badgeName": "Early bird", "points": 5, **context}}
    )


def problems(folder: Path, default_locale: str = "en") -> list[str]:
    """The problems of a folder, with paths relative to it."""
    with pytest.raises(ConfigError) as caught:
        load_catalog(folder, default_locale)
    return [error.replace(f"{folder}/", "") for error in caught.value.errors]


def test_further_kind(tmp_path: Path) -> None:
    """It is parsed, decided and rendered like the nine, which stay as they are."""
    catalog = load_catalog(write_kind(tmp_path, "badge", BADGE))
    assert catalog.kinds.keys() == {*KINDS, "badge"}
    request = parse_request("badge", badge(catalog), catalog.kinds, catalog.locales)
    assert (request.spec.priority, request.spec.unsubscribable, request.spec.urgent) == (10, True, False)
    mail = Renderer(BRAND, catalog=catalog).render(request)
    assert mail.subject == "New badge: Early bird"
    assert "5 points and a badge" in Page(mail.html).text
    assert "5 points and a badge" in mail.text
    for kind in KINDS:
        assert Renderer(BRAND, catalog=catalog).render(sample(kind)) == Renderer(BRAND).render(sample(kind))


def test_further_kind_has_a_lifetime(tmp_path: Path) -> None:
    """`lifetime` counts from the creation of the job; a later email is dropped."""
    catalog = load_catalog(write_kind(tmp_path, "badge", BADGE))
    request = parse_request("badge", badge(catalog), catalog.kinds)
    day = 86_400_000
    assert decide(request, UNKNOWN_RECIPIENT, now_ms=4 * day - 1, created_ms=day).send
    late = decide(request, UNKNOWN_RECIPIENT, now_ms=4 * day, created_ms=day)
    assert (late.outcome, late.reason) == ("expired", "the email was valid for 4320 min and is 259200 s old")


def test_text_in_one_language_is_sent_in_the_default_language(tmp_path: Path) -> None:
    """A French reader of a kind without French texts gets the default language, with its formats throughout."""
    catalog = load_catalog(write_kind(tmp_path, "badge", BADGE))
    request = replace(parse_request("badge", badge(catalog), catalog.kinds), locale="fr")
    mail = Renderer(BRAND, catalog=catalog).render(request)
    assert mail.subject == "New badge: Early bird"
    assert '<html lang="en"' in mail.html
    assert catalog.languages("badge") == ("en",)


def test_changed_file_of_a_built_in_kind(tmp_path: Path) -> None:
    """One file is replaced; all others of the kind stay."""
    texts = (BUILT_IN_FOLDER / "welcome/texts/en.toml").read_text("utf-8").replace("Welcome to", "Hello from")
    catalog = load_catalog(write_kind(tmp_path, "welcome", {"texts/en.toml": texts}))
    renderer = Renderer(BRAND, catalog=catalog)
    assert renderer.render(sample("welcome")).subject == "Hello from FlowState"
    assert renderer.render(replace(sample("welcome"), locale="fr")).subject == "Bienvenue sur FlowState"


def test_changed_layout_applies_to_all_kinds(tmp_path: Path) -> None:
    """A file in `common` belongs to every email."""
    style = (BUILT_IN_FOLDER / "common/style.css").read_text("utf-8") + "\n.mine { color: #123456; }\n"
    renderer = Renderer(BRAND, catalog=load_catalog(write_kind(tmp_path, "common", {"style.css": style})))
    assert all("#123456" in renderer.render(sample(kind)).html for kind in KINDS)


def test_every_mistake_is_reported_with_its_file_and_line(tmp_path: Path) -> None:
    """Of several files at once: a folder is not corrected one restart at a time."""
    write_kind(tmp_path, "badge", {
        **BADGE,
        "kind.toml": 'priority = 1\nlifetime = "soon"\n[fields]\nbadgeName = "tilte"\n',
        "body.txt": BADGE["body.txt"].replace("badge_name|user_text", "badge_name|shout"),
    })  # fmt: skip
    write_kind(tmp_path, "welcome", {"texts/fr.toml": 'subject = "<b>"\ntitel = "x"\n', "bodi.mjml": "x"})
    write_kind(tmp_path, "Bad Name", {"kind.toml": ""})
    (tmp_path / "README.md").write_text("notes")
    found = problems(tmp_path)
    for expected in (
        "badge/kind.toml:4: fields.badgeName.type: should be 'title'",
        "welcome/bodi.mjml: expected kind.toml, body.mjml",
        "welcome/texts/fr.toml:1: subject: contains markup",
        "welcome/texts/fr.toml:2: titel: no other language has a text of this name",
        "welcome/texts/fr.toml: the text title is missing",
        "Bad Name/kind.toml: the name of a kind has",
        "README.md: expected folders",
    ):
        assert [problem for problem in found if problem.startswith(expected)], (expected, found)


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("kind.toml", "priority = 10", "priority = 1", r"kind.toml:1: priority: 1 is for urgent kinds"),
        ("kind.toml", "priority = 10", "urgent = true\npriority = 3", r"kind.toml:2: priority: an urgent kind has"),
        ("kind.toml", '"3 days"', '"three days"', r"kind.toml:3: lifetime: expected a text such as"),
        ("kind.toml", '"3 days"', '{ field = "points" }', r"kind.toml:3: lifetime: expected the name of a f"),
        ("kind.toml", 'points = "count"', "points = 5", r"kind.toml:7: fields.points: should be"),
        ("kind.toml", 'points = "count"', 'points = { type = "count", default = "x" }', r"7: fields.points.default"),
        ("kind.toml", 'points = "count"', 'points = { type = "list" }', r"7: fields.points: a list ne"),
        ("kind.toml", 'points = "count"', '"a-b" = "count"\npoints = "count"', r"7: fields.a-b: expected a n"),
        ("kind.toml", 'points = "count"', 'points = "count"\nsubject = "line"', r"8: fields.subject: expec"),
        ("kind.toml", 'points = "count"', 'points = "count"\npin = "code"', r"8: fields.pin: the name of"),
        ("kind.toml", '"3 days"', '"3 days', r"kind.toml:3: "),
        ("body.mjml", "say(intro)", "say(introduction)", r"body.mjml:6: there is no text introduction"),
        ("body.mjml", '"badge_name"', '"badge_title"', r"mjml:7: there is no field, value or function"),
        ("body.mjml", "</mj-text>", "", r"body.mjml: MJML: "),
        ("body.mjml", "[% endblock %]", "", r"body.mjml:\d+: Unexpected end of template"),
        ("body.mjml", "[[ say(intro) ]]", "[[ say(intro ]]", r"body.mjml:6: "),
        ("body.mjml", '"parts.mjml"', '"bits.mjml"', r"body.mjml:2: there is no template bits.mjml"),
        ("body.txt", "user_text", "shout", r"body.txt:7: No filter named 'shout'"),
        ("body.txt", "{{ badge_name|user_text }}", "{{ badge_name| }}", r"body.txt:7: "),
        ("texts/en.toml", "plural('point', points) }} more", "plural('point', score) }} more", r"toml:2: there"),
        ("texts/en.toml", "plural('point', points) }} and", "plural('pint', points) }} and", r"be rendered in"),
        ("texts/en.toml", 'title = "A new badge"\n', "", r"texts/en.toml: the text title is missing"),
        ("texts/en.toml", ', other = "{n} points"', "", r"en.toml:8: plural.point: the plural form other is"),
        ("samples.toml", "points = 5", 'points = "five"', r"badge: the sample badge: Expected `int"),
        ("samples.toml", BADGE["samples.toml"], "", r"samples.toml: expected one sample at least"),
    ],
)  # fmt: skip
def test_mistake(tmp_path: Path, file: str, old: str, new: str, problem: str) -> None:
    """Each is found before any email is sent, and says where it is."""
    assert old in BADGE[file]
    write_kind(tmp_path, "badge", {**BADGE, file: BADGE[file].replace(old, new, 1)})
    found = problems(tmp_path)
    assert [one for one in found if re.search(problem, one)], found


def test_missing_plural_form_is_one_mistake(tmp_path: Path) -> None:
    """A plural that is there but incomplete is not reported as missing as well, in whichever language it is."""
    english = BADGE["texts/en.toml"]
    incomplete = english.replace(', other = "{n} points"', "", 1)
    for first, second in ((english, incomplete), (incomplete, english)):
        write_kind(tmp_path, "badge", {**BADGE, "texts/en.toml": first, "texts/fr.toml": second})
        found = problems(tmp_path)
        assert (len(found), "the plural form other is missing" in found[0]) == (1, True), found


@pytest.mark.parametrize("missing", ["kind.toml", "body.mjml", "body.txt", "samples.toml", "texts/en.toml"])
def test_missing_file(tmp_path: Path, missing: str) -> None:
    """A kind needs all of its files."""
    write_kind(tmp_path, "badge", {name: text for name, text in BADGE.items() if name != missing})
    assert [one for one in problems(tmp_path) if missing in one]


def test_file_that_is_no_text(tmp_path: Path) -> None:
    """Neither another encoding nor a large file stops the others from being checked."""
    write_kind(tmp_path, "badge", BADGE)
    (tmp_path / "badge/body.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "badge/samples.fr.toml").write_text("#" * 300_000)
    found = problems(tmp_path)
    assert "badge/body.txt: is not UTF-8" in found
    assert "badge/samples.fr.toml: is larger than 262144 bytes" in found


def test_folder_that_does_not_exist(tmp_path: Path) -> None:
    """The problem names the setting."""
    assert problems(tmp_path / "none") == [f"{tmp_path}/none: is not a folder (mail.kinds_dir)"]


def test_language_without_common_texts(tmp_path: Path) -> None:
    """A language needs the texts of all emails, such as the greeting."""
    found = problems(write_kind(tmp_path, "badge", {**BADGE, "texts/de.toml": BADGE["texts/en.toml"]}))
    assert found == ["badge/texts/de.toml: the texts of all emails in this language are missing: common/texts/de.toml"]


def test_default_language_needs_all_texts(tmp_path: Path) -> None:
    """The default language is the one that every kind falls back to."""
    write_kind(tmp_path, "common", {"texts/de.toml": COMMON_TEXTS})
    found = problems(tmp_path, "de")
    assert len(found) == len(KINDS)
    assert "otp: there are no texts in de, the default language (mail.default_locale)" in found
    assert problems(tmp_path, "tlh") == ["mail.default_locale: there are no texts in the language 'tlh'"]


def test_built_in_kinds_have_no_problem(tmp_path: Path) -> None:
    """A copy of all built-in files, which is checked as a folder of an operator is."""
    for path in BUILT_IN_FOLDER.rglob("*.*"):
        if path.suffix in {".toml", ".mjml", ".txt", ".css"}:
            copy = tmp_path / path.relative_to(BUILT_IN_FOLDER)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    catalog = load_catalog(tmp_path)
    assert catalog.kinds.keys() == built_in_catalog().kinds.keys()


def test_hidden_files_are_ignored(tmp_path: Path) -> None:
    """Editors leave some behind, and a folder may be a repository."""
    write_kind(tmp_path, "badge", {**BADGE, ".kind.toml.swp": "x", "body.txt~": "x"})
    write_kind(tmp_path, ".git", {"HEAD": "x"})
    assert "badge" in load_catalog(tmp_path).kinds


def test_code_of_a_further_kind_is_a_secret(tmp_path: Path) -> None:
    """It is known by its name, as the codes of the built-in kinds: redacted, urgent, dropped after its lifetime."""
    files = {
        **BADGE,
        "kind.toml": 'urgent = true\nlifetime = "5 minutes"\n[fields]\nloginOtpCode = "code"\n',
        "body.mjml": BADGE["body.mjml"].replace('"badge_name"', '"login_otp_code"').replace('"badge_url"', '"none"'),
        "body.txt": BADGE["body.txt"].replace("badge_name", "login_otp_code").replace('"badge_url"', '"none"'),
        "texts/en.toml": 'subject = "Log in"\npreheader = "x"\ntitle = "x"\nintro = "x"\nbutton = "x"\n',
        "samples.toml": '[plain]\nloginOtpCode = "482913"\n',
    }
    for name in ("body.mjml", "body.txt"):
        files[name] = files[name].replace('[[ greet("user_name") ]]\n', "")
    catalog = load_catalog(write_kind(tmp_path, "login", files))
    data = msgspec.json.encode({"type": "login", "to": TO, "context": {"loginOtpCode": "482913"}})
    request = parse_request("login", data, catalog.kinds)
    assert (request.spec.urgent, request.spec.secret_fields) == (True, {"loginOtpCode"})
    mail = Renderer(BRAND, catalog=catalog).render(request, created_ms=1)
    assert mail.has_code
    assert "X-Entity-Ref-ID" in mail.headers
    assert b"482913" not in redact_codes("login", data, catalog.kinds)
    unreadable = b'{"type": "login", "to": "ada@example.org", "context": "482913"}'  # the code may be anywhere
    assert redact_codes("login", unreadable, catalog.kinds) == UNREADABLE_DATA
    assert decide(request, UNKNOWN_RECIPIENT, now_ms=300_000, created_ms=0).outcome == "expired"


def test_secret_that_is_no_code_is_masked_but_is_not_superseded(tmp_path: Path) -> None:
    """Two vouchers for one person are two emails; only the type `code` makes an email one with a one-time code."""
    fields = BADGE["kind.toml"] + 'code = "line"\nresetToken = "line"\n'
    files = {**BADGE, "kind.toml": fields, "samples.toml": BADGE["samples.toml"] + 'code = "X1"\nresetToken = "T0K"\n'}
    catalog = load_catalog(write_kind(tmp_path, "badge", files))
    context = {"badgeName": "x", "points": 1, "code": "X1", "resetToken": "T0K"}
    data = msgspec.json.encode({"type": "badge", "to": TO, "context": context})
    request = parse_request("badge", data, catalog.kinds)
    assert request.spec.secret_fields == {"code", "resetToken"}
    mail = Renderer(BRAND, catalog=catalog).render(request, created_ms=1)
    assert not mail.has_code
    assert "X-Entity-Ref-ID" not in mail.headers
    masked = mask_codes(request).context
    assert not {"X1", "T0K"} & set(msgspec.structs.asdict(masked).values())
    assert msgspec.json.decode(redact_codes("badge", data, catalog.kinds))["context"] == context  # a retry needs it


def test_code_in_a_list_is_refused(tmp_path: Path) -> None:
    """Nobody would mask it."""
    rows = '[fields.parts]\ntype = "list"\n[fields.parts.rows]\notpCode = "code"\nresetToken = "line"\n'
    files = {**BADGE, "kind.toml": BADGE["kind.toml"] + rows}
    with pytest.raises(ConfigError, match="otpCode: the rows of a list cannot contain codes") as refusal:
        load_catalog(write_kind(tmp_path, "badge", files))
    assert "resetToken: the rows" in str(refusal.value)


ROWS = """
[fields.parts]
type = "list"
max_rows = 2

[fields.parts.rows]
points = "count"
title = { type = "title", optional = true }
lines = { type = "title-lines", optional = true }
"""


def test_dirt_in_a_further_kind_never_refuses_the_email(tmp_path: Path) -> None:
    """Fields of `kind.toml` are cleaned and dropped as those of the built-in kinds; a list is cut at `max_rows`."""
    catalog = load_catalog(write_kind(tmp_path, "badge", {**BADGE, "kind.toml": BADGE["kind.toml"] + ROWS}))
    good = {"points": 1, "title": "a\u202eb", "lines": "- x\n- y"}
    given = [{"title": "no points"}, "x", {**good, "lines": 7}, good]
    data = badge(catalog, badgeName="a\x1bb", userName=7, badgeUrl="javascript:x", parts=given)
    context: Any = parse_request("badge", data, catalog.kinds).context
    assert (context.badge_name, context.user_name, context.badge_url) == ("ab", "there", "")
    assert context.parts == ()
    context = parse_request("badge", badge(catalog, parts=[{**good, "lines": 7}, good, good]), catalog.kinds).context
    assert [(row.title, [line.title for line in row.lines]) for row in context.parts] == [
        ("ab", []),
        ("ab", ["x", "y"]),
    ]
    with pytest.raises(InvalidDataError, match=r"at `\$\.context\.points`"):
        parse_request("badge", badge(catalog, points="many", userName=7), catalog.kinds)


def test_job_of_unknown_age_expires_only_with_a_code(tmp_path: Path) -> None:
    """A code may be too old to work; another email of unknown age is sent, here and when it is sent later."""
    catalog = load_catalog(write_kind(tmp_path, "badge", BADGE))
    request = parse_request("badge", badge(catalog), catalog.kinds)
    assert decide(request, UNKNOWN_RECIPIENT, now_ms=10**13, created_ms=0).send
    assert expires_at_ms(request, 0) is None
    assert not decide(sample("otp"), UNKNOWN_RECIPIENT, now_ms=10**13, created_ms=0).send


def test_reminder_without_a_date_field_has_a_lifetime(tmp_path: Path) -> None:
    """An operator who removes the field from the kind gets the day after the job's creation."""
    folder = BUILT_IN_FOLDER / "task-reminder"
    kind = (folder / "kind.toml").read_text("utf-8").replace('dueDate = { type = "date", optional = true }\n', "")
    bodies = {name: (folder / name).read_text("utf-8").replace("due_date", "due_time") for name in BODIES}
    kinds = load_kinds(read_kind_files(write_kind(tmp_path, "task-reminder", {"kind.toml": kind, **bodies}), []), [])
    job = msgspec.json.encode({"to": TO, "context": {"taskTitle": "x", "dueDate": "2026-09-09"}})
    lifetimes, created_ms = Lifetimes("UTC", None, 24.0, 72.0), 1_772_438_400_000  # 2026-03-02, 8 h
    end_ms = lifetimes.end_ms(parse_request("task-reminder", job, kinds), created_ms, None)
    assert end_ms == created_ms + 16 * 3_600_000


def test_built_in_templates_are_compiled_at_first_use() -> None:
    """Loading compiles nothing; the first use compiles one template, once."""
    compiled: list[tuple[str, str]] = []
    real = built_in_catalog().templates["welcome", "en"]

    def compile_one(kind: str, locale: str) -> CompiledTemplates:
        compiled.append((kind, locale))
        return real

    templates = CompiledOnDemand([("welcome", "en"), ("otp", "en")], compile_one)
    assert (("otp", "en") in templates, ("otp", "xx") in templates, len(templates)) == (True, False, 2)
    assert compiled == []
    assert templates["otp", "en"] is templates["otp", "en"] is real
    assert compiled == [("otp", "en")]
    assert isinstance(load_catalog(None).templates, CompiledOnDemand)


def test_a_built_in_template_with_problems_is_an_error() -> None:
    """A template that cannot be compiled is an error at each use, not an empty email."""
    templates = CompiledOnDemand([("welcome", "en")], lambda _kind, _locale: None)
    for _ in range(2):
        with pytest.raises(ValueError, match="welcome"):
            templates["welcome", "en"]
    with pytest.raises(KeyError):
        templates["welcome", "xx"]
