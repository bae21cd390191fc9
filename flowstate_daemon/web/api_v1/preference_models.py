"""What a recipient has chosen, as the API reads and writes it for the application's own page."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, Field, ValidationInfo, field_validator

from flowstate_daemon.database.preferences import RecipientSettings
from flowstate_daemon.mail.policy import ALL_KINDS
from flowstate_daemon.mail.preferences import MORNING_HOURS, Cadence, Preferences, find_time_zone
from flowstate_daemon.web.api_v1.endpoints import ApiModel
from flowstate_daemon.web.api_v1.models import Document

LATEST = datetime(9999, 1, 1, tzinfo=UTC)


def _time_zone(name: str) -> str:
    if find_time_zone(name) != name:
        raise ValueError("is not the name of an IANA time zone, such as Europe/Paris")
    return name


def _instant(instant: datetime) -> datetime:
    if instant > LATEST:
        raise ValueError("is too far in the future")
    return instant.astimezone(UTC)


class PreferenceDocument(ApiModel):
    """Everything that a recipient can choose. Null, as a missing field, means no choice."""

    language: Literal["en", "fr"] | None = None
    time_zone: Annotated[str, Field(max_length=64), AfterValidator(_time_zone)] | None = None
    """The name of an IANA time zone."""
    morning_hour: Annotated[int, Field(ge=MORNING_HOURS[0], le=MORNING_HOURS[-1])] | None = None
    """The local hour of the morning emails."""
    overdue_summary: Cadence | None = None
    paused_until: Annotated[AwareDatetime, AfterValidator(_instant)] | None = None
    all_off: bool = False
    """Nothing but what the recipient asks for, such as codes."""
    kinds: Annotated[dict[str, bool | None], Field(default_factory=dict)]
    """Kinds that are switched on or off one by one."""

    @field_validator("kinds")
    @classmethod
    def _are_known(cls, kinds: dict[str, bool | None], info: ValidationInfo) -> dict[str, bool | None]:
        known: Sequence[str] = info.context["kinds"] if info.context else ()
        if not kinds.keys() <= set(known):
            raise ValueError(f"may only contain {', '.join(known)}")
        return kinds

    def to_settings(self) -> RecipientSettings:
        """The settings that are stored."""
        off = {kind for kind, on in self.kinds.items() if on is False}
        preferences = Preferences(
            self.language,
            self.time_zone,
            self.morning_hour,
            self.overdue_summary,
            self.paused_until,
            frozenset(kind for kind, on in self.kinds.items() if on),
        )
        return RecipientSettings(preferences, frozenset({*off, ALL_KINDS} if self.all_off else off))


class RecipientPreferences(Document):
    """What is chosen, and why the address gets no email whatever is chosen."""

    address: str
    suppressed: list[str]
    preferences: PreferenceDocument


def describe_settings(address: str, settings: RecipientSettings, known: Sequence[str]) -> RecipientPreferences:
    """The stored settings, in the form that PUT accepts. Kinds that are not among the `known` ones are left out."""
    chosen, off = settings.preferences, settings.unsubscribed
    kinds = {name: False if name in off else True if name in chosen.enabled_kinds else None for name in known}
    # Not validated: another version of this daemon, or of the time zone data, may have stored it.
    document = PreferenceDocument.model_construct(
        language=chosen.language,
        time_zone=chosen.time_zone,
        morning_hour=chosen.morning_hour,
        overdue_summary=chosen.overdue_summary,
        paused_until=chosen.paused_until,
        all_off=ALL_KINDS in off,
        kinds=kinds,
    )
    return RecipientPreferences.model_construct(
        address=address, suppressed=sorted(settings.suppressed), preferences=document
    )
