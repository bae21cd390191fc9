"""What the preference page shows: the switches, the choices, and sentences that are true for this daemon. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from babel.dates import format_date, get_day_names

from flowstate_daemon.base.time_zones import find_zone
from flowstate_daemon.database.preferences import RecipientSettings
from flowstate_daemon.database.recipients import UserPreferences
from flowstate_daemon.mail.lifetimes import OVERDUE_SUMMARY
from flowstate_daemon.mail.locales import LOCALES, match_locale
from flowstate_daemon.mail.policy import ALL_KINDS, main_reason
from flowstate_daemon.mail.preferences import MORNING_HOURS, PAUSE_WEEKS, suggested_time_zones
from flowstate_daemon.scheduler.definitions import Schedule
from flowstate_daemon.web.pages import Button, Pages
from flowstate_daemon.web.preference_form import END_PAUSE, KEEP, RESUME

A_MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
NOON = 12
EACH_DAY, ONE_DAY = re.compile(r"\*"), re.compile(r"\d|[a-z]{3}", re.IGNORECASE)  # the last field of a cron expression


@dataclass(frozen=True, slots=True)
class Message:
    """A sentence above the form: `good`, `warning` or `plain`."""

    level: str
    text: str


@dataclass(frozen=True, slots=True)
class KindRow:
    """One switch. `here`: the link came with an email of this kind."""

    name: str
    label: str
    when: str
    on: bool
    here: bool


@dataclass(frozen=True, slots=True)
class Option:
    value: str
    label: str


@dataclass(frozen=True, slots=True)
class Select:
    """A list of which one option is chosen: that with `value`."""

    name: str
    label: str
    options: Sequence[Option]
    value: str


@dataclass(frozen=True, slots=True)
class ZoneField:
    """The field for the time zone. `prefill`: nothing is known, so the browser may say its own."""

    value: str
    names: Sequence[str]
    prefill: bool
    invalid: bool


@dataclass(frozen=True, slots=True)
class Shown:
    """What the page shows, as the form posts it back."""

    kinds: str
    all_off: str
    language: str
    zone: str


@dataclass(frozen=True, slots=True)
class Recipient:
    """Whose page it is: the masked address, the kind of the email with the link, and what is known and chosen."""

    address: str
    kind: str
    settings: RecipientSettings
    app: UserPreferences

    def gets(self, kind: str) -> bool:
        """Whether the recipient gets this kind, as far as it is their choice."""
        if not {kind, ALL_KINDS}.isdisjoint(self.settings.unsubscribed):
            return False
        return kind in self.settings.preferences.enabled_kinds or kind not in self.app.refused

    def zone(self, default: str) -> str:
        """The time zone that counts."""
        known = (self.settings.preferences.time_zone, self.app.zone)
        return next((zone for zone in known if zone and find_zone(zone) is not None), default)


class PreferenceView:
    """Builds the fields of the page for one recipient. Choices that this daemon does not follow are not shown."""

    def __init__(self, kinds: Sequence[str], schedules: Sequence[Schedule], default_zone: str) -> None:
        self.kinds = kinds  # replaced by a reload
        self.default_zone = default_zone
        self._schedules: Mapping[str, Schedule] = {schedule.kind: schedule for schedule in schedules}

    def build(
        self,
        pages: Pages,
        locale: str,
        recipient: Recipient,
        now: datetime,
        *,
        saved: bool = False,
        zone_text: str = "",
    ) -> dict[str, Any]:
        """The fields of the template. `zone_text` is what somebody typed instead of a time zone."""
        text = pages.texts(locale, "preferences")
        values = {"app": pages.app_name, "address": recipient.address}
        all_off = ALL_KINDS in recipient.settings.unsubscribed
        paused = recipient.settings.preferences.paused(now)
        order = [kind for kind in pages.texts(locale, "kind") if kind in self.kinds]
        rows = [self._row(pages, locale, recipient, kind) for kind in dict.fromkeys([*order, *self.kinds])]
        buttons = [Button(RESUME, "", text["resume"])] if all_off else []
        buttons += [Button(END_PAUSE, "", text["end_pause"])] if paused else []
        shown_language = self.language(recipient, locale)
        zone = recipient.zone(self.default_zone)
        return {
            "text": {**text, "title": text["title"].format(**values), "lead": text["lead"].format(**values)},
            "languages": [Option(name, pages.text(name, "language", "name")) for name in LOCALES],
            "notices": self._messages(pages, locale, recipient, now, saved=saved, zone_text=zone_text),
            "first_buttons": buttons,
            "kinds": rows,
            "selects": self._selects(pages, locale, recipient, now, shown_language),
            "zone": self._zone(recipient, zone, zone_text),
            "shown": Shown(",".join(row.name for row in rows if row.on), "1" * all_off, shown_language, zone),
            "stop": not all_off,
            "codes": pages.text(locale, "note", "codes"),
        }

    @staticmethod
    def language(recipient: Recipient, fallback: str) -> str:
        """The language that the recipient has chosen, here or in the application."""
        chosen = match_locale(recipient.settings.preferences.language)
        return chosen or match_locale(recipient.app.language) or fallback

    def _row(self, pages: Pages, locale: str, recipient: Recipient, kind: str) -> KindRow:
        # The kinds of `mail.kinds_dir` have no name in the texts of the pages.
        label = pages.texts(locale, "kind").get(kind, kind.replace("-", " "))
        when = self._when(pages, locale, recipient, kind)
        return KindRow(kind, label[:1].upper() + label[1:], when, recipient.gets(kind), kind == recipient.kind)

    def _when(self, pages: Pages, locale: str, recipient: Recipient, kind: str) -> str:
        """When the kind comes. The time is named if it is the same on each day, the weekday if there is only one."""
        schedule, chosen = self._schedules.get(kind), recipient.settings.preferences
        texts, plain = pages.texts(locale, "when"), pages.texts(locale, "when_plain")
        if schedule is None or kind not in texts:
            return plain.get(kind, plain["other"])
        name, weekday = kind, None
        if kind == OVERDUE_SUMMARY and chosen.overdue_summary is not None:
            name = f"{kind}_{chosen.overdue_summary}"
            weekday = schedule.weekly_day if chosen.overdue_summary == "weekly" else None
        own = schedule if chosen.morning_hour is None else schedule.for_hour(chosen.morning_hour)
        due_at = own.next_due("UTC", A_MONDAY)
        second, minute, hours, *days = own.cron.split()
        regular = EACH_DAY if "{day}" not in texts[name] or weekday is not None else ONE_DAY
        if not (second == "0" and minute.isdecimal() and hours.isdecimal()) or days[:2] != ["*", "*"]:
            return plain[name]
        if not regular.fullmatch(days[2]):
            return plain[name]
        day = day_name(locale, weekday or due_at.isoweekday(), pages)
        sentence = texts[name].format(time=format_hour(pages, locale, due_at.hour, due_at.minute), day=day)
        return sentence[:1].upper() + sentence[1:]

    def _selects(
        self, pages: Pages, locale: str, recipient: Recipient, now: datetime, shown_language: str
    ) -> list[Select]:
        text, chosen = pages.texts(locale, "preferences"), recipient.settings.preferences
        selects = []
        if any(schedule.morning for schedule in self._schedules.values()):
            hours = [Option(str(hour), format_hour(pages, locale, hour)) for hour in MORNING_HOURS]
            value = "" if chosen.morning_hour is None else str(chosen.morning_hour)
            selects.append(Select("hour", text["hour"], [Option("", text["hour_usual"]), *hours], value))
        if OVERDUE_SUMMARY in self._schedules:
            day = day_name(locale, self._schedules[OVERDUE_SUMMARY].weekly_day, pages)
            options = [
                Option("", text["overdue_usual"]),
                Option("daily", text["overdue_daily"]),
                Option("weekly", text["overdue_weekly"].format(day=day)),
            ]
            selects.append(Select("overdue", text["overdue"], options, chosen.overdue_summary or ""))
        languages = [Option(name, pages.text(name, "language", "name")) for name in LOCALES]
        selects.append(Select("language", text["language"], languages, shown_language))
        pauses = [Option("", text["pause_none"]), *(Option(str(n), text[f"pause_{n}"]) for n in PAUSE_WEEKS)]
        if chosen.paused(now):
            until = text["pause_keep"].format(date=self._end_of_pause(pages, locale, recipient))
            pauses.insert(0, Option(KEEP, until))
        selects.append(Select("pause", text["pause"], pauses, KEEP if chosen.paused(now) else ""))
        return selects

    def _zone(self, recipient: Recipient, zone: str, zone_text: str) -> ZoneField | None:
        if not self._schedules:
            return None
        known = recipient.settings.preferences.time_zone or recipient.app.zone
        prefill = not known and not zone_text
        return ZoneField(zone_text or zone, suggested_time_zones(), prefill, bool(zone_text))

    def _messages(
        self, pages: Pages, locale: str, recipient: Recipient, now: datetime, *, saved: bool, zone_text: str
    ) -> list[Message]:
        text, settings = pages.texts(locale, "preferences"), recipient.settings
        found = []
        if zone_text:
            found.append(Message("warning", text["zone_unknown"].format(zone=zone_text)))
        if saved:
            found.append(Message("good", text["saved"]))
        if settings.suppressed:
            found.append(Message("warning", text.get(main_reason(settings.suppressed), text["manual"])))
        if ALL_KINDS in settings.unsubscribed:
            found.append(Message("plain", text["all_off"]))
        elif settings.preferences.paused(now):
            date = self._end_of_pause(pages, locale, recipient)
            found.append(Message("plain", text["paused"].format(date=date)))
        return found

    def _end_of_pause(self, pages: Pages, locale: str, recipient: Recipient) -> str:
        until = recipient.settings.preferences.paused_until
        assert until is not None
        zone = find_zone(recipient.zone(self.default_zone)) or ZoneInfo("UTC")
        return str(format_date(until.astimezone(zone).date(), pages.text(locale, "format", "date"), locale=locale))


def format_hour(pages: Pages, locale: str, hour: int, minute: int = 0) -> str:
    """A time of day as people say it: `9 am`, `9 h 30`."""
    pattern = pages.text(locale, "format", "hour_minutes" if minute else "hour")
    half = "am" if hour < NOON else "pm"
    return pattern.format(hour=hour, hour12=(hour - 1) % NOON + 1, half=half, minutes=f"{minute:02}")


def day_name(locale: str, isoweekday: int, pages: Pages) -> str:
    """A day on which something happens each week: `Mondays`, `le lundi`."""
    name = get_day_names("wide", "format", locale)[isoweekday - 1]
    return pages.text(locale, "format", "day").format(day=name)
