"""Reads `kind.toml`: the properties of one kind of email and the typed fields of its context. Pure."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, cast, get_args

import msgspec
from msgspec import Meta
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flowstate_daemon.base.redaction import CODE_ENDINGS, is_secret_name
from flowstate_daemon.mail.app_links import LINK_NAMES
from flowstate_daemon.mail.backend_text import MinutesLines, OverdueLines, Score, TimeOfDay, TitleLines
from flowstate_daemon.mail.contexts import Context
from flowstate_daemon.mail.field_types import (
    TITLE_PLACEHOLDER,
    Cleaner,
    Code,
    Count,
    Day,
    FieldRule,
    Line,
    Lines,
    ListRule,
    OptionalCount,
    Percent,
    Rating,
    Title,
    Url,
    Weekday,
)
from flowstate_daemon.mail.kind_files import SourceFile

URGENT_PRIORITY = 1
DEFAULT_PRIORITY = 5
MAX_PRIORITY = 2_097_152  # Bull's own limit
MAX_ROWS = 50  # in one list
JSON_NAME = re.compile(r"[a-z][A-Za-z0-9]*")
TEMPLATE_NAME = re.compile(r"[a-z][a-z0-9_]*")
CAPITAL = re.compile(r"(?<!^)[A-Z]+")
LIFETIME = re.compile(r"(\d{1,4}) (minute|hour|day)s?")
UNIT_S = {"minute": 60, "hour": 3_600, "day": 86_400}
# What templates always have; a field must not hide it.
RESERVED_NAMES = frozenset(
    {
        *("app_name", "frontend_url", "subject", "unsubscribe_url", "settings_url", "support_url", "postal_address"),
        *("logo_url", "logo_width", "logo_height", "reset_password_url", "created_ms", "date_order"),
        *("max_list_rows", "unknown_name", "unknown_user_name"),
    }
)


@dataclass(frozen=True, slots=True)
class FieldType:
    """A type of fields: its annotation for msgspec, the JSON type of its default, and the value of a missing field."""

    hint: Any
    json_type: type[str | float]
    empty: Any = None


FIELD_TYPES: Mapping[str, FieldType] = {
    "title": FieldType(Title, str, TITLE_PLACEHOLDER),
    "line": FieldType(Line, str, ""),
    "lines": FieldType(Lines, str, ""),
    "url": FieldType(Url, str, ""),
    "code": FieldType(Code, str, ""),
    "count": FieldType(Count, float),
    "lenient-count": FieldType(OptionalCount, float, 0),
    "percent": FieldType(Percent, float),
    "date": FieldType(Day, str),
    "weekday": FieldType(Weekday, float),
    "rating": FieldType(Rating, float),
    "time": FieldType(TimeOfDay, str),
    "score": FieldType(Score, str),
    "title-lines": FieldType(TitleLines, str, ()),
    "overdue-lines": FieldType(OverdueLines, str, ()),
    "minutes-lines": FieldType(MinutesLines, str, ()),
}


@dataclass(frozen=True, slots=True)
class Kind:
    """The properties of one kind of email.

    `secret_fields` are names in the job's JSON context: codes, and what is a secret by its name. `lifetime_s` counts
    from the creation of the job; `lifetime_field` is the field of the context that contains the lifetime as text.
    `values` are Jinja expressions that templates may use by name; `variants` are conditions, each for texts whose
    names end in `_<variant>`; `links` are the fields with URLs of pages that the settings of `links` name.
    """

    name: str
    context: type[Context]
    priority: int
    unsubscribable: bool
    secret_fields: frozenset[str]
    has_code: bool
    decoder: msgspec.json.Decoder[Context]
    rules: tuple[FieldRule | ListRule, ...]
    lifetime_s: int | None = None
    lifetime_field: str | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    variants: Mapping[str, str] = field(default_factory=dict)
    links: tuple[tuple[str, str], ...] = ()

    @property
    def urgent(self) -> bool:
        """Whether the recipient is waiting for the email, so that it is sent before bulk emails."""
        return self.priority == URGENT_PRIORITY


class FileSection(BaseModel):
    """What the tables of `kind.toml` have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class LifetimeField(FileSection):
    field: str


class FieldSection(FileSection):
    """One field. `nothing` are literal values that mean that there is no value; `link` is a setting of `links`."""

    type: Literal[
        "title", "line", "lines", "url", "code", "count", "lenient-count", "percent", "date",
        "weekday", "rating", "time", "score", "title-lines", "overdue-lines", "minutes-lines", "list",
    ]  # fmt: skip
    optional: bool = False
    default: str | int | float | None = None
    nothing: list[str] = []
    link: str | None = None
    rows: dict[str, FieldSection] | None = None
    max_rows: int = Field(MAX_ROWS, ge=1, le=MAX_ROWS)

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """`name = "line"` is short for `name = { type = "line" }`."""
        return {"type": value} if isinstance(value, str) else value


class KindSection(FileSection):
    """The whole file."""

    urgent: bool = False
    priority: int = Field(DEFAULT_PRIORITY, ge=URGENT_PRIORITY, le=MAX_PRIORITY)
    unsubscribable: bool = False
    lifetime: str | LifetimeField | None = None
    fields: dict[str, FieldSection] = {}
    values: dict[str, str] = {}
    variants: dict[str, str] = {}


class KindParser:
    """Parses one `kind.toml`, and collects all its problems."""

    def __init__(self, name: str, file: SourceFile, problems: list[str]) -> None:
        self._name = name
        self._file = file
        self._problems = problems

    def parse(self) -> Kind | None:
        """The kind, or None if there are problems."""
        known = len(self._problems)
        content = self._file.parse_toml(self._problems)
        section = None if content is None else self._validate(content)
        if section is None:
            return None
        self._check(section)
        context, rules = self._build(self._name, section.fields, ("fields",), "$.context")
        lifetime_s, lifetime_field = self._lifetime(section)
        if len(self._problems) > known:
            return None
        names = [name for name, field in section.fields.items() if field.type == "code" or is_secret_name(name)]
        return Kind(
            name=self._name,
            context=context,
            priority=URGENT_PRIORITY if section.urgent else section.priority,
            unsubscribable=section.unsubscribable,
            secret_fields=frozenset(names),
            has_code=any(field.type == "code" for field in section.fields.values()),
            decoder=msgspec.json.Decoder(context),
            rules=rules,
            lifetime_s=lifetime_s,
            lifetime_field=lifetime_field,
            values=section.values,
            variants=section.variants,
            links=tuple((snake_case(name), field.link) for name, field in section.fields.items() if field.link),
        )

    def _validate(self, content: dict[str, Any]) -> KindSection | None:
        try:
            return KindSection.model_validate(content)
        except ValidationError as error:
            for detail in error.errors(include_url=False, include_input=False, include_context=False):
                keys = [key for key in detail["loc"] if key not in {"str", "LifetimeField", "function-before"}]
                self._problem(keys, detail["msg"].removeprefix("Input "))
            return None

    def _problem(self, keys: list[str | int] | tuple[str | int, ...], message: str) -> None:
        self._problems.append(self._file.problem_at(keys, message))

    def _check(self, section: KindSection) -> None:
        if section.priority == URGENT_PRIORITY:
            self._problem(["priority"], "1 is for urgent kinds: write urgent = true instead")
        if section.urgent and "priority" in section.model_fields_set:
            self._problem(["priority"], "an urgent kind has the priority 1: remove this line")
        for table, names in (("values", section.values), ("variants", section.variants)):
            for name in names:
                if not TEMPLATE_NAME.fullmatch(name) or name in RESERVED_NAMES or keyword.iskeyword(name):
                    self._problem([table, name], "expected a name of lower-case letters, digits and _")

    def _lifetime(self, section: KindSection) -> tuple[int | None, str | None]:
        codes = [name for name, field in section.fields.items() if field.type == "code"]
        match section.lifetime:
            case None if codes:
                self._problem(["fields", codes[0]], 'a code needs a lifetime: add lifetime = "10 minutes"')
            case LifetimeField(field=name):
                if name in section.fields and section.fields[name].type == "line":
                    return None, snake_case(name)
                self._problem(["lifetime"], "expected the name of a field of the type line")
            case str() as text:
                if found := LIFETIME.fullmatch(text):
                    return int(found[1]) * UNIT_S[found[2]], None
                self._problem(["lifetime"], 'expected a text such as "10 minutes", "24 hours" or "3 days"')
        return None, None

    def _build(
        self, name: str, fields: Mapping[str, FieldSection], keys: tuple[str, ...], path: str
    ) -> tuple[type[Context], tuple[FieldRule | ListRule, ...]]:
        """The struct and the rules of some fields, the required ones first, as a struct needs them."""
        members: list[tuple[str, Any] | tuple[str, Any, Any]] = []
        rules = []
        for json_name, section in sorted(fields.items(), key=lambda pair: self._is_optional(pair[1])):
            self._check_name(json_name, (*keys, json_name))
            hint, rule = self._field(json_name, section, (*keys, json_name), f"{path}.{json_name}")
            rules.append(rule)
            default = () if isinstance(rule, ListRule) else None if rule.default == () else rule.default
            members.append((rule.name, hint | None, default) if self._is_optional(section) else (rule.name, hint))
        if self._problems:
            return Context, ()
        renamed = {snake_case(json_name): json_name for json_name in fields}
        struct = msgspec.defstruct(name, members, bases=(Context,), frozen=True, rename=renamed)
        return cast("type[Context]", struct), tuple(rules)

    @staticmethod
    def _is_optional(field: FieldSection) -> bool:
        return field.optional or field.default is not None or field.type == "list"

    def _check_name(self, name: str, keys: tuple[str, ...]) -> None:
        python_name = snake_case(name)
        if not JSON_NAME.fullmatch(name) or keyword.iskeyword(python_name) or python_name in RESERVED_NAMES:
            self._problem(keys, "expected a name in camel case, such as userName, that templates do not use already")

    def _field(
        self, json_name: str, field: FieldSection, keys: tuple[str, ...], path: str
    ) -> tuple[Any, FieldRule | ListRule]:
        name = snake_case(json_name)
        if field.type == "list":
            return self._list(json_name, field, keys, path)
        kind = FIELD_TYPES[field.type]
        if field.type == "code" and not json_name.lower().endswith(CODE_ENDINGS):
            self._problem(keys, "the name of a code ends in otpCode: by this name it is redacted everywhere")
        if field.link is not None and (field.type != "url" or field.link not in LINK_NAMES):
            self._problem((*keys, "link"), f"expected, for a url, one of {', '.join(sorted(LINK_NAMES))}")
        if field.rows is not None:
            self._problem((*keys, "rows"), "only a list has rows")
        if field.default is not None and not isinstance(field.default, str if kind.json_type is str else (int, float)):
            self._problem((*keys, "default"), f"expected {'text' if kind.json_type is str else 'a number'}")
        default = kind.empty if field.default is None else field.default
        cleaner = next(part for part in get_args(kind.hint) if isinstance(part, Cleaner))
        if field.nothing:
            cleaner = Cleaner(_clean_unless_nothing(cleaner.clean, frozenset(field.nothing), default))
        optional = self._is_optional(field)
        hint = kind.hint | None if optional else kind.hint
        rule = FieldRule(name, json_name, path, hint, cleaner, optional=optional, default=default if optional else None)
        return kind.hint, rule

    def _list(
        self, json_name: str, field: FieldSection, keys: tuple[str, ...], path: str
    ) -> tuple[Any, FieldRule | ListRule]:
        name = snake_case(json_name)
        if not field.rows:
            self._problem(keys, f"a list needs the fields of its rows: [{'.'.join(keys)}.rows]")
        for row_name, row_field in (field.rows or {}).items():
            if row_field.type == "code" or is_secret_name(row_name):  # operators' pages mask the fields of an email
                self._problem((*keys, "rows", row_name), "the rows of a list cannot contain codes or other secrets")
        row, rules = self._build(f"{name}_row", field.rows or {}, (*keys, "rows"), f"{path}[]")
        hint = Annotated[tuple[row, ...], Meta(max_length=field.max_rows)]  # type: ignore[valid-type]
        plain = tuple(rule for rule in rules if isinstance(rule, FieldRule))
        if len(plain) < len(rules):
            self._problem(keys, "the rows of a list cannot contain lists")
        return hint, ListRule(name, json_name, row, field.max_rows, plain)


def _clean_unless_nothing(clean: Callable[[Any], Any], nothing: frozenset[str], default: Any) -> Callable[[Any], Any]:
    def cleaned(value: Any) -> Any:
        return default if isinstance(value, str) and value.strip() in nothing else clean(value)

    return cleaned


def snake_case(name: str) -> str:
    return CAPITAL.sub(lambda capitals: f"_{capitals[0]}", name).lower()


def parse_kind(name: str, file: SourceFile, problems: list[str]) -> Kind | None:
    """The kind of one `kind.toml`, or None if it has problems."""
    own: list[str] = []
    kind = KindParser(name, file, own).parse()
    problems.extend(own)
    return kind
