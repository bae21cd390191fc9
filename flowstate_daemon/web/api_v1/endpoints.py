"""Endpoints declared with their models: one declaration checks a request, serialises the answer, documents both.

Errors are `application/problem+json` (RFC 9457).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal, TypeAlias

import structlog
from aiohttp import web
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from flowstate_daemon.base.errors import FlowstateError, PermanentError, StoreUnavailableError
from flowstate_daemon.base.redaction import redact_text
from flowstate_daemon.queue.admin import JobNotFoundError, JobStateError
from flowstate_daemon.web.bodies import read_body

log = structlog.get_logger()

PROBLEM_TYPE = "application/problem+json"
MAX_BODY_BYTES = 1_048_576
RETRY_AFTER_S = 5
TITLE, VERSION = "FlowState emails", "1"
Method: TypeAlias = Literal["get", "post", "put", "delete"]
Rights: TypeAlias = Literal["read", "operate"]


class ApiModel(BaseModel):
    """What requests have in common: unknown members are errors, so that no misspelt filter is ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True)


class NoBody(ApiModel):
    """A request without a body or without parameters."""


class Problem(BaseModel):
    """An error, as in RFC 9457."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str = "about:blank"
    """Always `about:blank`: the status is the type."""
    title: str
    """The phrase of the status."""
    status: int
    """The HTTP status."""
    detail: str = ""
    """What happened and what to do."""


class ApiError(FlowstateError):
    """An answer with this status and reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Call:
    """One request: the names in its path, its parameters and its body, both checked; `actor` for the audit."""

    path: Mapping[str, str]
    query: Any
    body: Any
    actor: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One operation. `handle` returns a value of the type `response`; None is answered with 204."""

    method: Method
    path: str
    summary: str
    handle: Callable[[Call], Awaitable[Any]]
    response: Any = None
    query: type[ApiModel] = NoBody
    body: type[ApiModel] | None = None
    status: int = 200
    rights: Rights = "read"
    errors: Sequence[int] = ()

    @property
    def operation_id(self) -> str:
        names = [part.strip("{}") for part in self.path.split("/") if part]
        return "_".join([self.method, *names]).replace("-", "_")

    async def answer(self, request: web.Request, actor: str) -> web.Response:
        """Check the request, handle it, serialise the result."""
        try:
            call = Call(request.match_info, self._read_query(request), await self._read_body(request), actor)
            result = await self.handle(call)
        except ValidationError as error:
            return problem(422, describe_errors(error))
        except ApiError as error:
            return problem(error.status, error.reason)
        except StoreUnavailableError as outage:
            return problem(503, outage.reason, {"Retry-After": str(RETRY_AFTER_S)})
        except JobNotFoundError as error:
            return problem(404, error.reason)
        except JobStateError as error:
            return problem(409, error.reason)
        except PermanentError as error:
            return problem(400, error.reason)
        if self.response is None:
            return web.Response(status=204)
        content = TypeAdapter(self.response).dump_json(result, by_alias=True)
        return web.Response(body=content, status=self.status, content_type="application/json")

    def _read_query(self, request: web.Request) -> ApiModel:
        lists = {name for name, field in self.query.model_fields.items() if "Sequence" in str(field.annotation)}
        values: dict[str, Any] = {}
        for name in request.query:
            values[name] = request.query.getall(name) if name in lists else request.query[name]
        return self.query.model_validate(values)

    async def _read_body(self, request: web.Request) -> ApiModel | None:
        if self.body is None:
            return None
        content = await read_body(request, MAX_BODY_BYTES)
        return self.body.model_validate_json(content.strip() or b"{}")


def problem(status: int, detail: str = "", headers: Mapping[str, str] | None = None) -> web.Response:
    """An error. The detail is redacted once more, although our errors carry no secrets."""
    document = Problem(title=HTTPStatus(status).phrase, status=status, detail=redact_text(detail))
    content = document.model_dump_json(exclude_defaults=False).encode()
    return web.Response(body=content, status=status, content_type=PROBLEM_TYPE, headers=headers)


def describe_errors(error: ValidationError) -> str:
    """Every mistake with its place; never the value, which may be a secret."""
    mistakes = [
        f"{'.'.join(str(part) for part in mistake['loc']) or 'body'}: {mistake['msg']}"
        for mistake in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return "; ".join(mistakes)


def build_document(endpoints: Sequence[Endpoint], root: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of these endpoints. Pure."""
    definitions: dict[str, Any] = {}
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method] = _operation(endpoint, definitions)
    _schema(Problem, definitions, "serialization")
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": VERSION},
        "servers": [{"url": root}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(definitions.items())),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(endpoint: Endpoint, definitions: dict[str, Any]) -> dict[str, Any]:
    statuses = {*endpoint.errors, 401, 403, 429, 503}
    if endpoint.query is not NoBody or endpoint.body is not None or "{" in endpoint.path:
        statuses |= {400, 422}
    if endpoint.body is not None:
        statuses |= {408, 413}
    reference = {"$ref": "#/components/schemas/Problem"}
    responses: dict[str, Any] = {
        str(status): {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM_TYPE: {"schema": reference}},
        }
        for status in sorted(statuses)
    }
    if endpoint.response is None:
        responses["204"] = {"description": "Done"}
    else:
        schema = _schema(endpoint.response, definitions, "serialization")
        responses[str(endpoint.status)] = {
            "description": HTTPStatus(endpoint.status).phrase,
            "content": {"application/json": {"schema": schema}},
        }
    operation: dict[str, Any] = {
        "operationId": endpoint.operation_id,
        "summary": endpoint.summary,
        "description": f"Needs the right to {endpoint.rights}.",
        "parameters": [*_path_parameters(endpoint), *_query_parameters(endpoint, definitions)],
        "responses": dict(sorted(responses.items())),
    }
    if endpoint.body is not None:
        schema = _schema(endpoint.body, definitions, "validation")
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _path_parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    names = [part.strip("{}") for part in endpoint.path.split("/") if part.startswith("{")]
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for name in names
    ]


def _query_parameters(endpoint: Endpoint, definitions: dict[str, Any]) -> list[dict[str, Any]]:
    schema = endpoint.query.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions.update(schema.pop("$defs", {}))
    required = set(schema.get("required", ()))
    return [
        {"name": name, "in": "query", "required": name in required, "schema": part}
        for name, part in schema.get("properties", {}).items()
    ]


def _schema(model: Any, definitions: dict[str, Any], mode: Literal["validation", "serialization"]) -> dict[str, Any]:
    """The schema of a model; what it refers to is added to the definitions."""
    schema = TypeAdapter(model).json_schema(mode=mode, ref_template="#/components/schemas/{model}")
    definitions.update(schema.pop("$defs", {}))
    name = getattr(model, "__name__", "")
    if schema.get("type") != "object" or not name:
        return schema
    definitions[name] = schema
    return {"$ref": f"#/components/schemas/{name}"}


def encode_document(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
