"""Recipients: what is known of an address, suppressions and unsubscribes."""

from __future__ import annotations

from datetime import UTC, datetime

from flowstate_daemon.base.address import parse_address
from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.database.recipients import Suppression, Unsubscribe
from flowstate_daemon.operations.operator import Operator
from flowstate_daemon.web.api_v1 import models
from flowstate_daemon.web.api_v1.cursors import EntryCursor, read_cursor, write_cursor
from flowstate_daemon.web.api_v1.endpoints import ApiError, Call, Endpoint
from flowstate_daemon.web.api_v1.mail_endpoints import recipients_of

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
                "Undo the unsubscribe from a kind, * for all",
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
        address, recipients = address_of(call), recipients_of(self._operator)
        status = (await recipients.suppressions.status_for([address]))[address]
        return models.RecipientDocument(
            address=address,
            suppressed=sorted(status.suppressed),
            unsubscribed=sorted(status.unsubscribed),
            emails=await recipients.history.explain(address, call.query.limit),
        )

    async def suppress(self, call: Call) -> None:
        lists = recipients_of(self._operator).suppressions
        await lists.add(address_of(call), "manual", call.body.note or None, actor=call.actor)

    async def unsuppress(self, call: Call) -> None:
        lists = recipients_of(self._operator).suppressions
        if not await lists.remove(address_of(call), actor=call.actor):
            raise ApiError(404, "this address is not suppressed")

    async def unsubscribe(self, call: Call) -> None:
        lists = recipients_of(self._operator).suppressions
        await lists.unsubscribe(address_of(call), call.path.kind, actor=call.actor)

    async def resubscribe(self, call: Call) -> None:
        lists = recipients_of(self._operator).suppressions
        if not await lists.resubscribe(address_of(call), call.path.kind, actor=call.actor):
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


def address_of(call: Call) -> str:
    """The address in the path. Raises InvalidDataError."""
    try:
        return parse_address(call.path.address.strip())
    except InvalidDataError as error:
        raise InvalidDataError("address: expected an email address in the path") from error
