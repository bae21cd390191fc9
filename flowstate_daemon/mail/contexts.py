"""The context of an email: the base of the structs that `kind_spec` builds from the fields of each kind.

Field names are in camel case in Redis and in snake case in templates.
"""

from __future__ import annotations

import msgspec

UNKNOWN_NAME = "there"  # what producers write for a person whose name they do not know
UNKNOWN_USER_NAME = "User"  # the same, in a welcome
PERSONAL = "Personal"


class Context(msgspec.Struct, frozen=True):
    """The data of an email. A field with a default may be missing, null or blank."""
