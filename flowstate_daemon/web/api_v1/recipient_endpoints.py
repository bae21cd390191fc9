"""Recipients: what is known of an address, its preferences, suppressions and unsubscribes."""

from __future__ import annotations

from datetime import UTC, datetime

import structlog

from flowstate_daemon.base.redaction import mask_address
from flowstate_daemon.database.recipients import Suppression, Unsubscribe
from flowstate_daemon.mail.preferences import describe_preferences
from flowstate_daemon.operations.operator import Operator
from flowstate_daemon.web.api_v1 import models
from flowstate_daemon.web.api_v1.cursors import EntryCursor, read_cursor, write_cursor
from flowstate_daemon.web.api_v1.endpoints import ApiError, Call, Endpoint
from flowstate_daemon.web.api_v1.mail_endpoints import recipients_of
from flowstate_daemon.web.api_v1.preference_models import (
    PreferenceDocument,
    RecipientPreferences,
    describe_settings,
)

log = structlog.get_logger()

MAX_PREFERENCES_BYTES = 8_192
START = datetime(1970, 1, 1, tzinfo=UTC)  # pages are ordered by address, whatever the time


class RecipientEndpoints:
    """`/recipients`, `/suppressions`, `/unsubscribes`."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(
                "get",
                "/recipients/{address}",
                "What is known of an address, and why it got an email or not",
                self.recipient,
                models.RecipientDocument,
                names=models.AddressPath,
                query=models.RecipientQuery,
            ),
            Endpoint(
                "get",
                "/recipients/{address}/preferences",
                "What a recipient has chosen; a suppressed address gets no email whatever is chosen",
                self.preferences,
                RecipientPreferences,
                names=models.AddressPath,
            ),
            Endpoint(
                "put",
                "/recipients/{address}/preferences",
                "Replace what a recipient has chosen, as the preference page does",
                self.choose,
                RecipientPreferences,
                names=models.AddressPath,
                body=PreferenceDocument,
                context=lambda: {"kinds": self._operator.catalog.unsubscribable},
                requires_body=True,
                rights="operate",
                max_body_bytes=MAX_PREFERENCES_BYTES,
            ),
            Endpoint(
                "put",
                "/recipients/{address}/suppression",
                "Send nothing to an address",
                self.suppress,
                names=models.AddressPath,
                body=models.NewSuppression,
                rights="operate",
            ),
            Endpoint(
                "delete",
                "/recipients/{address}/suppression",
                "End the suppression of an address",
                self.unsuppress,
                names=models.AddressPath,
                rights="operate",
            ),
            Endpoint(
                "put",
                "/recipients/{address}/unsubscribes/{kind}",
                "Unsubscribe an address from a kind, * for all",
                self.unsubscribe,
                names=models.AddressKindPath,
                rights="operate",
            ),
            Endpoint(
                "delete",
                "/recipients/{address}/unsubscribes/{kind}",
                "Undo the unsubscribe from a kind, * for every unsubscribe of the address",
                self.resubscribe,
                names=models.AddressKindPath,
                rights="operate",
            ),
            Endpoint(
                "get",
                "/suppressions",
                "Addresses that get no email, by address",
                self.suppressions,
                models.SuppressionList,
                query=models.PageQuery,
                errors=(404,),
            ),
            Endpoint(
                "get",
                "/unsubscribes",
                "Kinds of email that people do not want, by address",
                self.unsubscribes,
                models.UnsubscribeList,
                query=models.PageQuery,
                errors=(404,),
            ),
        ]

    async def recipient(self, call: Call) -> models.RecipientDocument:
        address, recipients = call.path.address, recipients_of(self._operator)
        status = (await recipients.suppressions.status_for([address]))[address]
        return models.RecipientDocument(
            address=address,
            suppressed=sorted(status.suppressed),
            unsubscribed=sorted(status.unsubscribed),
            preferences=models.ChosenPreferences.model_validate(describe_preferences(status.preferences)),
            emails=await recipients.history.explain(address, call.query.limit),
        )

    async def preferences(self, call: Call) -> RecipientPreferences:
        address = call.path.address
        stored = await recipients_of(self._operator).preferences.load(address)
        return describe_settings(address, stored, self._operator.catalog.unsubscribable)

    async def choose(self, call: Call) -> RecipientPreferences:
        address, store = call.path.address, recipients_of(self._operator).preferences
        document: PreferenceDocument = call.body
        known = self._operator.catalog.unsubscribable
        settings = document.to_settings()
        await store.save(address, settings, actor=call.actor)
        off = sorted(settings.unsubscribed)
        log.info("preferences_saved", recipient=mask_address(address), changed=True, unsubscribed=off)
        return describe_settings(address, await store.load(address), known)

    async def suppress(self, call: Call) -> None:
        lists = recipients_of(self._operator).suppressions
        await lists.add(call.path.address, "manual", call.body.note or None, actor=call.actor)

    async def unsuppress(self, call: Call) -> None:
        lists = recipients_of(self._operator).suppressions
        if not await lists.remove(call.path.address, actor=call.actor):
            raise ApiError(404, "this address is not suppressed")

    async def unsubscribe(self, call: Call) -> None:
        lists = recipients_of(self._operator).suppressions
        await lists.unsubscribe(call.path.address, call.path.kind, actor=call.actor)

    async def resubscribe(self, call: Call) -> None:
        lists = recipients_of(self._operator).suppressions
        if not await lists.remove_unsubscribes(call.path.address, call.path.kind, actor=call.actor):
            raise ApiError(404, "this address is not unsubscribed from that")

    async def suppressions(self, call: Call) -> models.SuppressionList:
        query: models.PageQuery = call.query
        cursor = read_cursor(query.cursor, EntryCursor)
        after = None if cursor is None else Suppression(cursor.address, cursor.detail, START, None)
        rows = await recipients_of(self._operator).suppressions.page(query.limit, after)
        return models.SuppressionList(
            suppressions=[
                models.SuppressionDocument(address=row.address, reason=row.reason, since=row.since, note=row.note)
                for row in rows
            ],
            next_cursor=None
            if len(rows) < query.limit
            else write_cursor(EntryCursor(rows[-1].address, rows[-1].reason)),
        )

    async def unsubscribes(self, call: Call) -> models.UnsubscribeList:
        query: models.PageQuery = call.query
        cursor = read_cursor(query.cursor, EntryCursor)
        after = None if cursor is None else Unsubscribe(cursor.address, cursor.detail, START)
        rows = await recipients_of(self._operator).suppressions.unsubscribes_page(query.limit, after)
        return models.UnsubscribeList(
            unsubscribes=[
                models.UnsubscribeDocument(address=row.address, kind=row.kind, since=row.since) for row in rows
            ],
            next_cursor=None if len(rows) < query.limit else write_cursor(EntryCursor(rows[-1].address, rows[-1].kind)),
        )
