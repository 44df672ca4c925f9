"""Session checkpoints in Redis: a cache of what Kafka holds. Losing it costs time, never content."""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import redis
from google.protobuf.message import DecodeError

from services.shared.settings import RedisSettings
from services.shared.tls import client_context, read_secret
from streamo.v1.state_pb2 import Checkpoint

log = logging.getLogger(__name__)

_CLOSE_TIMEOUT_S = 2.0
_BATCH = 64

# what became of a checkpoint: saved, replaced, failed
Count = Callable[[str, int], None]


class CheckpointStore:
    """Saves in a thread of its own and never blocks its caller. No error leaves it: each is counted by `count`.

    Of a stream only the newest checkpoint waits; an older one that was not written yet is replaced.
    Raises InvalidInput where a file that the settings name is wrong.
    """

    def __init__(self, settings: RedisSettings, prefix: str, ttl_s: int, count: Count) -> None:
        self._prefix = prefix
        self._ttl_s = ttl_s
        self._count = count
        self._client = redis.Redis.from_url(
            settings.url,
            **_credentials(settings),
            socket_timeout=settings.timeout_s,
            socket_connect_timeout=settings.timeout_s,
            retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
        )
        self._waiting: dict[str, Checkpoint] = {}
        self._changed = threading.Condition()
        self._is_closing = False
        self._is_down = False
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
        self._thread.start()

    def save(self, checkpoints: Iterable[Checkpoint]) -> None:
        """Returns at once."""
        with self._changed:
            for checkpoint in checkpoints:
                stream_id = checkpoint.state.stream_id
                if stream_id in self._waiting:
                    self._count("replaced", 1)
                self._waiting[stream_id] = checkpoint
            self._changed.notify_all()

    def load(self, stream_ids: Sequence[str]) -> dict[str, Checkpoint]:
        """What there is of these streams; nothing where Redis does not answer. The caller checks the stamps.

        Waits at most a few times `redis.timeout_s`.
        """
        found: dict[str, Checkpoint] = {}
        for first in range(0, len(stream_ids), _BATCH):
            batch = stream_ids[first : first + _BATCH]
            try:
                values = self._client.mget([self._key(stream_id) for stream_id in batch])
            except redis.RedisError as error:
                self._note(error)
                self._count("unreadable", len(stream_ids) - first)
                return found
            for stream_id, value in zip(batch, values, strict=True):
                if not isinstance(value, bytes):  # None: there is no checkpoint
                    continue
                try:
                    found[stream_id] = Checkpoint.FromString(value)
                except DecodeError:
                    self._count("unreadable", 1)
        return found

    def close(self) -> None:
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(_CLOSE_TIMEOUT_S)
        self._client.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting) or self._is_closing)
                if not self._waiting:
                    return
                batch, self._waiting = self._waiting, {}
            self._write(batch)

    def _write(self, batch: dict[str, Checkpoint]) -> None:
        try:
            with self._client.pipeline(transaction=False) as pipeline:
                for stream_id, checkpoint in batch.items():
                    pipeline.set(self._key(stream_id), checkpoint.SerializeToString(), ex=self._ttl_s)
                pipeline.execute()
        except redis.RedisError as error:
            self._note(error)
            self._count("failed", len(batch))
        else:
            self._note(None)
            self._count("saved", len(batch))

    def _note(self, error: redis.RedisError | None) -> None:
        """Logs that Redis has gone or is back, not every call that failed meanwhile."""
        if error is not None and not self._is_down:
            log.warning(
                "Redis does not answer; takeovers read events instead: %s: %s", type(error).__name__, error
            )
        elif error is None and self._is_down:
            log.warning("Redis answers again")
        self._is_down = error is not None

    def _key(self, stream_id: str) -> str:
        return f"{self._prefix}checkpoint/{stream_id}"


def _credentials(settings: RedisSettings) -> dict[str, Any]:
    """What the client needs beyond the URL. Holds the password: not to be logged."""
    arguments: dict[str, Any] = {}
    if settings.tls_files():
        client_context(settings, "redis")  # the client makes its own, later, in a thread, and says less
        arguments["ssl_ca_certs"] = settings.tls_ca_path or None
        arguments["ssl_certfile"] = settings.tls_cert_path or None
        arguments["ssl_keyfile"] = settings.tls_key_path or None
    if settings.password_path:
        arguments["password"] = read_secret(settings.password_path, "redis.password_path").get_secret_value()
    return arguments
