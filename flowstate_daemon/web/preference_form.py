"""The form of the preference page: what it posts, and the settings that follow from it. Pure.

Only what the recipient has changed on the page is stored. What was shown is part of the form, so that a form of
yesterday does not undo today's unsubscribe, and a default that was shown does not become a choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

from flowstate_daemon.database.preferences import RecipientSettings
from flowstate_daemon.mail.locales import LOCALES
from flowstate_daemon.mail.policy import ALL_KINDS
from flowstate_daemon.mail.preferences import (
    MORNING_HOURS,
    PAUSE_WEEKS,
    Cadence,
    Preferences,
    end_of_pause,
    find_time_zone,
)

T = TypeVar("T")

RESUME, END_PAUSE = "resume", "end_pause"  # the values of buttons; the template itself has `save` and `stop`
KEEP = "keep"
MAX_FIELDS = 200
CADENCES: Mapping[str, Cadence | None] = {"": None, "daily": "daily", "weekly": "weekly"}
HOURS: Mapping[str, int | None] = {"": None, **{str(hour): hour for hour in MORNING_HOURS}}


class InvalidFormError(ValueError):
    """The form is not one of ours."""


class UnknownZoneError(ValueError):
    """The time zone that was typed does not exist."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


@dataclass(frozen=True, slots=True)
class FormContext:
    """What the form is applied to: the kinds that it lists, the default time zone, and the time."""

    kinds: Sequence[str]
    default_zone: str
    now: datetime


def parse_form(body: bytes) -> Mapping[str, str]:
    """The fields of a URL-encoded form. Raises InvalidFormError."""
    try:
        return dict(parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError as error:
        raise InvalidFormError from error


def apply_form(form: Mapping[str, str], current: RecipientSettings, context: FormContext) -> RecipientSettings:
    """The settings after the form. Raises InvalidFormError and UnknownZoneError; then nothing is to be changed."""
    action = form.get("action")
    if action == "save":
        return _apply_kinds(form, replace(current, preferences=_preferences(form, current, context)), context)
    if action == "stop":
        return replace(current, unsubscribed=current.unsubscribed | {ALL_KINDS})
    if action == RESUME:
        return replace(current, unsubscribed=current.unsubscribed - {ALL_KINDS})
    if action == END_PAUSE:
        return replace(current, preferences=replace(current.preferences, paused_until=None))
    raise InvalidFormError


def _preferences(form: Mapping[str, str], current: RecipientSettings, context: FormContext) -> Preferences:
    chosen = current.preferences
    zone = _time_zone(form, chosen)
    return replace(
        chosen,
        language=_language(form, chosen),
        time_zone=zone,
        morning_hour=_choice(form, "hour", HOURS, chosen.morning_hour),
        overdue_summary=_choice(form, "overdue", CADENCES, chosen.overdue_summary),
        paused_until=_pause(form, chosen, ZoneInfo(zone or context.default_zone), context.now),
    )


def _choice(form: Mapping[str, str], name: str, choices: Mapping[str, T], current: T) -> T:
    """One of the choices. A field that the page did not show leaves the current one."""
    if name not in form:
        return current
    if form[name] not in choices:
        raise InvalidFormError
    return choices[form[name]]


def _language(form: Mapping[str, str], chosen: Preferences) -> str | None:
    language = form.get("language", form.get("shown_language"))
    if language == form.get("shown_language"):
        return chosen.language
    if language not in LOCALES:
        raise InvalidFormError
    return language


def _time_zone(form: Mapping[str, str], chosen: Preferences) -> str | None:
    text = form.get("time_zone", form.get("shown_zone", "")).strip()
    if text == form.get("shown_zone", ""):
        return chosen.time_zone
    zone = find_time_zone(text) if text else None
    if text and zone is None:
        raise UnknownZoneError(text)
    return zone


def _pause(form: Mapping[str, str], chosen: Preferences, zone: ZoneInfo, now: datetime) -> datetime | None:
    weeks = form.get("pause", KEEP)
    if weeks == KEEP:
        return chosen.paused_until
    if weeks == "":
        return None
    if weeks not in {str(number) for number in PAUSE_WEEKS}:
        raise InvalidFormError
    return end_of_pause(now, int(weeks), zone)


def _apply_kinds(form: Mapping[str, str], current: RecipientSettings, context: FormContext) -> RecipientSettings:
    """Switch those kinds that were ticked or unticked. While all are off, the page shows none as ticked."""
    shown = set(form.get("shown", "").split(","))
    ticked = {kind for kind in context.kinds if f"on.{kind}" in form}
    on, off = ticked - shown, (shown & set(context.kinds)) - ticked
    unsubscribed = set(current.unsubscribed)
    if form.get("shown_all_off") and on and ALL_KINDS in unsubscribed:
        unsubscribed.remove(ALL_KINDS)
        off |= set(context.kinds) - ticked
    enabled = (current.preferences.enabled_kinds | on) - off
    preferences = replace(current.preferences, enabled_kinds=frozenset(enabled))
    return replace(current, preferences=preferences, unsubscribed=frozenset((unsubscribed - on) | off))
