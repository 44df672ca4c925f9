"""What users may send. Messages name the field and the fix; they never echo a source or a password."""

import math
import re
from urllib.parse import unquote, urlsplit

from services.shared.errors import InvalidInput
from streamo.v1.stream_pb2 import Stream
from streamo.v1.task_pb2 import Task
from streamo.v1.watch_pb2 import Watch

MAX_SOURCE_CHARS = 2000
MAX_CREDENTIAL_CHARS = 256
MAX_INSTRUCTION_CHARS = 2000
MAX_SENSITIVITY = 10.0
DEFAULT_ASK_S = 60
MIN_ASK_S, MAX_ASK_S = 1, 3600

_ID = re.compile(r"[a-z0-9._-]{1,64}")
_NETWORK_SCHEMES = ("rtsp", "rtsps", "http", "https")
# FFmpeg reads `concat:`, `subfile,,start,…:` and the like as protocols: a path must not look like one.
_PROTOCOL = re.compile(r"[^/\\]*:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_FORMS = "rtsp://, rtsps://, http://, https://, file:///path or a path"


def check_id(field: str, given: str) -> str:
    if not _ID.fullmatch(given):
        raise InvalidInput(f"{field} must be 1 to 64 characters of a-z, 0-9, '.', '_' and '-'")
    return given


def checked_stream(given: Stream) -> Stream:
    """The stream as it is kept: `source` without user info, which moves into `username` and `password`.

    What the system sets is left out.
    """
    stream_id = check_id("stream.stream_id", given.stream_id)
    source, username, password = _split_source(given.source)
    for name, value in (("username", given.username), ("password", given.password)):
        if len(value) > MAX_CREDENTIAL_CHARS or _CONTROL.search(value):
            raise InvalidInput(
                f"stream.{name} must have at most {MAX_CREDENTIAL_CHARS} characters and no control characters"
            )
    in_source, in_fields = (username, password), (given.username, given.password)
    if any(in_source) and any(in_fields) and in_source != in_fields:
        raise InvalidInput(
            "stream.source and stream.username/password name different credentials: give them once"
        )
    username, password = given.username or username, given.password or password
    if password and not username:
        raise InvalidInput("stream.password needs stream.username")
    if username and source.partition("://")[0].lower() not in _NETWORK_SCHEMES:
        raise InvalidInput(
            "stream.username is for rtsp(s):// and http(s):// sources: leave it empty for a file"
        )
    return Stream(stream_id=stream_id, source=source, username=username, password=password)


def checked_watch(given: Watch) -> Watch:
    """The watch as it is kept, its instruction stripped. What the system sets is left out."""
    if given.once or given.expires_at_us:
        raise InvalidInput(
            "watch.once and watch.expires_at_us are set by Ask alone: leave them empty, or call Ask"
        )
    if given.task == Task.TASK_UNSPECIFIED or given.task not in Task.values():
        raise InvalidInput(f"watch.task must be one of {', '.join(Task.keys()[1:])}")
    return Watch(
        watch_id=check_id("watch.watch_id", given.watch_id),
        stream_id=check_id("watch.stream_id", given.stream_id),
        task=given.task,
        instruction=checked_instruction("watch.instruction", given.instruction),
        sensitivity=_checked_sensitivity(given.sensitivity),
    )


def checked_instruction(field: str, given: str) -> str:
    stripped = given.strip()
    if not stripped:
        raise InvalidInput(f"{field} is empty: say in words what to look for")
    if len(stripped) > MAX_INSTRUCTION_CHARS:
        raise InvalidInput(f"{field} has {len(stripped)} characters; at most {MAX_INSTRUCTION_CHARS}")
    if "\x00" in stripped:
        raise InvalidInput(f"{field} holds a NUL character: remove it")
    return stripped


def _checked_sensitivity(given: float) -> float:
    if not math.isfinite(given) or abs(given) > MAX_SENSITIVITY:
        raise InvalidInput(
            f"watch.sensitivity must be from {-MAX_SENSITIVITY:g} to {MAX_SENSITIVITY:g}, got {given:g}: "
            "0 leaves the model as it is"
        )
    return given + 0.0  # one zero, so that -0 is no other content


def checked_ask_timeout_s(given: int) -> int:
    if given == 0:
        return DEFAULT_ASK_S
    if not MIN_ASK_S <= given <= MAX_ASK_S:
        raise InvalidInput(f"timeout_s must be {MIN_ASK_S} to {MAX_ASK_S}, or 0 for {DEFAULT_ASK_S}")
    return given


def _split_source(source: str) -> tuple[str, str, str]:
    """Source without user info, user name, password."""
    if not source.strip():
        raise InvalidInput(f"stream.source is empty: give {_FORMS}")
    if len(source) > MAX_SOURCE_CHARS:
        raise InvalidInput(f"stream.source has {len(source)} characters; at most {MAX_SOURCE_CHARS}")
    if _CONTROL.search(source) or source != source.strip():
        raise InvalidInput("stream.source holds control characters, or spaces at its ends: remove them")
    if "://" not in source:
        if _PROTOCOL.match(source):
            raise InvalidInput(
                f"stream.source must be {_FORMS}; a path with ':' in its first part needs './' before it"
            )
        return source, "", ""
    try:
        url = urlsplit(source)
        port = url.port
    except ValueError as error:
        raise InvalidInput("stream.source is not a URL that can be read: check its host and port") from error
    if url.scheme == "file":
        if url.netloc not in ("", "localhost") or len(url.path) < 2:
            raise InvalidInput(
                "stream.source must name a file of ingest's own machine: file:///path/of/the/file"
            )
        if _CONTROL.search(unquote(url.path)):
            raise InvalidInput(
                "stream.source holds control characters written as %00 to %1F or %7F: remove them"
            )
        return source, "", ""
    if url.scheme not in _NETWORK_SCHEMES:
        raise InvalidInput(f"stream.source must be {_FORMS}")
    if not url.hostname:
        raise InvalidInput("stream.source names no host")
    # A password with an unescaped '/', '?' or '#' would end the host early and stay in the open.
    if "@" in url.path + url.query + url.fragment:
        raise InvalidInput(
            "stream.source has '@' after its host: write it as %40, "
            "and '/', '?', '#' of a password as %2F, %3F, %23"
        )
    userinfo, at, _ = url.netloc.rpartition("@")
    if not at:
        return source, "", ""
    user, _, secret = userinfo.partition(":")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    bare = url._replace(netloc=host if port is None else f"{host}:{port}")
    try:
        username, password = unquote(user, errors="strict"), unquote(secret, errors="strict")
    except UnicodeDecodeError:
        # Without its cause, which holds what it could not decode.
        raise InvalidInput(
            "stream.source has a user name or password that is not UTF-8 once its %XX are decoded: "
            "write it in UTF-8, or give stream.username and stream.password"
        ) from None
    if _CONTROL.search(username + password):
        raise InvalidInput("stream.source has control characters in its user name or password: remove them")
    return bare.geturl(), username, password
