"""What a stream's `source` means: how FFmpeg is to open it, and what may be told of it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from services.shared.source_address import public_address
from streamo.v1.stream_pb2 import Stream

_NETWORK_SCHEMES = ("rtsp", "rtsps", "http", "https")
# Host, and with it anything that could be a way round this list, is checked by FFmpeg against these again at
# every redirect and every entry of a playlist.
_PROTOCOLS = {
    "rtsp": "rtsp,rtp,tcp",
    "rtsps": "rtsps,rtsp,rtp,tcp,tls,crypto",
    "http": "http,https,tcp,tls,crypto,httpproxy",
    "https": "http,https,tcp,tls,crypto,httpproxy",
}


class UnsupportedSource(Exception):
    """The source is none that ingest opens; the message says why, for the user, without credentials."""


class SourceKind(Enum):
    RTSP = "rtsp"
    HTTP = "http"
    FILE = "file"


@dataclass(frozen=True)
class Source:
    """`address` goes to FFmpeg and nowhere else: it holds the credentials. `label` is what may be told."""

    kind: SourceKind
    address: str
    label: str
    protocols: str
    secrets: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Source({self.kind.name}, {self.label!r})"

    @property
    def is_network(self) -> bool:
        return self.kind != SourceKind.FILE

    @classmethod
    def of(cls, stream: Stream, file_roots: Sequence[Path] = ()) -> "Source":
        """Raises UnsupportedSource for all but rtsp(s), http(s) and files under `file_roots` (if any)."""
        text = stream.source.strip()
        if not text:
            raise UnsupportedSource(
                "the source is empty; give an rtsp:// or http:// address or the path of a file"
            )
        scheme, separator, _ = text.partition("://")
        if not separator or scheme.lower() == "file":
            return cls._file(text, file_roots)
        if scheme.lower() not in _NETWORK_SCHEMES:
            known = ", ".join(f"{name}://" for name in _NETWORK_SCHEMES)
            shown = scheme if re.fullmatch(r"[A-Za-z0-9+.-]{1,20}", scheme) else "this"
            raise UnsupportedSource(f"{shown}:// is not supported; use {known}file:// or a path")
        return cls._network(text, stream.username, stream.password)

    @classmethod
    def _file(cls, text: str, file_roots: Sequence[Path]) -> "Source":
        try:
            path = Path(unquote(urlsplit(text).path) if "://" in text else text).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            # For example a NUL character, or links that lead to each other.
            raise UnsupportedSource(
                "the source's path cannot be followed; give the path of a file"
            ) from error
        if file_roots and not any(path.is_relative_to(root.resolve()) for root in file_roots):
            raise UnsupportedSource(f"{path} is not in a directory that ingest may read (ingest.file_roots)")
        # "file:" keeps FFmpeg from reading a colon in the name as a protocol.
        return cls(SourceKind.FILE, f"file:{path}", str(path), "file")

    @classmethod
    def _network(cls, text: str, username: str, password: str) -> "Source":
        try:
            url = urlsplit(text)
            host, port = url.hostname, url.port
        except ValueError as error:
            raise UnsupportedSource("the address is not a URL: wrong host or port") from error
        if not host:
            raise UnsupportedSource("the address names no host")
        scheme = url.scheme.lower()
        place = f"[{host}]" if ":" in host else host
        place += f":{port}" if port is not None else ""
        user = username or unquote(url.username or "")
        word = password if username else unquote(url.password or "")
        login = ""
        if user:
            login = quote(user, safe="") + (":" + quote(word, safe="") if word else "") + "@"
        address = urlunsplit(SplitResult(scheme, login + place, url.path, url.query, ""))
        bare = urlunsplit(SplitResult(scheme, place, url.path, url.query, ""))
        label = public_address(bare)
        rest = bare.removeprefix(label)
        secrets = {word, quote(word, safe=""), rest, url.query, *_values(rest)}
        return cls(
            kind=SourceKind.RTSP if scheme.startswith("rtsp") else SourceKind.HTTP,
            address=address,
            label=label,
            protocols=_PROTOCOLS[scheme],
            secrets=tuple(sorted((s for s in secrets if len(s) >= 3), key=len, reverse=True)),
        )

    def scrub(self, text: str) -> str:
        """`text`, maybe by FFmpeg, without credentials.

        Last line of defence: our own messages never hold any.
        """
        text = text.replace(self.address, self.label)
        text = re.sub(r"(?<=://)[^/\s]*@", "", text)
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


def _values(rest: str) -> list[str]:
    """Each value in what is not told of an address, however values are told apart."""
    return [
        value for signs in ("&", "&/;", "&/;_,") for value in re.findall(f"(?:=|%3[Dd])([^{signs}]+)", rest)
    ]
