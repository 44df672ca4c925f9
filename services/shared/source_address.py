"""How much of a camera's address may be told."""

import re

# Some cameras take the password in the query, others in the path: /user=admin_password=word_channel=1.sdp
_TOLD = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#]*(/((?!%3D)[^/?#=])*(?=[/?#]|$))*/?", re.IGNORECASE)


def public_address(source: str) -> str:
    """A source as far as it may be told: a path of a file whole; of an address nothing from its query on, nor from the
    first part of its path that has a "=", percent-encoded or not. User info is not looked at.
    """
    if "://" not in source or source.lower().startswith("file:"):
        return source
    told = _TOLD.match(source)
    return told.group() if told else ""
