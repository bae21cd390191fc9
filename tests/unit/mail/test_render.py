"""Rendering of emails."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from flowstate_daemon.mail.app_links import DEFAULT_PATTERNS, AppLinks
from flowstate_daemon.mail.kind_spec import snake_case
from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.mail.locales import LOCALES
from flowstate_daemon.mail.message import Email
from flowstate_daemon.mail.render import Brand, Renderer
from flowstate_daemon.mail.samples import FRONTEND_URL
from flowstate_daemon.mail.unsubscribe_links import LinkTokenCodec, UnsubscribeLinks
from tests.support.html import Page
from tests.support.mail_samples import SAMPLES
from tests.unit.mail.rendered_mails import BRAND, TO, sample

SAID_DIFFERENTLY = {
    *("priority", "role", "deadline", "frequency", "startDate", "expiresIn"),
    *("mostProductiveDay", "averageMood", "topTasks", "overdueTasks", "recentTasks"),
}
HOSTILE = [
    "<script>alert(1)</script>",
    "\" onmouseover='x' <img src=x onerror=y>",
    "a\r\nBcc: eve@example.org\r\n\r\nbody",
    "\u202egnp.exe\u202c \u2066x\u2069",
    "👩‍👩‍👧‍👦 🏴‍☠️ é́",
    "{{ 7*7 }} {% raw %} [[intro]] ${x}",
    "&amp; &lt;b&gt; ]]> <!-- -->",
    "שלום مرحبا",
]


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(BRAND)


def rendered(renderer: Renderer, kind: str, locale: str = "en", **changes: Any) -> Email:
    return renderer.render(replace(sample(kind, **changes), locale=locale))


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_renders(renderer: Renderer, kind: str, locale: str) -> None:
    """Each kind has a subject, a well-formed HTML part with its language and alt texts, and a text part."""
    mail = rendered(renderer, kind, locale)
    page = Page(mail.html)
    assert (mail.kind, mail.to, mail.sender) == (kind, TO, BRAND.sender)
    assert (mail.tags, mail.headers) == ({"kind": kind}, {"Auto-Submitted": "auto-generated"})
    assert page.all("img") == []
    assert '<span class="brand" style="color:#0F7A00">FlowState</span>' in mail.html
    assert "#14A800" in mail.html
    assert mail.text.endswith("\n")
    assert mail.subject


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("kind", KINDS)
def test_text_part_is_plain_text(renderer: Renderer, kind: str, locale: str) -> None:
    """The text part has no tags, entities or repeated blank lines, and contains every link of the HTML."""
    mail = rendered(renderer, kind, locale)
    assert not re.search(r"[<>]|&\w+;|\n\n\n", mail.text)
    for link in Page(mail.html).links:
        assert link in mail.text


def test_render_is_deterministic(renderer: Renderer) -> None:
    """Also across renderers: a retry sends the same bytes."""
    other = Renderer(BRAND)
    for kind in KINDS:
        assert renderer.render(sample(kind)) == renderer.render(sample(kind)) == other.render(sample(kind))


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("goal-milestone", ["Learn to print in colour", "75"]),
        ("streak-milestone", ["21"]),
        ("project-invitation", ["Amélie Laurent", "Autumn exhibition"]),
        ("task-reminder", ["Send the framer the final sizes"]),
        ("overdue-summary", ["3"]),
        ("focus-report", ["11", "40"]),
    ],
)
@pytest.mark.parametrize("locale", LOCALES)
def test_subject_contains_fields(renderer: Renderer, kind: str, parts: list[str], locale: str) -> None:
    """The subject says what the email is about."""
    for part in parts:
        assert part in rendered(renderer, kind, locale).subject


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_rendered(renderer: Renderer, kind: str, locale: str) -> None:
    """Each text of a producer is in both parts, unless the email says it in other words."""
    mail = rendered(renderer, kind, locale)
    page = Page(mail.html)
    links = dict(KINDS[kind].links)
    for name, value in SAMPLES[kind].items():
        if name == "settingsUrl":
            assert value not in page.links  # the application has no such page
        elif name.endswith("Url"):
            assert AppLinks(FRONTEND_URL).replace(links[snake_case(name)], value) in page.links
        elif name not in SAID_DIFFERENTLY:
            for line in str(value).split("\n"):
                assert line in page.text
                assert line in mail.text


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("kind", KINDS)
def test_render_when_text_is_hostile(renderer: Renderer, kind: str, hostile: str) -> None:
    """Whatever users typed, the HTML has the same tags and the subject is one line."""
    texts = [
        name
        for name, value in SAMPLES[kind].items()
        if isinstance(value, str) and not name.endswith("Url") and name != "otpCode"
    ]
    plain = rendered(renderer, kind, **dict.fromkeys(texts, "plain\nwords" if "\n" in hostile else "plain"))
    mail = rendered(renderer, kind, **dict.fromkeys(texts, hostile))
    tags = [tag for tag, _ in Page(mail.html).tags]
    if "\n" not in hostile:
        assert tags == [tag for tag, _ in Page(plain.html).tags]
    assert not {"script", "b"} & set(tags)
    assert tags.count("img") == 0
    assert not hostile.startswith("{{") or hostile in mail.text or kind in {"otp", "password-reset"}
    assert not re.search(r"[\r\n\u202a-\u202e\u2066-\u2067]", mail.subject)
    assert mail.subject.count("\u2068") == mail.subject.count("\u2069")
    assert "\u202e" not in mail.html + mail.text


def test_code_can_be_copied_and_read_aloud(renderer: Renderer) -> None:
    """A code is one unbroken text in HTML, spelt for screen readers, and on a line of its own in text."""
    mail = rendered(renderer, "otp", otpCode="493027")
    assert ">493027<" in mail.html
    assert 'aria-label="Your code: 4 9 3 0 2 7"' in mail.html
    assert "\n493027\n" in mail.text


@pytest.mark.parametrize("kind", ["otp", "password-reset"])
@pytest.mark.parametrize("locale", LOCALES)
def test_code_is_not_in_preview(renderer: Renderer, kind: str, locale: str) -> None:
    """Subject, title and preview text, which locked phones show, do not contain the code."""
    mail = rendered(renderer, kind, locale, otpCode="QX7K31")
    shown_early = mail.html.partition("<table")[0]
    assert "QX7K31" not in mail.subject + shown_early


def test_lines_become_list_items(renderer: Renderer) -> None:
    """Lines become list items in HTML and dashes in text, whatever bullets they had."""
    mail = rendered(renderer, "goal-milestone", recentTasks="• one\r\n\n- two\n  three <3  \n✅ four")
    rows = re.findall(r'<tr role="listitem"><td[^>]*>([^<]*)</td>', mail.html)
    assert rows == ["one", "two", "three &lt;3", "four"]
    assert "\n- one\n- two\n- three <3\n- four\n" in mail.text


def test_render_when_list_is_long(renderer: Renderer) -> None:
    """A list of thousands of lines shows its start and the number of the rest."""
    mail = rendered(renderer, "goal-milestone", recentTasks="\n".join(f"task {n}" for n in range(1000)))
    assert len(Page(mail.html).items) == 51
    assert "and 950 more" in mail.html
    assert "- and 950 more" in mail.text


def test_overdue_summary_when_list_is_incomplete(renderer: Renderer) -> None:
    """Producers list ten tasks at most; the subject has the total."""
    assert "and 9 more" in rendered(renderer, "overdue-summary", overdueCount=12).text
    assert "more" not in rendered(renderer, "overdue-summary", overdueCount=3).text


@pytest.mark.parametrize(
    ("locale", "count", "subject"),
    [
        ("en", 0, "You have 0 overdue tasks"),
        ("en", 1, "You have 1 overdue task"),
        ("en", 2, "You have 2 overdue tasks"),
        ("fr", 0, "Vous avez 0 tâche en retard"),
        ("fr", 1, "Vous avez 1 tâche en retard"),
        ("fr", 2, "Vous avez 2 tâches en retard"),
    ],
)
def test_plurals(renderer: Renderer, locale: str, count: int, subject: str) -> None:
    """One day, two days; in French zero is singular."""
    assert rendered(renderer, "overdue-summary", locale, overdueCount=count, overdueTasks="").subject == subject


def test_render_when_values_are_unknown(renderer: Renderer) -> None:
    """Zero minutes and empty facts mean unknown and are not shown."""
    mail = rendered(renderer, "task-reminder", estimatedTime=0, priority=0)
    assert "Estimated time" not in mail.text + mail.html
    assert "Priority" not in mail.text + mail.html
    mail = rendered(renderer, "project-invitation", deadline=None, projectDescription=None, role=None)
    assert "Deadline" not in mail.text + mail.html
    assert "<p></p>" not in mail.html


def test_greeting_when_name_unknown(renderer: Renderer) -> None:
    """The placeholders for an unknown name read well in both languages."""
    assert "Hi there," in rendered(renderer, "task-reminder", userName=None).text
    assert "Bonjour," in rendered(renderer, "task-reminder", "fr", userName=None).text
    assert rendered(renderer, "welcome", name=None).text.startswith("Welcome!")


def test_stock_phrases_are_translated(renderer: Renderer) -> None:
    """English words that producers always send alike are shown in the reader's language."""
    mail = rendered(renderer, "focus-report", "fr", mostProductiveDay="Tuesday", topTasks="Without a task: 5 min")
    for said in ("mardi", "Sans tâche"):
        assert said in mail.text
        assert said in mail.html


def test_render_when_links_missing() -> None:
    """A missing link omits its button, a missing application URL the logo."""
    renderer = Renderer(replace(BRAND, frontend_url=""))
    mail = rendered(renderer, "task-reminder", taskUrl=None, settingsUrl=None)
    page = Page(mail.html)
    assert page.all("a") == page.all("img") == []
    assert "http" not in mail.text


def test_language_of_email() -> None:
    """The request's language, else the brand's, else English; regions are ignored."""
    renderer = Renderer(replace(BRAND, default_locale="fr-FR"))
    for wanted, got in ((None, "fr"), ("en", "en"), ("EN_gb", "en"), ("de", "fr"), ("", "fr")):
        assert f'<html lang="{got}"' in renderer.render(replace(sample("otp"), locale=wanted)).html
    renderer = Renderer(replace(BRAND, default_locale="tlh"))
    assert '<html lang="en"' in renderer.render(sample("otp")).html


def test_render_when_brand_has_markup() -> None:
    """A product name with markup characters is escaped."""
    brand = Brand("x@example.org", 'Flow & "State" <3', "https://flowstate.example/?a=1&b=2")
    mail = Renderer(brand).render(sample("welcome"))
    assert "Flow &amp; &#34;State&#34; &lt;3" in mail.html
    assert mail.subject == 'Welcome to Flow & "State" <3'


def test_render_when_subject_is_long(renderer: Renderer) -> None:
    """A subject has at most 200 characters, and a long name does not push out the other one."""
    for kind, fields in (("task-reminder", ["taskTitle"]), ("project-invitation", ["inviterName", "projectName"])):
        for text in ("word " * 1000, "x" * 5000, "👩‍👩‍👧‍👦" * 500):
            subject = rendered(renderer, kind, **dict.fromkeys(fields, text)).subject
            assert len(subject) <= 200
            assert "…" in subject
            subject.encode()
    subject = rendered(renderer, "project-invitation", inviterName="x" * 300).subject
    assert subject.endswith("to “Autumn exhibition”")


def test_subject_when_a_right_to_left_title_is_cut(renderer: Renderer) -> None:
    """The isolation of the title ends with the subject, also where its end was cut off."""
    long = Renderer(replace(BRAND, app_name="F" * 90))
    for text in ("לקנות נייר צילום", "שלום " * 100):
        for subject in (
            rendered(renderer, "task-reminder", taskTitle=text).subject,
            rendered(renderer, "project-invitation", inviterName=text, projectName=text).subject,
            rendered(long, "goal-milestone", goalName=text).subject,
        ):
            assert subject.count("\u2068") == subject.count("\u2069") > 0
            assert len(subject) <= 200


def test_right_to_left_text_is_isolated_everywhere(renderer: Renderer) -> None:
    """With characters where `bdi` is not known: in the subject, in the text part, and in HTML for Outlook."""
    title = "\u2068לקנות נייר\u2069"  # noqa: RUF001
    mail = rendered(renderer, "task-reminder", taskTitle="לקנות נייר", projectName="כרך", userName="דנה")
    assert mail.subject == f"Due tomorrow: {title}"
    assert f"\n{title}\n" in mail.text
    assert "Hi \u2068דנה\u2069,\n" in mail.text
    assert "<bdi>\u2068כרך\u2069</bdi>" in mail.html
    assert "\u2068" not in rendered(renderer, "task-reminder", taskTitle="Éte à Zoë 😀").text


def test_logo_has_its_size(renderer: Renderer) -> None:
    """Width and height are attributes: Outlook would show the picture in its own size."""
    brand = replace(BRAND, logo_url="https://flowstate.example/logo.png", logo_width=120, logo_height=65)
    page = Page(Renderer(brand).render(sample("welcome")).html)
    (logo,) = page.all("img")
    assert (logo["src"], logo["alt"], logo["width"], logo["height"]) == (brand.logo_url, "FlowState", "120", "65")
    assert not [attrs for _, attrs in page.tags if attrs.get("class") == "brand"]


def test_footer_has_help_and_address() -> None:
    """Both are in both parts, and nothing replaces a setting that is not set."""
    brand = replace(BRAND, support_url="https://flowstate.example/help", postal_address="1 rue du Calme, Paris & Co")
    mail = Renderer(brand).render(sample("welcome"))
    assert "Help: https://flowstate.example/help\n1 rue du Calme, Paris & Co\n" in mail.text
    assert "https://flowstate.example/help" in Page(mail.html).links
    assert "Paris & Co" in Page(mail.html).text
    assert "Help" not in Renderer(BRAND).render(sample("welcome")).text


def test_links_of_the_footer_are_large_enough() -> None:
    """Each is a box of 28 px, because fingers need 24 (WCAG 2.5.8)."""
    links = AppLinks(FRONTEND_URL, {**DEFAULT_PATTERNS, "settings": "/me"})
    html = (
        Renderer(replace(BRAND, links=links, support_url="https://flowstate.example/help"))
        .render(sample("welcome"))
        .html
    )
    footer = html[html.index("calm place for your busy") :]
    assert footer.count("<a ") == footer.count('style="display:inline-block;line-height:28px;color:#4B5563"') == 2
    assert "line-height:28px" in html


def test_footer_says_why(renderer: Renderer) -> None:
    """Every email that can be unsubscribed from says when it comes, in both languages and parts."""
    for kind, why in (("task-reminder", "You get this the day before something is due."),
                      ("focus-report", "You get this on Sundays after a week with focus sessions.")):  # fmt: skip
        assert why in rendered(renderer, kind).text
        assert why in Page(rendered(renderer, kind).html).text
    french = rendered(renderer, "overdue-summary", "fr").text
    assert "Vous recevez cet e-mail chaque matin tant que des tâches sont en retard." in french


@pytest.mark.parametrize(
    ("cadence", "why", "unchanged"), [(None, "every morning", False), ("weekly", "once a week", False),
                                      ("unchanged", "once a week", True)]
)  # fmt: skip
def test_overdue_summary_says_how_often_it_comes(
    renderer: Renderer, cadence: str | None, why: str, unchanged: bool
) -> None:
    """A list that is sent once a week does not say that it comes every morning."""
    mail = rendered(renderer, "overdue-summary", cadence=cadence)
    for text in (mail.text, Page(mail.html).text):
        assert f"You get this {why} while tasks are overdue." in text
        assert ("This list hasn’t changed for a week" in text) == unchanged  # noqa: RUF001


def test_settings_link_leads_to_an_existing_page() -> None:
    """The backend's link leads nowhere: the email has the link of the settings, or none."""
    assert "/settings" not in Renderer(BRAND).render(sample("overdue-summary")).html
    links = AppLinks(FRONTEND_URL, {**DEFAULT_PATTERNS, "settings": "/me/emails"})
    mail = Renderer(replace(BRAND, links=links)).render(sample("overdue-summary"))
    assert f"Manage your emails: {FRONTEND_URL}/me/emails\n" in mail.text
    assert f"{FRONTEND_URL}/me/emails" in Page(mail.html).links


def test_settings_link_is_the_preference_page_where_there_is_one() -> None:
    """It wins over a page of the application, in every kind; without a time of issue there is no such link."""
    links = AppLinks(FRONTEND_URL, {**DEFAULT_PATTERNS, "settings": "/me/emails"})
    pages = UnsubscribeLinks("https://mail.flowstate.example", LinkTokenCodec(["x" * 32]))
    for kind in KINDS:
        mail = Renderer(replace(BRAND, links=links), pages).render(sample(kind), issued_ms=1_772_000_000_000)
        assert "Manage your emails: https://mail.flowstate.example/preferences/" in mail.text
        assert "/me/emails" not in mail.text + mail.html
    assert "/me/emails" in Renderer(replace(BRAND, links=links), pages).render(sample("welcome")).text
    assert "/preferences/" not in Renderer(BRAND, pages).render(sample("welcome")).html


def test_creation_counts_where_links_are_issued_later(renderer: Renderer) -> None:
    """Links of an old job are issued today; its reference and the day of a streak are those of the job."""
    created, issued = 1_772_000_000_000, 1_790_000_000_000
    code = [renderer.render(sample("otp"), issued_ms=at, created_ms=created).headers for at in (created, issued)]
    assert code[0] == code[1]
    assert renderer.render(sample("otp"), issued_ms=issued, created_ms=0).headers != code[0]
    streak = sample("streak-milestone", streakDays=7, startDate="unreadable")
    assert "February 18, 2026" in renderer.render(streak, issued_ms=issued, created_ms=created).text


@pytest.mark.parametrize("kind", ["otp", "password-reset"])
def test_code_is_not_folded_under_an_older_one(renderer: Renderer, kind: str) -> None:
    """Each job has its own reference, which every attempt repeats and which contains neither code nor address."""
    one, again = (renderer.render(sample(kind), created_ms=1_772_000_000_000).headers for _ in range(2))
    other = renderer.render(sample(kind), created_ms=1_772_000_000_001).headers
    assert one == again
    assert re.fullmatch(r"[0-9a-f]{24}", one["X-Entity-Ref-ID"])
    assert one["X-Entity-Ref-ID"] != other["X-Entity-Ref-ID"]
    assert "X-Entity-Ref-ID" not in renderer.render(sample("welcome"), created_ms=1).headers


def test_invitation_and_reset_have_a_link_to_copy() -> None:
    """Some mail programs open no buttons; a reset has a button only where the application has a page for it."""
    invitation = Page(Renderer(BRAND).render(sample("project-invitation")).html)
    assert f"Or copy this link into your browser:{SAMPLES['project-invitation']['acceptUrl']}" in invitation.text
    assert Page(Renderer(BRAND).render(sample("password-reset")).html).all("a") == []
    links = AppLinks(FRONTEND_URL, {**DEFAULT_PATTERNS, "reset_password": "/auth/reset"})
    reset = Page(Renderer(replace(BRAND, links=links)).render(sample("password-reset")).html)
    assert reset.links == {f"{FRONTEND_URL}/auth/reset"}
    assert f"Or copy this link into your browser:{FRONTEND_URL}/auth/reset" in reset.text


def test_programs_find_no_links_of_their_own(renderer: Renderer) -> None:
    """Dates, codes and addresses in the text are no links; the fonts are those of the system."""
    html = rendered(renderer, "otp").html
    assert '<meta name="format-detection" content="telephone=no,date=no,address=no,email=no,url=no">' in html.replace(
        " />", ">"
    )
    assert "font-family:'Segoe UI',-apple-system,BlinkMacSystemFont,Helvetica,Arial,sans-serif" in html
