"""The teacher: asked once for each thing, however often the run is started anew."""

import base64
import hashlib
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from models.data.curation.config import TeacherConfig
from models.data.curation.endpoint import Endpoint, EndpointError, Reply
from models.data.curation.store import Ledger, Store, content_key

T = TypeVar("T")

_FIRST_PAUSE_S = 1.0
_MAX_PAUSE_S = 60.0
_CHARS_PER_TOKEN = 4
_TOKENS_PER_PICTURE = 256


class CurationStopped(Exception):
    """The run cannot go on: the endpoint refuses us, or the budget is spent. What was paid for is kept."""


class TeacherSilent(Exception):
    """No usable reply to one question, after every attempt; worth another run."""


class UnreadableReply(ValueError):
    """A reply that is not of the form asked for."""


@dataclass(frozen=True)
class Picture:
    """A frame of a clip: JPEG."""

    time_s: float
    jpeg: bytes


@dataclass(frozen=True)
class Request:
    """What the teacher sees: frames, each behind its time, then what is asked of it.

    Frames first, so that the questions on one clip share a prefix that servers keep. `look`: a further, independent
    look at the same thing is another request.
    """

    system: str
    frames: tuple[Picture, ...]
    text: str
    look: int = 0

    def messages(self) -> list[dict[str, Any]]:
        content: list[dict[str, Any]] = []
        for frame in self.frames:
            url = "data:image/jpeg;base64," + base64.b64encode(frame.jpeg).decode()
            content.append({"type": "text", "text": f"{frame.time_s:.1f} s"})
            content.append({"type": "image_url", "image_url": {"url": url}})
        content.append({"type": "text", "text": self.text})
        return [{"role": "system", "content": self.system}, {"role": "user", "content": content}]

    def identity(self) -> list[Any]:
        shown = [[frame.time_s, hashlib.sha256(frame.jpeg).hexdigest()] for frame in self.frames]
        return [self.system, shown, self.text, self.look]


@dataclass
class TeacherCounts:
    """Of this run: replies that were paid for now, that were there already, and what went wrong on the way."""

    num_new: int = 0
    num_kept: int = 0
    num_retries: int = 0
    faults: Counter[str] = field(default_factory=Counter)


class Teacher:
    """Bounded in time, attempts and cost. Safe for many threads. `wait` pauses between attempts, and is told the
    seconds; by default a pause ends early when the teacher is stopped."""

    def __init__(
        self,
        config: TeacherConfig,
        endpoint: Endpoint,
        replies: Store,
        ledger: Ledger,
        rng: random.Random,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._config = config
        self._endpoint = endpoint
        self._replies = replies
        self._ledger = ledger
        self._rng = rng
        self._stopped = threading.Event()
        self._why_stopped = ""
        self._wait = wait or self._stopped.wait
        self._places = threading.BoundedSemaphore(config.concurrency)
        self._turns = [threading.Lock() for _ in range(256)]  # by key
        self._lock = threading.Lock()
        self._reserved_tokens = 0
        self.counts = TeacherCounts()

    def stop(self, reason: str = "interrupted") -> None:
        """Nothing more is asked: CurationStopped for every caller whose reply is not there yet, after the exchange it
        may be in. The first reason stays."""
        if not self._stopped.is_set():
            self._why_stopped = reason
            self._stopped.set()

    def ask(self, request: Request, read: Callable[[str], T]) -> T:
        """What `read` makes of the reply; it raises UnreadableReply for one it cannot read, and another is asked for.

        UnreadableReply where none of `max_readings` replies could be read, TeacherSilent where none came,
        CurationStopped where there is no use in asking on; nothing is asked after it.
        """
        for reading in range(self._config.max_readings):
            try:
                return read(self._reply(request, reading))
            except UnreadableReply:
                if reading + 1 == self._config.max_readings:
                    raise
        raise AssertionError("max_readings is at least 1")

    def _reply(self, request: Request, reading: int) -> str:
        settings = {
            "model": self._config.model,
            "temperature": self._config.temperature,
            "max_tokens": self._config.max_reply_tokens,
            "seed": 1000 * request.look + reading,
        }
        key = content_key(settings, request.identity())
        # Of two threads that ask the same at once one waits for the other's reply.
        with self._turns[int(key[:8], 16) % len(self._turns)]:
            kept = self._replies.get(key)
            if kept is not None:
                self._tally(num_kept=1)
                return str(kept["text"])
            with self._places:
                reply = self._exchange(settings | {"messages": request.messages()}, request)
                # Before the next one is asked for: a kill loses no more replies than may be on their way.
                self._replies.put(key, {"text": reply.text})
        self._tally(num_new=1)
        return reply.text

    def _exchange(self, body: dict[str, Any], request: Request) -> Reply:
        for attempt in range(self._config.max_attempts):
            if self._stopped.is_set():
                raise CurationStopped(self._why_stopped)
            reserved = self._reserve(request)
            try:
                reply = self._endpoint.chat(body)
                self._pay(reply, request)
                return reply
            except EndpointError as error:
                if error.unusable is not None:
                    self._pay(error.unusable, request)
                self._tally(fault=f"status {error.status}" if error.status else "no answer")
                if error.status in (401, 403, 404):
                    self.stop(f"the teacher cannot be used: {error}")
                    raise CurationStopped(self._why_stopped) from error
                if not error.is_passing:
                    raise TeacherSilent(str(error)) from error
                if attempt + 1 == self._config.max_attempts:
                    raise TeacherSilent(f"{error}; {attempt + 1} attempts") from error
                pause_s = min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 2**attempt)
                with self._lock:
                    pause_s *= self._rng.uniform(0.5, 1.0)
                self._tally(num_retries=1)
                self._wait(max(pause_s, min(_MAX_PAUSE_S, error.retry_after_s)))
            finally:
                with self._lock:
                    self._reserved_tokens -= reserved
        raise AssertionError("max_attempts is at least 1")

    def _reserve(self, request: Request) -> int:
        """Sets aside what one exchange may cost: the dearest so far, in any run, or more where the request looks like
        more."""
        budget = self._config.budget_tokens
        expected = _prompt_tokens(request) + self._config.max_reply_tokens
        with self._lock:
            expected = max(expected, self._ledger.largest_tokens)
            spent = self._ledger.total_tokens
            if budget is not None and spent + self._reserved_tokens + expected > budget:
                self.stop(
                    f"teacher.budget_tokens {budget}: {spent} are spent and another reply could go beyond; "
                    "raise it to go on"
                )
                raise CurationStopped(self._why_stopped)
            self._reserved_tokens += expected
        return expected

    def _pay(self, reply: Reply, request: Request) -> None:
        prompt, completion = reply.prompt_tokens, reply.completion_tokens
        is_estimated = prompt is None or completion is None
        if prompt is None:
            prompt = _prompt_tokens(request)
        if completion is None:
            completion = 1 + len(reply.text) // _CHARS_PER_TOKEN
        self._ledger.add(prompt, completion, is_estimated)

    def _tally(self, num_new: int = 0, num_kept: int = 0, num_retries: int = 0, fault: str = "") -> None:
        with self._lock:
            self.counts.num_new += num_new
            self.counts.num_kept += num_kept
            self.counts.num_retries += num_retries
            if fault:
                self.counts.faults[fault] += 1


def _prompt_tokens(request: Request) -> int:
    """A guess, for before an endpoint has told, and for one that never does."""
    num_chars = len(request.system) + len(request.text)
    return num_chars // _CHARS_PER_TOKEN + _TOKENS_PER_PICTURE * len(request.frames)
