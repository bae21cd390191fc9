"""`GET|PUT /api/v1/recipients/<address>/preferences`: what a recipient has chosen, for the application's own page.

PUT replaces everything that the recipient can choose; the effect is that of the preference page. `auth.BearerAuth`
guards the routes.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

import structlog
from aiohttp import web
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo

from flowstate_daemon.base.address import parse_address
from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.base.redaction import mask_address
from flowstate_daemon.database.preferences import PreferenceStore, RecipientSettings
from flowstate_daemon.mail.policy import ALL_KINDS
from flowstate_daemon.mail.preferences import MORNING_HOURS, Cadence, Preferences, find_time_zone
from flowstate_daemon.web.auth import ROOT, BearerAuth, error_response
from flowstate_daemon.web.bodies import read_body
from flowstate_daemon.web.responses import json_response

log = structlog.get_logger()

MAX_BODY_BYTES = 8_192
LATEST = datetime(9999, 1, 1, tzinfo=UTC)


def _time_zone(name: str) -> str:
    if find_time_zone(name) != name:
        raise ValueError("is not the name of an IANA time zone, such as Europe/Paris")
    return name


def _kinds(kinds: dict[str, bool | None], info: ValidationInfo) -> dict[str, bool | None]:
    known = info.context or ()
    if not kinds.keys() <= set(known):
        raise ValueError(f"may only contain {', '.join(known)}")
    return kinds


def _instant(instant: datetime) -> datetime:
    if instant > LATEST:
        raise ValueError("is too far in the future")
    return instant.astimezone(UTC)


class PreferenceDocument(BaseModel):
    """Everything that a recipient can choose. Null, as a missing field, means no choice.

    The context of its validation are the names of the kinds that people can choose not to get.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, strict=True)

    language: Literal["en", "fr"] | None = None
    time_zone: Annotated[str, Field(max_length=64), AfterValidator(_time_zone)] | None = None
    morning_hour: Annotated[int, Field(ge=MORNING_HOURS[0], le=MORNING_HOURS[-1])] | None = None
    overdue_summary: Cadence | None = None
    paused_until: Annotated[AwareDatetime, AfterValidator(_instant)] | None = None
    all_off: bool = False
    kinds: Annotated[dict[str, bool | None], Field(default_factory=dict), AfterValidator(_kinds)]

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


def to_document(settings: RecipientSettings, known: Sequence[str]) -> dict[str, object]:
    """The stored settings in the form that PUT accepts. Kinds of other versions and zones of others are left out."""
    chosen, off = settings.preferences, settings.unsubscribed
    kinds = {name: False if name in off else True if name in chosen.enabled_kinds else None for name in known}
    return {
        "language": chosen.language,
        "time_zone": chosen.time_zone,
        "morning_hour": chosen.morning_hour,
        "overdue_summary": chosen.overdue_summary,
        "paused_until": chosen.paused_until,
        "all_off": ALL_KINDS in off,
        "kinds": kinds,
    }


class RecipientsApi:
    """The routes below `/recipients`."""

    def __init__(self, auth: BearerAuth, store: PreferenceStore, kinds: Sequence[str]) -> None:
        """`kinds` are those that people can choose not to get."""
        self.kinds = kinds  # replaced by a reload
        self._auth = auth
        self._store = store

    def routes(self) -> list[web.RouteDef]:
        path, guarded = f"{ROOT}/recipients/{{address}}/preferences", self._auth.require_token
        return [web.get(path, guarded(self.get)), web.put(path, guarded(self.put))]

    async def get(self, request: web.Request) -> web.Response:
        """What is chosen, and whether the address is suppressed: then it gets no email whatever is chosen."""
        address = _address(request)
        return self._response(address, await self._store.load(address))

    async def put(self, request: web.Request) -> web.Response:
        """Replace what is chosen; 422 names every mistake of the body, and nothing is changed."""
        address = _address(request)
        try:
            body = await read_body(request, MAX_BODY_BYTES)
            document = PreferenceDocument.model_validate_json(body, context=self.kinds)
        except ValidationError as error:
            return error_response(422, "; ".join(_describe(mistake) for mistake in error.errors()))
        settings = document.to_settings()
        await self._store.save(address, settings)
        off = sorted(settings.unsubscribed)
        log.info("preferences_saved", recipient=mask_address(address), changed=True, unsubscribed=off)
        return self._response(address, await self._store.load(address))

    def _response(self, address: str, settings: RecipientSettings) -> web.Response:
        document = to_document(settings, self.kinds)
        return json_response({"address": address, "suppressed": sorted(settings.suppressed), "preferences": document})


def _address(request: web.Request) -> str:
    try:
        return parse_address(request.match_info["address"].strip())
    except InvalidDataError as error:
        raise InvalidDataError("address: expected an email address in the path") from error


def _describe(mistake: object) -> str:
    """One mistake, with the path to the field and without its value."""
    assert isinstance(mistake, dict)
    path = ".".join(str(part) for part in mistake["loc"]) or "body"
    return f"{path}: {str(mistake['msg']).removeprefix('Value error, ')}"
