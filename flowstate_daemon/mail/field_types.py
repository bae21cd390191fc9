"""The types of fields in an email's context, with validation and cleaning of their values.

The structs of `contexts` use these types: msgspec checks the JSON type, then the type's Cleaner checks and cleans the
value. An error names the field and the expected value, and never contains the actual value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, TypeAlias, get_args, get_type_hints

import msgspec
from msgspec import Meta

from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.base.redaction import REDACTED

MAX_FIELD_BYTES = 64 * 1024  # bytes of UTF-8
MAX_NUMBER = 1_000_000_000
MAX_URL_LENGTH = 2_048  # characters; mail programs do not open longer URLs
TITLE_PLACEHOLDER = "…"  # an email is sent even if a title in the application is empty

CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
BREAKS = re.compile(r"\r\n?|[\n\x85\u2028\u2029]")
LINE_BREAK_RUN = re.compile(r"[\t\r\n\x85\u2028\u2029]+")
# C1 controls have no use in text; direction overrides would change the order of the text around a field.
CONTROL_AND_BIDI_CHARS = re.compile("[\x80-\x9f\u202a-\u202e\u2066-\u2069]")
CODE = re.compile(r"[0-9A-Za-z]{4,10}", re.ASCII)
DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
# No login part: a link such as https://app.example@evil.example looks like one site and opens another.
LINK = re.compile(r"https?://[^\s/?#@\\<>\"'`]+(?:[/?#][^\s<>]*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Cleaner:
    """How the values of one type of field are cleaned. `clean` raises ValueError with what it expected."""

    clean: Callable[[Any], Any]


def clean_line(text: str) -> str:
    """Text of one line. Line breaks, which people paste into titles, become spaces."""
    if _plain(text):
        return text.strip()
    return _visible(LINE_BREAK_RUN.sub(" ", text))


def clean_title(text: str) -> str:
    return clean_line(text) or TITLE_PLACEHOLDER


def clean_stored_title(text: str) -> str:
    """A title from the application's tables: control characters are removed instead of refusing the email."""
    return clean_title(text if text.isprintable() else CONTROLS.sub(" ", text))


def clean_lines(text: str) -> str:
    """Text of several lines, all separated by a bare newline."""
    return _visible(BREAKS.sub("\n", text))


def _plain(text: str) -> bool:
    """Whether the text certainly needs no cleaning; a fast check before the slower `_visible`."""
    return text.isascii() and text.isprintable()


def _visible(text: str) -> str:
    if CONTROLS.search(text):
        raise ValueError("text without control characters")
    return CONTROL_AND_BIDI_CHARS.sub("", text).strip()


def clean_code(text: str) -> str:
    if text == REDACTED:
        raise ValueError("a code; this one was removed when the job ended, so ask for a new email")
    if not CODE.fullmatch(text):
        raise ValueError("4 to 10 digits or letters")
    return text


def clean_url(text: str) -> str:
    """A URL for a link or button: http or https only, because other schemes may execute code."""
    url = text.strip()
    if len(url) > MAX_URL_LENGTH:
        raise ValueError(f"an address of at most {MAX_URL_LENGTH} characters")
    if not LINK.fullmatch(url) or not (
        _plain(url) or (CONTROL_AND_BIDI_CHARS.search(url) or CONTROLS.search(url)) is None
    ):
        raise ValueError("an http or https address")
    return url


def to_int(number: float) -> int:
    if number != int(number):
        raise ValueError("`int`, got `float`")
    return int(number)


def round_half_up(number: float) -> int:
    """Half goes up, as in JavaScript, so that the email shows the same number as the application."""
    return math.floor(number + 0.5)


def parse_date(text: str) -> date:
    """A calendar date, without time and time zone."""
    try:
        if DAY.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise ValueError("a day as YYYY-MM-DD")


def positive_or_zero(number: float) -> int:
    """An optional number: out of range becomes 0, which is not shown."""
    return int(number) if 0 <= number <= MAX_NUMBER else 0


Number: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_NUMBER)] | Annotated[float, Meta(ge=0, le=MAX_NUMBER)]
Line: TypeAlias = Annotated[str, Cleaner(clean_line)]
Title: TypeAlias = Annotated[str, Cleaner(clean_title)]
StoredTitle: TypeAlias = Annotated[str, Cleaner(clean_stored_title)]
Lines: TypeAlias = Annotated[str, Cleaner(clean_lines)]
Code: TypeAlias = Annotated[str, Cleaner(clean_code)]
Url: TypeAlias = Annotated[str, Cleaner(clean_url)]
Count: TypeAlias = Annotated[Number, Cleaner(to_int)]
Percent: TypeAlias = Annotated[Number, Cleaner(round_half_up)]
OptionalCount: TypeAlias = Annotated[int | float, Cleaner(positive_or_zero)]
Day: TypeAlias = Annotated[str, Cleaner(parse_date)]
Weekday: TypeAlias = Annotated[int, Meta(ge=1, le=7), Cleaner(int)]  # ISO: 1 is Monday
Rating: TypeAlias = Annotated[Annotated[int, Meta(ge=1, le=5)] | Annotated[float, Meta(ge=1, le=5)], Cleaner(float)]


@dataclass(frozen=True, slots=True)
class FieldRule:
    """How one field is validated and cleaned. `path` is its JSON path in the job's data."""

    name: str
    path: str
    form: Cleaner
    optional: bool
    default: Any = None

    def clean(self, value: Any) -> Any:
        """The cleaned value. Raises InvalidDataError."""
        if self.optional and (value is None or (isinstance(value, str) and not value.strip())):
            return self.default
        try:
            return self.form.clean(value)
        except ValueError as refusal:
            raise InvalidDataError(f"Expected {refusal} - at `{self.path}`") from None

    def check_size(self, value: Any) -> None:
        """Reject text that is too long. Raises InvalidDataError."""
        size = len(value.encode()) if isinstance(value, str) else 0
        if size > MAX_FIELD_BYTES:
            raise InvalidDataError(
                f"Text too long: {size} bytes, at most {MAX_FIELD_BYTES} are allowed - at `{self.path}`"
            )


@dataclass(frozen=True, slots=True)
class ListRule:
    """How a list of structs is validated and cleaned. In the paths of `rules`, [] stands for the row number."""

    name: str
    row: type[msgspec.Struct]
    rules: tuple[FieldRule | ListRule, ...]

    def clean(self, value: Any) -> tuple[msgspec.Struct, ...]:
        """The cleaned rows; null means no rows. Raises InvalidDataError."""
        return tuple([_at(number, self._clean_row, row) for number, row in enumerate(value or ())])

    def _clean_row(self, row: msgspec.Struct) -> msgspec.Struct:
        return self.row(*[rule.clean(getattr(row, rule.name)) for rule in self.rules])

    def check_size(self, value: Any) -> None:
        """Raises InvalidDataError."""
        for number, row in enumerate(value or ()):
            for rule in self.rules:
                _at(number, rule.check_size, getattr(row, rule.name))


def _at(number: int, check: Callable[[Any], Any], value: Any) -> Any:
    """Run a check of one row's field; its error names the row."""
    try:
        return check(value)
    except InvalidDataError as refusal:
        raise InvalidDataError(refusal.reason.replace("[]", f"[{number}]")) from None


def build_rules(struct: type[msgspec.Struct], root: str = "$.context") -> tuple[FieldRule | ListRule, ...]:
    """One rule per field, in the order of the struct's fields."""
    hints, fields = get_type_hints(struct, include_extras=True), msgspec.structs.fields(struct)
    return tuple(_rule(field, hints[field.name], f"{root}.{field.encode_name}") for field in fields)


def _rule(field: msgspec.structs.FieldInfo, hint: Any, path: str) -> FieldRule | ListRule:
    """The rule of `Annotated[…, Cleaner]` or of a tuple of structs, each with or without `| None`."""
    for part in _parts(hint):
        if isinstance(part, Cleaner):
            optional = not field.required
            return FieldRule(field.name, path, part, optional=optional, default=field.default if optional else None)
        if isinstance(part, type) and issubclass(part, msgspec.Struct):
            return ListRule(field.name, part, build_rules(part, f"{path}[]"))
    raise TypeError(f"a field of a context has no cleaner: {hint}")


def _parts(hint: Any) -> Iterator[Any]:
    """The hint and, recursively, its arguments and metadata."""
    yield hint
    for part in (*get_args(hint), *getattr(hint, "__metadata__", ())):
        yield from _parts(part)
