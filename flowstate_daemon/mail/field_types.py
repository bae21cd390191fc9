"""The forms that a field of a mail's context can take, and how a stranger's value is brought into them.

`catalogue` builds its structs from these types: msgspec checks the JSON type, the form behind it checks and cleans
the value. A refusal names the field and what was expected there, and never repeats the value.
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
MAX_URL_LENGTH = 2_048  # characters; what is longer no mail program opens
TITLE_PLACEHOLDER = "…"  # an empty title in the application is no reason to send nothing

CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
BREAKS = re.compile(r"\r\n?|[\n\x85\u2028\u2029]")
LINE_BREAK_RUN = re.compile(r"[\t\r\n\x85\u2028\u2029]+")
# C1 controls do nothing good anywhere; direction overrides let one field's text rewrite the line around it.
CONTROL_AND_BIDI_CHARS = re.compile("[\x80-\x9f\u202a-\u202e\u2066-\u2069]")
CODE = re.compile(r"[0-9A-Za-z]{4,10}", re.ASCII)
DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
# No login part: a link such as https://app.example@evil.example shows one house and opens another.
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
    """A title out of the application's own tables, where a stray control character is no reason to send nothing."""
    return clean_title(text if text.isprintable() else CONTROLS.sub(" ", text))


def clean_lines(text: str) -> str:
    """Text of several lines, all separated by a bare newline."""
    return _visible(BREAKS.sub("\n", text))


def _plain(text: str) -> bool:
    """Whether there can be nothing in it that `_visible` looks for, which takes longer to find out."""
    return text.isascii() and text.isprintable()


def _visible(text: str) -> str:
    if CONTROLS.search(text):
        raise ValueError("text without control characters")
    return CONTROL_AND_BIDI_CHARS.sub("", text).strip()


def clean_code(text: str) -> str:
    if text == REDACTED:
        raise ValueError("a code; this one was removed when the job ended, so ask for a new mail")
    if not CODE.fullmatch(text):
        raise ValueError("4 to 10 digits or letters")
    return text


def clean_url(text: str) -> str:
    """An address that may stand behind a button: nothing that a mail program would run instead of open."""
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
    """Half goes up, as in JavaScript, so that the mail shows the number that the application shows."""
    return math.floor(number + 0.5)


def parse_date(text: str) -> date:
    """A day of somebody's calendar: it has no zone and no hour."""
    try:
        if DAY.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise ValueError("a day as YYYY-MM-DD")


def positive_or_zero(number: float) -> int:
    """A number that a person may have left to chance: 0, which is not shown, in place of one that means nothing."""
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
    """What becomes of one field's value. `path` is the field as its producer knows it."""

    name: str
    path: str
    form: Cleaner
    optional: bool
    default: Any = None

    def clean(self, value: Any) -> Any:
        """The value as the mail uses it. Raises Malformed."""
        if self.optional and (value is None or (isinstance(value, str) and not value.strip())):
            return self.default
        try:
            return self.form.clean(value)
        except ValueError as refusal:
            raise InvalidDataError(f"Expected {refusal} - at `{self.path}`") from None

    def check_size(self, value: Any) -> None:
        """Refuse a text that no mail should carry. Raises Malformed."""
        size = len(value.encode()) if isinstance(value, str) else 0
        if size > MAX_FIELD_BYTES:
            raise InvalidDataError(
                f"Text too long: {size} bytes, at most {MAX_FIELD_BYTES} are allowed - at `{self.path}`"
            )


@dataclass(frozen=True, slots=True)
class ListRule:
    """What becomes of a list of structs. In the paths of `rules`, [] is the place for a row's number."""

    name: str
    row: type[msgspec.Struct]
    rules: tuple[FieldRule | ListRule, ...]

    def clean(self, value: Any) -> tuple[msgspec.Struct, ...]:
        """The rows as the mail uses them; null is a list without rows. Raises Malformed."""
        return tuple([_at(number, self._clean_row, row) for number, row in enumerate(value or ())])

    def _clean_row(self, row: msgspec.Struct) -> msgspec.Struct:
        return self.row(*[rule.clean(getattr(row, rule.name)) for rule in self.rules])

    def check_size(self, value: Any) -> None:
        """Raises Malformed."""
        for number, row in enumerate(value or ()):
            for rule in self.rules:
                _at(number, rule.check_size, getattr(row, rule.name))


def _at(number: int, check: Callable[[Any], Any], value: Any) -> Any:
    """A check of one row's field, whose refusal names the row."""
    try:
        return check(value)
    except InvalidDataError as refusal:
        raise InvalidDataError(refusal.reason.replace("[]", f"[{number}]")) from None


def build_rules(struct: type[msgspec.Struct], root: str = "$.context") -> tuple[FieldRule | ListRule, ...]:
    """One rule per field, in the order of the struct's fields."""
    hints, fields = get_type_hints(struct, include_extras=True), msgspec.structs.fields(struct)
    return tuple(_rule(field, hints[field.name], f"{root}.{field.encode_name}") for field in fields)


def _rule(field: msgspec.structs.FieldInfo, hint: Any, path: str) -> FieldRule | ListRule:
    """The rule of `Annotated[…, Form]` or of a tuple of structs, either with `| None` behind it."""
    for part in _parts(hint):
        if isinstance(part, Cleaner):
            optional = not field.required
            return FieldRule(field.name, path, part, optional=optional, default=field.default if optional else None)
        if isinstance(part, type) and issubclass(part, msgspec.Struct):
            return ListRule(field.name, part, build_rules(part, f"{path}[]"))
    raise TypeError(f"a field of a context has no form: {hint}")


def _parts(hint: Any) -> Iterator[Any]:
    """All that a hint is made of."""
    yield hint
    for part in (*get_args(hint), *getattr(hint, "__metadata__", ())):
        yield from _parts(part)
