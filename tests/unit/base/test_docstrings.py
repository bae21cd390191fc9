"""The docstrings of attributes, which describe settings and the members of API documents."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode

from flowstate_daemon import config, web
from flowstate_daemon.base.docstrings import attribute_docstrings
from flowstate_daemon.config.loader import SECTIONS
from flowstate_daemon.web.api_v1.endpoints import DescribedModel
from flowstate_daemon.web.api_v1.models import AddressKindPath, JobDocument, JobQuery
from flowstate_daemon.web.responses import Problem


def test_a_docstring_belongs_to_the_attribute_above_it() -> None:
    """Attributes without one are left out; indentation is removed."""
    texts = attribute_docstrings(SECTIONS["redis"])
    assert texts["port"] == "Redis port; ignored when url contains one."
    assert "\n " not in "".join(texts.values())
    assert "id" not in attribute_docstrings(JobDocument)


def test_docstrings_of_base_classes_are_included() -> None:
    """A member that is inherited has its description in each model."""
    assert attribute_docstrings(JobQuery).keys() > attribute_docstrings(JobQuery.__mro__[1]).keys() > set()
    assert AddressKindPath.model_json_schema()["properties"].keys() == {"address", "kind"}


def test_every_setting_has_a_description() -> None:
    """No key of the configuration is left without one: error messages show it."""
    for section in SECTIONS.values():
        assert attribute_docstrings(section).keys() == section.model_fields.keys()


def test_a_class_of_another_package_has_none() -> None:
    """Only the source of this project is read."""
    assert attribute_docstrings(BaseModel) == {}


def models() -> list[type[BaseModel]]:
    """Every model of the configuration and of the HTTP server."""
    names = [
        module.name
        for package in (config, web)
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]
    members = [member for name in names for member in vars(importlib.import_module(name)).values()]
    found = {each for each in members if isinstance(each, type) and issubclass(each, BaseModel)}
    return sorted(found, key=lambda model: (model.__module__, model.__name__))


def test_no_model_parses_its_source_at_the_import() -> None:
    """pydantic's own way would cost 1 to 2 ms for each model at every start."""
    assert [model for model in models() if model.model_config.get("use_attribute_docstrings")] == []


@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_schemas_have_the_descriptions(mode: JsonSchemaMode) -> None:
    """Every docstring of a member of the API arrives in the JSON schema of its model, whatever its configuration."""
    described = [model for model in models() if issubclass(model, DescribedModel)]
    assert len(described) > 40
    for model in described:
        members = model.model_json_schema(mode=mode).get("properties", {})
        texts = {model.model_fields[name].alias or name: text for name, text in attribute_docstrings(model).items()}
        assert {name: members[name].get("description") for name in texts} == texts


def test_explicit_descriptions_stay() -> None:
    """A member with a description of its own needs no docstring."""
    assert Problem.model_json_schema()["properties"]["status"]["description"] == "The HTTP status."
