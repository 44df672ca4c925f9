"""The gateway as a whole: its parts in the order they start and stop, and the gRPC server around them."""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from logging import getLogger

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.gateway.control_desk import ControlDesk
from services.gateway.event_log import EventLog
from services.gateway.event_servicer import EventServicer
from services.gateway.history import History
from services.gateway.interceptors import DeadlineInterceptor, ErrorInterceptor
from services.gateway.resume_token import TokenIssuer
from services.gateway.stream_servicer import StreamServicer
from services.gateway.subscription import Subscriptions
from services.gateway.validation import MAX_ASK_S
from services.gateway.watch_servicer import WatchServicer
from services.shared.control_log import ControlReader, ControlWriter
from services.shared.errors import InvalidInput, Unavailable
from services.shared.kafka import cluster_id
from services.shared.settings import GatewaySettings, Settings
from services.shared.telemetry import Telemetry
from services.shared.tls import load_authorities, load_certificate, read_file
from services.shared.topics import MAX_RECORD_BYTES, Topics
from streamo.v1 import event_pb2, event_pb2_grpc, stream_pb2, stream_pb2_grpc, watch_pb2, watch_pb2_grpc

_log = getLogger(__name__)

SERVICES = tuple(
    file.DESCRIPTOR.services_by_name[name].full_name
    for file, name in (
        (stream_pb2, "StreamService"),
        (watch_pb2, "WatchService"),
        (event_pb2, "EventService"),
    )
)

_NUM_HISTORY_READERS = 4
# Below the time that clients give a call, so that they hear what it was that did not answer.
_HISTORY_TIMEOUT_S = 8.0
_UNARY_DEADLINE_S = 30.0
_ASK_DEADLINE_S = MAX_ASK_S + _UNARY_DEADLINE_S
# Calls besides subscriptions.
_MAX_OTHER_CALLS = 200
_MAX_HEALTH_CALLS = 16
_CONTROL_CHECK_S = 1.0
SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", 1024 * 1024),
    ("grpc.max_send_message_length", MAX_RECORD_BYTES + 1024 * 1024),
    # A dead client is noticed within 30 s; clients may ping every 5 s to notice a dead gateway.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # without it an unanswered ping counts after a minute only
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # A second gateway on one port is a mistake to be told, not a share of its connections.
    ("grpc.so_reuseport", 0),
)


class Gateway:
    """`start`, then `stop`, once each, on one event loop. Once `failed` is set it cannot go on: stop it."""

    def __init__(self, settings: Settings, telemetry: Telemetry, clock_us: Callable[[], int]) -> None:
        self.failed = asyncio.Event()
        self.port = 0
        self._settings = settings
        self._telemetry = telemetry
        self._clock_us = clock_us
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._closing = AsyncExitStack()
        self._server: grpc.aio.Server | None = None
        self._health_server: grpc.aio.Server | None = None
        self._subscriptions: Subscriptions | None = None
        self._watch_servicer: WatchServicer | None = None

    async def start(self) -> None:
        """Returns when calls are served. Raises ServiceError, or KafkaError where Kafka cannot be reached."""
        try:
            await self._start()
        except BaseException:
            await self._closing.aclose()
            raise

    async def stop(self, grace_s: float = 10.0) -> None:
        """Tells subscribers where to go on, lets calls finish for `grace_s`, then closes everything."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        if self._subscriptions is not None:
            self._subscriptions.drain()
        if self._server is not None:
            await self._server.stop(grace_s)
        if self._health_server is not None:
            await self._health_server.stop(0)
        if self._watch_servicer is not None:
            await self._watch_servicer.drain()
        await self._closing.aclose()

    async def _start(self) -> None:
        kafka, loop = self._settings.kafka, asyncio.get_running_loop()
        topics = Topics.of(kafka)
        await asyncio.to_thread(topics.create, kafka)
        issuer = TokenIssuer(await asyncio.to_thread(cluster_id, kafka), topics.events, kafka.partitions)

        control = ControlReader(kafka, on_unreadable=_tell_unreadable)
        self._closing.push_async_callback(asyncio.to_thread, control.stop)
        await asyncio.to_thread(control.start)
        writer = await asyncio.to_thread(ControlWriter, kafka, self._settings.gateway.write_timeout_s)
        self._closing.push_async_callback(asyncio.to_thread, writer.close)
        history = History(kafka, _NUM_HISTORY_READERS, _HISTORY_TIMEOUT_S, self._clock_us)
        self._closing.push_async_callback(asyncio.to_thread, history.close)
        desk = ControlDesk(control, writer, history, self._settings.gateway.write_timeout_s)
        self._closing.push_async_callback(asyncio.to_thread, desk.close)

        def fail() -> None:
            loop.call_soon_threadsafe(self.failed.set)

        log = EventLog(kafka, history, self._telemetry, self._clock_us, on_failure=fail)
        self._closing.push_async_callback(asyncio.to_thread, log.stop)
        await asyncio.to_thread(log.start, loop)

        self._subscriptions = Subscriptions(log, issuer, self._settings.gateway, self._telemetry)
        self._watch_servicer = WatchServicer(desk, self._subscriptions, self._clock_us)
        await self._serve(
            StreamServicer(desk, log, self._clock_us),
            self._watch_servicer,
            EventServicer(self._subscriptions, history, self._telemetry, self._clock_us),
        )
        watching = asyncio.create_task(self._watch_control(control))
        self._closing.callback(watching.cancel)

    async def _serve(self, streams: StreamServicer, watches: WatchServicer, events: EventServicer) -> None:
        gateway = self._settings.gateway
        server = grpc.aio.server(
            interceptors=(
                ErrorInterceptor(),
                DeadlineInterceptor(_UNARY_DEADLINE_S, {"/streamo.v1.WatchService/Ask": _ASK_DEADLINE_S}),
            ),
            options=SERVER_OPTIONS,
            maximum_concurrent_rpcs=gateway.max_subscribers + _MAX_OTHER_CALLS,
        )
        stream_pb2_grpc.add_StreamServiceServicer_to_server(streams, server)
        watch_pb2_grpc.add_WatchServiceServicer_to_server(watches, server)
        event_pb2_grpc.add_EventServiceServicer_to_server(events, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        self.port = _listen(server, gateway, "port", _credentials(gateway))
        await server.start()
        self._server = server
        if gateway.health_port:
            await self._serve_health()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def _serve_health(self) -> None:
        server = grpc.aio.server(options=SERVER_OPTIONS, maximum_concurrent_rpcs=_MAX_HEALTH_CALLS)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        _listen(server, self._settings.gateway, "health_port", None)
        await server.start()
        self._health_server = server

    async def _set_health(self, status: "health_pb2.HealthCheckResponse.ServingStatus") -> None:
        for service in ("", *SERVICES):
            await self._health.set(service, status)

    async def _watch_control(self, control: ControlReader) -> None:
        while True:
            try:
                _ = control.view
            except Unavailable as error:
                _log.error("%s", error)
                self.failed.set()
                return
            await asyncio.sleep(_CONTROL_CHECK_S)


def _listen(
    server: grpc.aio.Server, gateway: GatewaySettings, field: str, credentials: grpc.ServerCredentials | None
) -> int:
    """The port. Raises InvalidInput where it cannot be had."""
    address = f"{gateway.host}:{getattr(gateway, field)}"
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise InvalidInput(
            f"gateway.host, gateway.{field}: {address} cannot be listened on; is it in use?"
        ) from error


def _credentials(gateway: GatewaySettings) -> grpc.ServerCredentials | None:
    """None: no TLS. Raises InvalidInput for a file that is wrong; gRPC itself would only refuse to listen."""
    if not gateway.tls_cert_path:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_certificate(context, gateway.tls_cert_path, gateway.tls_key_path, "gateway")
    authorities = None
    if gateway.tls_client_ca_path:
        load_authorities(context, gateway.tls_client_ca_path, "gateway.tls_client_ca_path")
        authorities = read_file(gateway.tls_client_ca_path, "gateway.tls_client_ca_path")
    key = read_file(gateway.tls_key_path, "gateway.tls_key_path")
    certificate = read_file(gateway.tls_cert_path, "gateway.tls_cert_path")
    return grpc.ssl_server_credentials(
        [(key, certificate)], root_certificates=authorities, require_client_auth=authorities is not None
    )


def _tell_unreadable(offset: int, reason: str) -> None:
    _log.error("control record %d was passed over: %s", offset, reason)
