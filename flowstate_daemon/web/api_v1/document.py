"""The OpenAPI 3.1 document of declared endpoints. Pure: the models that check requests also describe them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Literal

from flowstate_daemon.web.api_v1.endpoints import ApiModel, Endpoint, Nothing, adapter
from flowstate_daemon.web.responses import PROBLEM_TYPE, Problem

TITLE, VERSION = "FlowState emails", "1"
REFERENCE = "#/components/schemas/{model}"
# Token, rights or host name, unknown parameters, rate limit, an unreachable store.
ALWAYS = (401, 403, 422, 429, 503)
FOR_BODIES = (400, 408, 413)
Definitions = dict[str, Any]


def build_document(endpoints: Sequence[Endpoint], root: str) -> dict[str, Any]:
    """The document, without description of how it is served."""
    definitions: Definitions = {}
    _schema(Problem, definitions, "serialization")
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method] = _operation(endpoint, definitions)
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


def encode_document(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def operation_id(endpoint: Endpoint) -> str:
    names = [part.strip("{}") for part in endpoint.path.split("/") if part]
    return "_".join([endpoint.method, *names]).replace("-", "_")


def statuses(endpoint: Endpoint) -> list[int]:
    """The errors that an endpoint may answer."""
    found = {*endpoint.errors, *ALWAYS}
    if endpoint.body is not None:
        found |= {*FOR_BODIES}
    if endpoint.query is not Nothing:
        found |= {400}
    if endpoint.names is not Nothing:
        found |= {400, 404}
    return sorted(found)


def _operation(endpoint: Endpoint, definitions: Definitions) -> dict[str, Any]:
    content = {PROBLEM_TYPE: {"schema": {"$ref": REFERENCE.format(model=Problem.__name__)}}}
    responses: dict[str, Any] = {
        str(status): {"description": HTTPStatus(status).phrase, "content": content} for status in statuses(endpoint)
    }
    for status, kind in ({204: None} if endpoint.response is None else {endpoint.status: endpoint.response}).items():
        responses[str(status)] = _response(status, kind, definitions)
    for status, kind in endpoint.others.items():
        responses[str(status)] = _response(status, kind, definitions)
    operation: dict[str, Any] = {
        "operationId": operation_id(endpoint),
        "summary": endpoint.summary,
        "description": f"Needs the right to {endpoint.rights}.",
        "parameters": [
            *_parameters(endpoint.names, "path", definitions),
            *_parameters(endpoint.query, "query", definitions),
            *_parameters(endpoint.headers, "header", definitions),
        ],
        "responses": dict(sorted(responses.items())),
    }
    if endpoint.body is not None:
        operation["requestBody"] = {
            "required": endpoint.requires_body
            or any(part.is_required() for part in endpoint.body.model_fields.values()),
            "content": {"application/json": {"schema": _schema(endpoint.body, definitions, "validation")}},
        }
    return operation


def _response(status: int, kind: Any, definitions: Definitions) -> dict[str, Any]:
    described: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if kind is not None:
        described["content"] = {"application/json": {"schema": _schema(kind, definitions, "serialization")}}
    return described


def _parameters(
    model: type[ApiModel], place: Literal["path", "query", "header"], definitions: Definitions
) -> list[Any]:
    schema = adapter(model).json_schema(ref_template=REFERENCE)
    definitions.update(schema.pop("$defs", {}))
    required = set(schema.get("required", ()))
    return [
        {"name": name, "in": place, "required": name in required, **_parameter(part)}
        for name, part in schema.get("properties", {}).items()
    ]


def _parameter(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a parameter, which has no null: one that is absent is left out."""
    part = {name: value for name, value in schema.items() if name not in ("anyOf", "description", "title")}
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if choices:
        part = {name: value for name, value in part.items() if value is not None} | dict(choices[0])
    described = {"schema": part}
    return described | ({"description": schema["description"]} if "description" in schema else {})


def _schema(kind: Any, definitions: Definitions, mode: Literal["validation", "serialization"]) -> dict[str, Any]:
    """The schema of a type; what it refers to is added to the definitions."""
    schema = adapter(kind).json_schema(mode=mode, ref_template=REFERENCE)
    definitions.update(schema.pop("$defs", {}))
    name = getattr(kind, "__name__", "")
    if schema.get("type") != "object" or not name:
        return schema
    definitions[name] = schema
    return {"$ref": REFERENCE.format(model=name)}
