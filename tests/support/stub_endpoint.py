"""A chat-completions endpoint on loopback: a real HTTP server whose answers a test decides."""

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


@dataclass(frozen=True)
class Answer:
    """`text` becomes a chat completion with `usage`; `payload`, where set, is sent as it is instead."""

    text: str = ""
    status: int = 200
    usage: dict[str, int] | None = field(
        default_factory=lambda: {"prompt_tokens": 100, "completion_tokens": 10}
    )
    headers: dict[str, str] = field(default_factory=dict)
    payload: bytes | None = None


class StubEndpoint:
    """`answer` is called with each request's body, on a thread of its own, and says what comes back."""

    def __init__(self, answer: Callable[[dict[str, Any]], Answer]) -> None:
        self.keys_seen: list[str] = []
        self.num_requests = 0
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with stub._lock:
                    stub.num_requests += 1
                    stub.keys_seen.append(self.headers.get("Authorization", ""))
                    stub._at_once += 1
                    stub.most_at_once = max(stub.most_at_once, stub._at_once)
                try:
                    found = answer(body) if self.path == "/v1/chat/completions" else Answer(status=404)
                finally:
                    with stub._lock:
                        stub._at_once -= 1
                payload = found.payload
                if payload is None:
                    completion = {"choices": [{"message": {"content": found.text}}], "usage": found.usage}
                    payload = json.dumps(completion).encode()
                try:
                    self.send_response(found.status)
                    for name, value in found.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(payload)))
                    self.end_headers()
                    self.wfile.write(payload)
                except OSError:
                    pass  # the caller's deadline was over

            def log_message(self, format: str, *values: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> "StubEndpoint":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
