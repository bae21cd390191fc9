"""Validates email addresses, without DNS queries."""

from __future__ import annotations

import re

from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email

from flowstate_daemon.base.errors import InvalidDataError

MAX_LENGTH = 320  # of local part, @ and domain together; longer text is rejected before the slow validator runs
QUOTED_INPUT = re.compile(r"\s*[:(].*", re.DOTALL)  # the part of the validator's message that quotes the address

# The form of nearly all addresses, which the validator returns unchanged. It takes longer than rendering an email, so
# that only addresses of another form are passed to it.
PLAIN = re.compile(
    r"[a-z0-9_+-]{1,32}(?:\.[a-z0-9_+-]{1,31})?@(?:[a-z0-9](?:[a-z0-9]|-(?!-)){0,40}(?<!-)\.){1,3}([a-z]{2,20})"
)
RESERVED = frozenset(SPECIAL_USE_DOMAIN_NAMES)


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
