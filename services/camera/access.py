"""Who may look: RTSP authentication by Basic or Digest (RFC 2617 without qop, as cameras do it)."""

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Literal

_REALM = "streamo"


@dataclass(frozen=True)
class Access:
    """The one user of all cameras of a server."""

    username: str
    password: str
    nonce: str
    scheme: Literal["basic", "digest"] = "digest"

    @property
    def challenge(self) -> str:
        """The value of WWW-Authenticate."""
        if self.scheme == "basic":
            return f'Basic realm="{_REALM}"'
        return f'Digest realm="{_REALM}", nonce="{self.nonce}"'

    def allows(self, method: str, authorization: str) -> bool:
        """Whether this Authorization header value proves the user."""
        scheme, _, rest = authorization.partition(" ")
        if scheme.lower() != self.scheme:
            return False
        return self._basic(rest) if self.scheme == "basic" else self._digest(method, rest)

    def _basic(self, encoded: str) -> bool:
        try:
            given = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            return False
        return hmac.compare_digest(given, f"{self.username}:{self.password}".encode())

    def _digest(self, method: str, rest: str) -> bool:
        fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        if fields.get("username") != self.username or fields.get("nonce") != self.nonce:
            return False
        user = _md5(f"{self.username}:{_REALM}:{self.password}")
        request = _md5(f"{method}:{fields.get('uri', '')}")
        expected = _md5(f"{user}:{self.nonce}:{request}")
        return hmac.compare_digest(expected.encode(), fields.get("response", "").encode())


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
