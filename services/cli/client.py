"""A client of the gateway: synchronous, typed, and no stranger to gateways that come and go."""

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, Self, TypeVar

import grpc

from services.shared.settings import ClientSettings
from services.shared.tls import channel_credentials
from streamo.v1 import event_pb2, event_pb2_grpc, stream_pb2, stream_pb2_grpc, watch_pb2, watch_pb2_grpc
from streamo.v1.event_pb2 import Event, EventFilter, GetEventsResponse, SubscribeRequest, SubscribeResponse
from streamo.v1.stream_pb2 import Stream, StreamStatus
from streamo.v1.watch_pb2 import Watch

T = TypeVar("T")
Start = Literal["now", "earliest"] | bytes

RESUME_TOKEN_KEY = "resume-token-bin"

_MIN_BACK_OFF_S = 0.2
_MAX_BACK_OFF_S = 5.0
_ASK_GRACE_S = 10.0
# The target is away, or has no place left: another may have.
_NEXT_TARGET = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
# What a target does not answer, it may have done all the same.
_NO_ANSWER = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
CHANNEL_OPTIONS = (
    # A gateway that is gone without a word is noticed within 15 s. The third is what counts for one whose kernel
    # still acknowledges: gRPC's default for an unanswered ping is a minute, whatever the second says.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 20 * 1024 * 1024),
)


class ClientError(Exception):
    """What the gateway answered instead: a gRPC status and its text for people.

    `resume_token` is set where a subscription was cut off, or history is missing something: it goes on behind that.
    """

    def __init__(self, code: grpc.StatusCode, text: str, resume_token: bytes = b"") -> None:
        super().__init__(f"{text} ({code.name})")
        self.code = code
        self.text = text
        self.resume_token = resume_token


class _Target:
    """One gateway's channel, and the services on it."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None) -> None:
        if credentials is None:
            self.channel = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        else:
            self.channel = grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
        self.streams = stream_pb2_grpc.StreamServiceStub(self.channel)
        self.watches = watch_pb2_grpc.WatchServiceStub(self.channel)
        self.events = event_pb2_grpc.EventServiceStub(self.channel)


Method = Callable[[_Target], Callable[..., T]]


class Client:
    """Calls one of `targets` ("host:port"); when it does not answer or is full, the next. Threads may share it.

    It speaks TLS where `settings` name an authority, and raises InvalidInput where a file of theirs is wrong.
    Every call ends within `timeout_s` for each target (`ask` and `subscribe` have their own) or raises
    ClientError. A call that was not answered in time goes to the next one too; only of `ask` that is the answer.
    """

    def __init__(
        self,
        targets: str | Sequence[str],
        timeout_s: float = 10.0,
        settings: ClientSettings | None = None,
    ) -> None:
        self._addresses = [targets] if isinstance(targets, str) else list(targets)
        if not self._addresses:
            raise ValueError("targets is empty: name at least one gateway as host:port")
        self._timeout_s = timeout_s
        credentials = _credentials(settings or ClientSettings())
        self._targets = [_Target(address, credentials) for address in self._addresses]
        self._current = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends running calls too."""
        for target in self._targets:
            target.channel.close()

    def add_stream(self, stream_id: str, source: str, username: str = "", password: str = "") -> Stream:
        """The stream as it may be told: no password, no query. Repeating an identical add changes nothing."""
        stream = Stream(stream_id=stream_id, source=source, username=username, password=password)
        request = stream_pb2.AddStreamRequest(stream=stream)
        added: Stream = self._call(lambda target: target.streams.AddStream, request).stream
        return added

    def remove_stream(self, stream_id: str) -> None:
        request = stream_pb2.RemoveStreamRequest(stream_id=stream_id)
        self._remove(lambda target: target.streams.RemoveStream, request)

    def list_streams(self) -> list[StreamStatus]:
        request = stream_pb2.ListStreamsRequest()
        answer = self._call(lambda target: target.streams.ListStreams, request)
        return list(answer.streams)

    def add_watch(
        self,
        stream_id: str,
        watch_id: str,
        task: int,
        instruction: str,
        replace: bool = False,
        sensitivity: float = 0.0,
    ) -> Watch:
        """The watch with its version. `task` is a `streamo.v1.Task`.

        `sensitivity` of -10 to 10 is added to the model's logits for speaking: above 0 the watch speaks sooner.
        """
        kind: Any = task
        watch = Watch(
            stream_id=stream_id,
            watch_id=watch_id,
            task=kind,
            instruction=instruction,
            sensitivity=sensitivity,
        )
        request = watch_pb2.AddWatchRequest(watch=watch, replace=replace)
        added: Watch = self._call(lambda target: target.watches.AddWatch, request).watch
        return added

    def remove_watch(self, stream_id: str, watch_id: str) -> None:
        request = watch_pb2.RemoveWatchRequest(stream_id=stream_id, watch_id=watch_id)
        self._remove(lambda target: target.watches.RemoveWatch, request)

    def list_watches(self, stream_id: str = "") -> list[Watch]:
        """Of all streams, by default."""
        request = watch_pb2.ListWatchesRequest(stream_id=stream_id)
        answer = self._call(lambda target: target.watches.ListWatches, request)
        return list(answer.watches)

    def ask(self, stream_id: str, question: str, timeout_s: int = 60) -> Event:
        """The answer, once it is there; DEADLINE_EXCEEDED where the stream shows none in `timeout_s`."""
        request = watch_pb2.AskRequest(stream_id=stream_id, question=question, timeout_s=timeout_s)
        asked_s = timeout_s + _ASK_GRACE_S
        answer: Event = self._call(lambda target: target.watches.Ask, request, asked_s).answer
        return answer

    def get_events(
        self,
        stream_ids: Iterable[str] = (),
        watch_ids: Iterable[str] = (),
        tasks: Iterable[int] = (),
        page_size: int = 0,
        page_token: bytes = b"",
    ) -> Iterator[GetEventsResponse]:
        """Pages of what was told, oldest first within a stream; some may be empty.

        Where events are missing it ends with DATA_LOSS; the error's `resume_token` is the `page_token` to go on with.
        """
        wanted = _filter(stream_ids, watch_ids, tasks)
        while True:
            request = event_pb2.GetEventsRequest(filter=wanted, page_size=page_size, page_token=page_token)
            page = self._call(lambda target: target.events.GetEvents, request)
            yield page
            page_token = page.next_page_token
            if not page_token:
                return

    def subscribe(
        self,
        stream_ids: Iterable[str] = (),
        watch_ids: Iterable[str] = (),
        tasks: Iterable[int] = (),
        start: Start = "now",
        deadline_s: float | None = None,
    ) -> "EventStream":
        """Events and bookmarks as they come, for `deadline_s` seconds or until it is closed."""
        return EventStream(self, _filter(stream_ids, watch_ids, tasks), start, deadline_s, random.Random())

    @property
    def addresses(self) -> list[str]:
        """The targets, as they were given."""
        return list(self._addresses)

    @property
    def timeout_s(self) -> float:
        return self._timeout_s

    def target(self) -> _Target:
        """The one in use."""
        return self._targets[self._current]

    def leave(self, target: _Target) -> None:
        """`target` did not answer, or is full: the next is in use from now on, unless another thread has moved on."""
        index = self._targets.index(target)
        if self._current == index:
            self._current = (index + 1) % len(self._targets)

    def _call(self, method: Method[Any], request: Any, timeout_s: float | None = None) -> Any:
        """`timeout_s`: of a call whose time-out is an answer, and no sign that the target hangs."""
        next_target = _NEXT_TARGET if timeout_s else (*_NEXT_TARGET, *_NO_ANSWER)
        may_be_done = False
        for _ in self._targets:
            target = self.target()
            try:
                return method(target)(request, timeout=timeout_s or self._timeout_s)
            except grpc.RpcError as error:
                code, text = error.code(), error.details() or "no reason was given"
                if code not in next_target:
                    repeated = may_be_done and code == grpc.StatusCode.NOT_FOUND
                    kind = _NotFoundOnRepeat if repeated else ClientError
                    raise kind(code, text, _token_of(error)) from None
                may_be_done |= code in _NO_ANSWER
                self.leave(target)
        if code in _NO_ANSWER:
            is_late = code == grpc.StatusCode.DEADLINE_EXCEEDED
            why = f"answered within {timeout_s or self._timeout_s:g} s" if is_late else f"can answer: {text}"
            text = f"no gateway at {', '.join(self._addresses)} {why}"
        raise ClientError(code, text)

    def _remove(self, method: Method[Any], request: Any) -> None:
        try:
            self._call(method, request)
        except _NotFoundOnRepeat:
            pass  # the try before this one did it, only its answer was lost


class EventStream(Iterator[SubscribeResponse]):
    """Messages of one subscription, across gateways: each event once, in order within its stream, none left out.

    Blocks in `next`; `close` may be called from any thread and ends it. The first connection must come about
    within the client's `timeout_s`; after that it is sought again for ever, also while all gateways are full. Raises
    ClientError for everything that coming back does not mend, such as RESOURCE_EXHAUSTED for a subscriber that was
    too slow.
    """

    def __init__(
        self, client: Client, wanted: EventFilter, start: Start, deadline_s: float | None, rng: random.Random
    ) -> None:
        if not isinstance(start, bytes) and start not in ("now", "earliest"):
            raise ValueError(f"start is {start!r}; give 'now', 'earliest' or a resume token")
        self._client = client
        self._wanted = wanted
        self._start = start
        self._rng = rng
        self._deadline = None if deadline_s is None else time.monotonic() + deadline_s
        self._connect_by: float | None = time.monotonic() + client.timeout_s
        self._back_off_s = _MIN_BACK_OFF_S
        self._last_seqs: dict[str, int] = {}
        self._closed = threading.Event()
        self._call: Any = None
        self._has_message = False  # of this call
        self._target: _Target | None = None
        self.resume_token = start if isinstance(start, bytes) else b""
        self.num_reconnects = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._closed.set()
        call = self._call
        if call is not None:
            call.cancel()

    def __next__(self) -> SubscribeResponse:
        while not self._closed.is_set() and self._left_s() != 0:
            if self._call is None:
                self._connect()
            try:
                message: SubscribeResponse = next(self._call)
            except StopIteration:
                self._reconnect(grpc.StatusCode.UNAVAILABLE, "the gateway ended the subscription")
            except grpc.RpcError as error:
                self._on_error(error)
            else:
                self._connect_by = None
                self._has_message = True
                self._back_off_s = _MIN_BACK_OFF_S
                self.resume_token = message.resume_token
                if not self._is_repeat(message):
                    return message
        raise StopIteration

    def _connect(self) -> None:
        request = SubscribeRequest(filter=self._wanted)
        if self.resume_token or isinstance(self._start, bytes):
            request.resume_token = self.resume_token
        elif self._start == "earliest":
            request.earliest = True
        else:
            request.now = True
        self._has_message = False
        self._target = self._client.target()
        self._call = self._target.events.Subscribe(request, timeout=self._left_s())
        if self._closed.is_set():  # `close` came in between
            self._call.cancel()

    def _on_error(self, error: grpc.RpcError) -> None:
        """Returns where the loop is to go on: to try again, or to end."""
        if self._closed.is_set():
            return
        if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED and self._left_s() == 0:
            return
        text = error.details() or "no reason was given"
        token = _token_of(error)
        # Once there were messages, a bound that was reached is the subscriber's own: it is too slow anywhere.
        is_too_slow = self._has_message and error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        if is_too_slow or error.code() not in _NEXT_TARGET:
            self.close()
            raise ClientError(error.code(), text, token or self.resume_token) from None
        self._reconnect(error.code(), text)

    def _reconnect(self, code: grpc.StatusCode, text: str) -> None:
        if self._connect_by is not None and time.monotonic() >= self._connect_by:
            self.close()
            raise ClientError(code, text, self.resume_token)
        self._call = None
        assert self._target is not None
        self._client.leave(self._target)
        wait_s = self._back_off_s * self._rng.uniform(0.5, 1.0)
        self._back_off_s = min(self._back_off_s * 2, _MAX_BACK_OFF_S)
        left_s = self._left_s()
        self._closed.wait(wait_s if left_s is None else min(wait_s, left_s))
        self.num_reconnects += 1

    def _is_repeat(self, message: SubscribeResponse) -> bool:
        if message.WhichOneof("body") != "event":
            return False
        event = message.event
        if event.seq <= self._last_seqs.get(event.stream_id, 0):
            return True
        self._last_seqs[event.stream_id] = event.seq
        return False

    def _left_s(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())


class _NotFoundOnRepeat(ClientError):
    pass


def _credentials(settings: ClientSettings) -> grpc.ChannelCredentials | None:
    return channel_credentials(settings, "client") if settings.tls_ca_path else None


def _filter(stream_ids: Iterable[str], watch_ids: Iterable[str], tasks: Iterable[int]) -> EventFilter:
    kinds: Any = tasks
    return EventFilter(stream_ids=stream_ids, watch_ids=watch_ids, tasks=kinds)


def _token_of(error: grpc.RpcError) -> bytes:
    metadata: Any = error.trailing_metadata() or ()
    return next((bytes(value) for key, value in metadata if key == RESUME_TOKEN_KEY), b"")
