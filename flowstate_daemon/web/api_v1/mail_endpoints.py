"""Emails: enqueued by other programs, listed and explained from the ledger."""

from __future__ import annotations

from datetime import timedelta

from flowstate_daemon.database.mail_list import LedgerPosition, OutcomeFilter
from flowstate_daemon.mail_producer import ORIGIN, NewMail
from flowstate_daemon.operations.operator import Operator, Recipients
from flowstate_daemon.web.ages import age_ms
from flowstate_daemon.web.api_v1 import models
from flowstate_daemon.web.api_v1.cursors import RowCursor, read_cursor, write_cursor
from flowstate_daemon.web.api_v1.endpoints import ApiError, Call, Endpoint
from flowstate_daemon.web.api_v1.enqueue_models import Enqueued, KeyHeaders, NewEmails

NO_LEDGER = "this needs Postgres: set DATABASE_URL"


class MailEndpoints:
    """`/emails`."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(
                "post",
                "/emails",
                "Enqueue emails, once for each idempotency key",
                self.enqueue,
                Enqueued,
                headers=KeyHeaders,
                body=NewEmails,
                context=lambda: {"kinds": self._operator.producer.kinds},
                status=201,
                rights="operate",
                errors=(409,),
            ),
            Endpoint(
                "get",
                "/emails",
                "Outcomes of emails, newest first",
                self.emails,
                models.EmailList,
                query=models.EmailQuery,
                errors=(404,),
            ),
            Endpoint(
                "get",
                "/emails/{mail}",
                "One email: attempts, decisions, events of the provider",
                self.email,
                models.EmailHistory,
                names=models.MailPath,
            ),
        ]

    async def enqueue(self, call: Call) -> Enqueued:
        body: NewEmails = call.body
        trace = call.request.headers.get("traceparent")
        mails = [
            NewMail(
                mail.kind,
                mail.to,
                mail.context,
                delay_ms=mail.delay_ms,
                locale=mail.locale,
                origin=ORIGIN,
                traceparent=trace,
            )
            for mail in body.emails
        ]
        key = body.idempotency_key or call.headers.idempotency_key
        ids, repeated = await self._operator.enqueue.enqueue(mails, key)
        return Enqueued(job_ids=ids, repeated=repeated)

    async def emails(self, call: Call) -> models.EmailList:
        query: models.EmailQuery = call.query
        now = self._operator.clock.now()
        wanted = OutcomeFilter(
            kinds=query.kind,
            outcomes=query.outcome,
            address=query.recipient,
            reason=query.reason,
            since=None if query.newer_than is None else now - age(query.newer_than),
            until=None if query.older_than is None else now - age(query.older_than),
        )
        cursor = read_cursor(query.cursor, RowCursor)
        page = await recipients_of(self._operator).mails.page(wanted, query.limit, position_of(cursor))
        documents = [
            models.EmailDocument(
                mail=row.mail,
                at=row.at,
                address=row.address,
                kind=row.kind,
                job_id=row.job_id,
                attempt=row.attempt,
                outcome=row.outcome,
                provider_id=row.provider_id,
                reason=row.reason,
            )
            for row in page.rows
        ]
        after = page.following
        following = None if after is None else write_cursor(RowCursor(after.at, after.key, after.outcome))
        return models.EmailList(emails=documents, next_cursor=following, partial=page.is_partial)

    async def email(self, call: Call) -> models.EmailHistory:
        found = await recipients_of(self._operator).mails.mail(call.path.mail)
        if found is None:
            raise ApiError(404, "the ledger has no such email: it was deleted after its time, or never written")
        address, record = found
        return models.EmailHistory(address=address, email=record)


def recipients_of(operator: Operator) -> Recipients:
    """What Postgres knows. Raises ApiError without Postgres."""
    if operator.recipients is None:
        raise ApiError(404, NO_LEDGER)
    return operator.recipients


def age(text: str) -> timedelta:
    return timedelta(milliseconds=age_ms(text))


def position_of(cursor: RowCursor | None) -> LedgerPosition | None:
    return None if cursor is None else LedgerPosition(cursor.at, cursor.key, cursor.outcome)
