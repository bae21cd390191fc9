"""Which addresses a mail may be sent to. Called by `catalogue`; asks no DNS server."""

from __future__ import annotations

import re

from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email

from flowstate_daemon.base.errors import InvalidDataError

MAX_LENGTH = 320  # of local part, @ and domain together; spares the validator a hostile megabyte
QUOTED_INPUT = re.compile(r"\s*[:(].*", re.DOTALL)  # from here on, the validator quotes the address

# What nearly every address looks like. The validator would return such a one as it is, and takes longer about it than
# a mail takes to render; whatever looks otherwise is for the validator.
PLAIN = re.compile(
    r"[a-z0-9_+-]{1,32}(?:\.[a-z0-9_+-]{1,31})?@(?:[a-z0-9](?:[a-z0-9]|-(?!-)){0,40}(?<!-)\.){1,3}([a-z]{2,20})"
)
RESERVED = frozenset(SPECIAL_USE_DOMAIN_NAMES)


def parse_address(text: str) -> str:
    """The bare ASCII address: an international domain in its `xn--` form, the domain in lower case.

    Refused are display names, lists, quoted or non-ASCII local parts, IP literals, and domains that can never
    receive mail (`localhost`, `.local`, `.invalid`). The names kept for examples and tests, `example.org` and its
    like and `.test`, pass: development and rehearsal write to them, and a provider refuses them by itself.

    Raises:
        Malformed: with the rule that was broken, without the address.
    """
    plain = PLAIN.fullmatch(text)
    if plain is not None and plain[1] not in RESERVED:
        return text
    if len(text) > MAX_LENGTH:
        raise InvalidDataError(f"Expected an e-mail address of at most {MAX_LENGTH} characters - at `$.to`")
    try:
        found = validate_email(
            text, check_deliverability=False, allow_smtputf8=False, allow_display_name=False, test_environment=True
        )
    except EmailNotValidError as error:
        raise InvalidDataError(
            f"Expected an e-mail address - at `$.to`: {QUOTED_INPUT.sub('', str(error)).rstrip('.')}"
        ) from None
    if found.ascii_email is None:
        raise InvalidDataError("Expected an e-mail address in ASCII - at `$.to`")
    return found.ascii_email
