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
