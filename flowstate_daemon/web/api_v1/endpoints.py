"""Endpoints declared with their models: the declaration checks requests and serialises responses.

`document.py` describes the same declarations in OpenAPI. Errors are `application/problem+json` (RFC 9457).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, TypeAlias

from aiohttp import web
from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError

from flowstate_daemon.base.docstrings import attribute_docstrings
from flowstate_daemon.base.errors import FlowstateError, PermanentError, StoreUnavailableError
from flowstate_daemon.operations.enqueue import KeyReusedError
from flowstate_daemon.queue.admin import JobNotFoundError, JobStateError
from flowstate_daemon.web.bodies import read_body
from flowstate_daemon.web.limits import RETRY_AFTER_S
from flowstate_daemon.web.responses import problem
from flowstate_daemon.web.session import Rights

MAX_BODY_BYTES = 1_048_576
UNFULFILLABLE = "unfulfillable"  # the type of mistakes that are no mistakes of form
Method: TypeAlias = Literal["get", "post", "put", "delete"]
# The first class that fits gives the status; any other error is a bug.
STATUS_OF_ERROR: tuple[tuple[type[FlowstateError], int], ...] = (
    (StoreUnavailableError, 503),
    (JobNotFoundError, 404),
    (JobStateError, 409),
    (KeyReusedError, 409),
    (PermanentError, 400),
)


class DescribedModel(BaseModel):
    """A model whose members are described by their docstrings in the OpenAPI document."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler(core_schema)
        texts, members = attribute_docstrings(cls), handler.resolve_ref_schema(schema).get("properties", {})
        for name, member in cls.model_fields.items():
            if name in texts:
                members[member.alias or name].setdefault("description", texts[name])
        return schema


class ApiModel(DescribedModel):
    """What requests have in common: unknown members are errors, so that no misspelt filter is ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Nothing(ApiModel):
    """No parameters."""


class ApiError(FlowstateError):
    """An answer with this status and reason."""

    def __init__(self, status: int, reason: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Call:
    """One request: the names in its path, its parameters, headers and body, all checked; `actor` for the audit log."""

    path: Any
    query: Any
    headers: Any
    body: Any
    actor: str
    request: web.Request


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One operation. `handle` returns a value of the type `response`; None is answered with 204.

    It may also return a response that it has built or streamed itself, with one of the types in `response` and `others`
    (by status). `context` is what the validators of the body need to know of this daemon, such as its kinds of email.
    """

    method: Method
    path: str
    summary: str
    handle: Callable[[Call], Awaitable[Any]]
    response: Any = None
    names: type[ApiModel] = Nothing
    query: type[ApiModel] = Nothing
    headers: type[ApiModel] = Nothing
    body: type[ApiModel] | None = None
    status: int = 200
    others: Mapping[int, Any] = field(default_factory=dict)
    rights: Rights = "read"
    errors: Sequence[int] = ()
    max_body_bytes: int = MAX_BODY_BYTES
    context: Callable[[], Mapping[str, Any]] = dict
    requires_body: bool = False  # an empty body is an error, because the defaults would delete something

    async def answer(self, request: web.Request, actor: str) -> web.StreamResponse:
        """Check the request, handle it, serialise the result."""
        mistakes: list[ErrorDetails] = []
        call = await self._read(request, actor, mistakes)
        if mistakes:
            return problem(status_of(mistakes), describe_mistakes(mistakes))
        try:
            result = await self.handle(call)
        except FlowstateError as error:
            return error_problem(error)
        if isinstance(result, web.StreamResponse):
            return result
        return json_document(self.response, result, self.status)

    async def _read(self, request: web.Request, actor: str, mistakes: list[ErrorDetails]) -> Call:
        """The request. All its mistakes are added to `mistakes`; what they are in is then None."""
        names = validate(lambda: self.names.model_validate(dict(request.match_info)), mistakes)
        query = validate(lambda: self.query.model_validate(read_query(request, self.query)), mistakes)
        headers = validate(lambda: self.headers.model_validate(read_headers(request, self.headers)), mistakes)
        return Call(names, query, headers, await self._read_body(request, headers, mistakes), actor, request)

    async def _read_body(self, request: web.Request, headers: Any, mistakes: list[ErrorDetails]) -> Any:
        model = self.body
        if model is None:
            return None
        # An empty body is that of a client that leaves everything to the defaults.
        content = (await read_body(request, self.max_body_bytes)).strip() or (b"" if self.requires_body else b"{}")
        context = {"headers": headers, **self.context()}
        # Strict: `"yes"` is no boolean.
        return validate(lambda: model.model_validate_json(content, strict=True, context=context), mistakes)


def validate(build: Callable[[], ApiModel], mistakes: list[ErrorDetails]) -> ApiModel | None:
    """What `build` returns; or None, with its mistakes added to those of the rest of the request."""
    try:
        return build()
    except ValidationError as error:
        # Without the values, which may be secrets.
        mistakes += error.errors(include_url=False, include_context=False, include_input=False)
        return None


def unfulfillable(reason: str) -> PydanticCustomError:
    """The error of a validator for a value of the right form that cannot be used: on its own it is 400, not 422."""
    return PydanticCustomError(UNFULFILLABLE, "{reason}", {"reason": reason})


def error_problem(error: FlowstateError) -> web.Response:
    """The response to an expected error. Raises any other one: it is a bug."""
    if isinstance(error, ApiError):
        wait = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
        return problem(error.status, error.reason, wait)
    for kind, status in STATUS_OF_ERROR:
        if isinstance(error, kind):
            is_outage = kind is StoreUnavailableError
            return problem(status, error.reason, {"Retry-After": str(RETRY_AFTER_S)} if is_outage else None)
    raise error


def read_query(request: web.Request, model: type[ApiModel]) -> dict[str, Any]:
    """The parameters of a request; a list for those that may be repeated, and for those that were although they may
    not, which is a mistake that the model finds.
    """
    repeatable = list_members(model)
    values = {name: request.query.getall(name) for name in request.query}
    return {name: found if len(found) > 1 or name in repeatable else found[0] for name, found in values.items()}


def read_headers(request: web.Request, model: type[ApiModel]) -> dict[str, Any]:
    """The headers that the model names; a list for one that is repeated, which is a mistake that the model finds."""
    names = adapter(model).json_schema().get("properties", {})
    values = {name: request.headers.getall(name) for name in names if name in request.headers}
    return {name: found if len(found) > 1 else found[0] for name, found in values.items()}


def json_document(kind: Any, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A value of a type that the OpenAPI document describes; 204 for the type None."""
    if kind is None:
        return web.Response(status=204, headers=headers)
    content = adapter(kind).dump_json(value, by_alias=True)
    return web.Response(body=content, status=status, content_type="application/json", headers=headers)


@cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """Built once for each type: it takes milliseconds."""
    return TypeAdapter(kind)


@cache
def list_members(model: type[ApiModel]) -> frozenset[str]:
    """The members that hold lists, as repeated parameters do."""
    schema = adapter(model).json_schema()
    return frozenset(name for name, part in schema.get("properties", {}).items() if part.get("type") == "array")


def status_of(mistakes: Sequence[ErrorDetails]) -> int:
    """400 if the body is not JSON at all, or if nothing is wrong with the form of the request; else 422. Pure."""
    kinds = {mistake["type"] for mistake in mistakes}
    return 400 if "json_invalid" in kinds or kinds == {UNFULFILLABLE} else 422


def describe_mistakes(mistakes: Sequence[ErrorDetails]) -> str:
    """Every mistake with its place; never the value, which may be a secret. Pure."""
    return "; ".join(
        f"{'.'.join(str(part) for part in mistake['loc']) or 'body'}: {mistake['msg'].removeprefix('Value error, ')}"
        for mistake in mistakes
    )
