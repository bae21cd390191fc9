"""Email addresses: the form in which they are sent to, the form in which they are looked up, and senders. Pure.

A domain has one spelling everywhere: lower case, an international one in its `xn--` form.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import quote
from functools import lru_cache

import idna
from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email

from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.base.text import is_harmless_line, storable

MAX_LENGTH = 320  # of local part, @ and domain together; longer text is rejected before the slow validator runs
QUOTED_INPUT = re.compile(r"\s*[:(].*", re.DOTALL)  # the part of the validator's message that quotes the address
FORGOTTEN = "a forgotten address"  # stands for an address in the records of its own deletion
ENCODED_WORD = "=?"  # begins an encoded word (RFC 2047), which programs decode in any header field

# The form of nearly all addresses, which the validator returns unchanged. It takes longer than rendering an email, so
# that only addresses of another form are passed to it.
PLAIN = re.compile(
    r"[a-z0-9_+-]{1,32}(?:\.[a-z0-9_+-]{1,31})?@(?:[a-z0-9](?:[a-z0-9]|-(?!-)){0,40}(?<!-)\.){1,3}([a-z]{2,20})"
)
RESERVED = frozenset(SPECIAL_USE_DOMAIN_NAMES)
# A sender's name that needs no quotation marks. Letters outside ASCII need none (RFC 6532).
UNQUOTED_NAME = re.compile(r"[^\x00-\x1f\x7f()<>\[\]:;@\\,.\"]*")
QUOTED_NAME = re.compile(r'"((?:[^"\\]|\\.)*)"')


def parse_address(text: str) -> str:
    """The bare ASCII address: an international domain in its `xn--` form, the domain in lower case.

    Rejects display names, lists, quoted or non-ASCII local parts, IP literals, and domains that can never receive
    email (`localhost`, `.local`, `.invalid`). The names reserved for examples and tests (`example.org`, `.test`) are
    allowed, because development and tests use them and the provider rejects them anyway.

    Raises:
        InvalidDataError: the message names the broken rule and does not contain the address.
    """
    plain = PLAIN.fullmatch(text)
    if plain is not None and plain[1] not in RESERVED:
        return text
    if len(text) > MAX_LENGTH:
        raise InvalidDataError(f"Expected an email address of at most {MAX_LENGTH} characters - at `$.to`")
    if ENCODED_WORD in text:
        raise InvalidDataError("Expected an email address without an encoded word - at `$.to`")
    try:
        found = validate_email(
            text, check_deliverability=False, allow_smtputf8=False, allow_display_name=False, test_environment=True
        )
    except EmailNotValidError as error:
        raise InvalidDataError(
            f"Expected an email address - at `$.to`: {QUOTED_INPUT.sub('', str(error)).rstrip('.')}"
        ) from None
    if found.ascii_email is None:
        raise InvalidDataError("Expected an email address in ASCII - at `$.to`")
    return found.ascii_email


def ascii_domain(domain: str) -> str:
    """The one spelling of a domain. One that is not a valid international name is only put into lower case."""
    domain = domain.strip().lower()
    return domain if domain.isascii() else _to_ascii(domain)


@lru_cache(maxsize=1024)
def _to_ascii(domain: str) -> str:
    try:
        return idna.encode(domain, uts46=True).decode("ascii")
    except idna.IDNAError:
        return domain


@lru_cache(maxsize=1024)
def unicode_domain(domain: str) -> str:
    """The domain in the letters of its language, as people type it; unchanged if it has no such form."""
    if "xn--" not in domain:
        return domain
    try:
        return idna.decode(domain)
    except idna.IDNAError:
        return domain


def unicode_spelling(address: str) -> str:
    """The address with its domain in the letters of its language, as many applications store it."""
    local, at, domain = address.rpartition("@")
    return f"{local}{at}{unicode_domain(domain)}"


def normalise_address(address: str) -> str:
    """The form in which an address is stored and looked up: lower case, the domain in its one spelling.

    Any text is accepted, and the result can be stored: also what is no address must be found again.
    """
    address = storable(address.strip().lower(), MAX_LENGTH)
    if address.isascii():
        return address
    local, at, domain = address.rpartition("@")
    return storable(f"{local}{at}{ascii_domain(domain)}", MAX_LENGTH)


def address_spellings(text: str) -> frozenset[str]:
    """The spellings under which an address may be stored, in lower case: as given, and the domain in both forms."""
    text = text.strip()
    found = {text.lower()}
    try:
        valid = validate_email(text, check_deliverability=False, test_environment=True, allow_display_name=True)
    except EmailNotValidError:
        return frozenset(found)
    found |= {spelling.lower() for spelling in (valid.normalized, valid.ascii_email) if spelling}
    return frozenset(found)


def names_recipient(to: object, spellings: frozenset[str]) -> bool:
    """Whether the recipient field of a job names one of these addresses, also in a form that cannot be sent to."""
    if isinstance(to, list | tuple):
        return any(names_recipient(one, spellings) for one in to)
    if not isinstance(to, str) or len(to) > 2 * MAX_LENGTH:
        return False
    text = to.strip().lower()
    if PLAIN.fullmatch(text):
        return text in spellings  # the form of nearly all addresses: the validator would take most of the time
    return not spellings.isdisjoint(address_spellings(to))


def pattern_in_text(spellings: Iterable[str]) -> str:
    """A regular expression, of Python and of Postgres, for one of the addresses in other text.

    Not as a part of a longer address, which is another person's: the characters around it are none of an address.
    """
    return rf"(?<![\w.+-])(?:{'|'.join(map(re.escape, spellings))})(?![\w-]|\.\w)"


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A sender: an ASCII address, and the name that people see, which may be empty."""

    name: str
    address: str

    def __str__(self) -> str:
        """`Name <address>`, the name quoted if it needs that. The provider takes letters outside ASCII as they are."""
        if not self.name:
            return self.address
        name = self.name if UNQUOTED_NAME.fullmatch(self.name) else f'"{quote(self.name)}"'
        return f"{name} <{self.address}>"

    @property
    def domain(self) -> str:
        return ascii_domain(self.address.rpartition("@")[2])


def parse_mailbox(text: str) -> Mailbox:
    """A sender, as address or `Name <address>`, the name in any language. Raises ValueError."""
    text = text.strip()
    if not is_harmless_line(text):
        raise ValueError("must be one line without control characters")
    name, bracket, rest = text.rpartition("<")
    if bracket and not rest.endswith(">"):
        raise ValueError("must be like hello@example.com or Name <hello@example.com>")
    name, address = name.strip(), rest.removesuffix(">").strip() if bracket else text
    if not address.rpartition("@")[0].isascii():
        raise ValueError("has letters outside ASCII before the @, which the provider does not accept")
    try:
        validated = validate_email(address, check_deliverability=False, allow_smtputf8=False, test_environment=True)
    except EmailNotValidError as error:
        raise ValueError(f"is not an email address: {error}") from None
    if ENCODED_WORD in address or validated.ascii_email is None:
        raise ValueError("is not an email address in ASCII")
    return Mailbox(_unquote(name), validated.ascii_email)


def sender_domain(sender: str) -> str:
    """The domain of a valid sender; empty for an empty one."""
    return parse_mailbox(sender).domain if sender else ""


def _unquote(name: str) -> str:
    quoted = QUOTED_NAME.fullmatch(name)
    if quoted is not None:
        return re.sub(r"\\(.)", r"\1", quoted[1]).strip()
    if "<" in name or ">" in name:
        raise ValueError("must be one sender, like hello@example.com or Name <hello@example.com>")
    return name
