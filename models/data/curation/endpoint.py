"""One exchange with an OpenAI-compatible endpoint, over in a given time whatever the other side does."""

import http.client
import json
import socket
import threading
import urllib.parse
import urllib.request
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from typing import Any

_MAX_REPLY_BYTES = 16 * 1024 * 1024
_SHOWN_CHARS = 200
# Of the deadline, for each address of the host: one that does not answer leaves time for the next.
_CONNECT_SHARE = 0.25


@dataclass(frozen=True)
class Reply:
    """Token counts are None where the endpoint does not tell them."""

    text: str
    prompt_tokens: int | None
    completion_tokens: int | None


class EndpointError(Exception):
    """An exchange that brought no reply. `status` is HTTP's, 0 where there was none; `retry_after_s` what the endpoint
    asked for; `unusable` what cost tokens all the same. The text never holds the key."""

    def __init__(
        self, text: str, status: int = 0, retry_after_s: float = 0.0, unusable: Reply | None = None
    ) -> None:
        super().__init__(text)
        self.status = status
        self.retry_after_s = retry_after_s
        self.unusable = unusable

    @property
    def is_passing(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in (0, 408, 409, 425, 429) or self.status >= 500


class Endpoint:
    """Safe for many threads: every exchange has a connection of its own.

    The environment's proxy settings apply. `base_url` is what stands before `/chat/completions`. White space around
    the key, such as the end of the line of the file it came from, is no part of it.
    """

    def __init__(self, base_url: str, key: str = "", deadline_s: float = 120.0) -> None:
        self._url = urllib.parse.urlsplit(base_url.rstrip("/") + "/chat/completions")
        if self._url.scheme not in ("http", "https") or not self._url.hostname:
            raise ValueError("base_url: must be http(s)://HOST[:PORT][/PATH]")
        # A user and a password may stand before it.
        self._host = self._url.netloc.rpartition("@")[2]
        self._key = key.strip()
        # http.client would refuse it too, and show it.
        if key and not (self._key and self._key.isascii() and self._key.isprintable()):
            raise ValueError(
                "teacher.key_variable: the variable it names must hold printable ASCII, on one line"
            )
        self._deadline_s = deadline_s

    def chat(self, body: dict[str, Any]) -> Reply:
        """The first choice of a chat completion. EndpointError for anything else."""
        status, headers, payload = self._post(json.dumps(body).encode())
        if status != 200:
            text = self._without_key(payload.decode("utf-8", "replace"))
            raise EndpointError(
                f"{self._host} answered {status}: {' '.join(text.split())[:_SHOWN_CHARS]}",
                status,
                _seconds(headers.get("retry-after", "")),
            )
        paid: Reply | None = None
        try:
            answer = json.loads(payload)
            usage = answer.get("usage")
            if isinstance(usage, dict):
                paid = Reply("", _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))
            text = answer["choices"][0]["message"]["content"]
            # Half a character, which JSON's escapes can hold, could not be kept.
            text = str(text or "").encode("utf-8", "replace").decode()
            return replace(paid or Reply("", None, None), text=text)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise EndpointError(
                f"{self._host} answered no chat completion ({type(error).__name__})", unusable=paid
            ) from error

    def _post(self, body: bytes) -> tuple[int, Any, bytes]:
        connection = self._connection()
        is_over = threading.Event()
        outcome: Future[tuple[int, Any, bytes]] = Future()

        def exchange() -> None:
            try:
                outcome.set_result(self._exchange(connection, body, is_over))
            except Exception as error:
                outcome.set_exception(error)
            finally:
                connection.close()

        # A socket's own timeout begins anew with every address and with every byte that comes, and a look-up of names
        # has none. So the exchange has a thread of its own, left behind where cutting the connection does not end it.
        threading.Thread(target=exchange, daemon=True).start()
        if not wait([outcome], self._deadline_s).done:
            _cut(connection, is_over)
            raise EndpointError(f"{self._host} gave no answer in {self._deadline_s:g} s")
        try:
            return outcome.result()
        except (OSError, http.client.HTTPException) as error:
            reason = self._without_key(str(error)) or type(error).__name__
            raise EndpointError(f"{self._host}: {reason}") from None

    def _exchange(
        self, connection: http.client.HTTPConnection, body: bytes, is_over: threading.Event
    ) -> tuple[int, Any, bytes]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        connection.connect()
        if is_over.is_set():  # what is asked now would be paid, and nobody would read it
            raise TimeoutError
        connection.sock.settimeout(self._deadline_s)
        connection.request("POST", self._url.path, body, headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read(_MAX_REPLY_BYTES)

    def _connection(self) -> http.client.HTTPConnection:
        host, port = str(self._url.hostname), self._url.port
        make = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        proxy = (
            "" if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get(self._url.scheme, "")
        )
        timeout_s = self._deadline_s * _CONNECT_SHARE
        if not proxy:
            return make(host, port, timeout=timeout_s)
        via = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
        connection = make(str(via.hostname), via.port, timeout=timeout_s)
        connection.set_tunnel(host, port)
        return connection

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _cut(connection: http.client.HTTPConnection, is_over: threading.Event) -> None:
    is_over.set()
    if connection.sock is not None:
        try:
            connection.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is closed already


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if is_count else None


def _seconds(text: str) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        return 0.0
