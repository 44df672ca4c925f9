"""The whole of Streamo on this machine: Kafka, Redis, ingest, encoder and LLM on Ray, gateway."""

import fcntl
import os
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, Self

from services.local.camera_server import CameraServer
from services.local.directory import DIRECTORY
from services.local.gateway_health import gateway_serves
from services.local.group_health import group_has_member
from services.local.kafka_broker import KafkaBroker
from services.local.model_directory import fault_of
from services.local.ports import HOST, free_ports, is_free, listens
from services.local.process_record import ProcessRecord
from services.local.ray_cluster import RayCluster
from services.local.redis_server import RedisServer
from services.local.service_process import ServiceProcess
from services.local.stack_file import StackFile, StackState
from services.shared.errors import AlreadyExists, ServiceError, Unavailable
from services.shared.settings import Settings
from services.shared.topics import Topics


class Part(Protocol):
    """Something that the stack starts and stops. Both calls block; `stop` may come while `start` still waits."""

    @property
    def process(self) -> ServiceProcess: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...


class ServicePart:
    """One of our own plain services: python -m services.NAME"""

    def __init__(self, process: ServiceProcess) -> None:
        self.process = process

    def start(self) -> None:
        self.process.start()

    def stop(self) -> None:
        self.process.stop()


class LocalStack(AbstractContextManager["LocalStack"]):
    """One stack in one directory; stacks in different directories do not meet.

    `up` and `down` block. Parts that die while it is up are started again. As a context manager it is up inside
    and down after, whatever happens. `on_change` is called with the new state whenever a part's state changes, from
    several threads, one at a time; it must not block for long. Kafka and Redis listen on loopback and ask for no
    password, unless others are given; how they are reached is theirs to say, whatever `settings` hold.
    """

    def __init__(
        self,
        directory: Path = DIRECTORY,
        settings: Settings | None = None,
        on_change: Callable[[StackState], None] | None = None,
        broker: KafkaBroker | None = None,
        redis: RedisServer | None = None,
    ) -> None:
        self.directory = directory.resolve()
        base = settings or Settings.load()
        self.broker = broker or KafkaBroker(self.directory / "kafka", restart=True)
        self.redis = redis or RedisServer(self.directory / "redis", restart=True)
        self.settings = _pointed_here(base, self.broker, self.redis)
        self.model = RayCluster(self.directory / "model", self.settings, restart=True)
        self.gateway = self._service("gateway", self._gateway_serves)
        self.ingest = self._service("ingest", lambda: group_has_member(self.settings.kafka, "ingest"))
        self.cameras: CameraServer | None = None
        self._parts: dict[str, Part] = {
            "kafka": self.broker,
            "redis": self.redis,
            "model": self.model,
            "gateway": self.gateway,
            "ingest": self.ingest,
        }
        self._file = StackFile(self.directory)
        self._on_change = on_change
        self._lock = threading.RLock()  # guards _state and its file
        self._held: IO[str] | None = None
        self._stopping = threading.Event()
        self._state = StackState(
            supervisor=ProcessRecord.of("supervisor", os.getpid()),
            state="starting",
            gateway=self.gateway_address,
            settings=self.settings.environment(),
            environment=self.model.environment(),
            parts=dict.fromkeys(self._parts, ("waiting", "")),
        )

    @property
    def gateway_address(self) -> str:
        return f"{self.settings.gateway.host}:{self.settings.gateway.port}"

    @property
    def state(self) -> StackState:
        return self._state

    def up(self) -> None:
        """Returns when every part is ready. Raises AlreadyExists where a stack already runs in this directory,
        and what went wrong where a part does not start; then nothing is left running.
        """
        self._hold_directory()
        try:
            self._file.end_stack()
            self._require_checkpoint()
            self._save(state="starting")
            for part in self._parts.values():
                part.process.on_start = self._record
            self._start_all()
            self._save(state="ready", ray_address=self.model.address)
        except BaseException as error:
            self._shut_down(failure=str(error) if isinstance(error, ServiceError) else type(error).__name__)
            raise

    def down(self) -> None:
        """Stops what `up` started. Calling it again does nothing."""
        self._shut_down(failure="")

    def start_cameras(self, arguments: Sequence[str]) -> CameraServer:
        """Simulated cameras as one more part; `arguments` are those of python -m services.camera."""
        if self.cameras is not None:
            raise AlreadyExists("this stack's simulated cameras already run")
        self.cameras = CameraServer(self.directory / "logs", arguments)
        self._parts["cameras"] = self.cameras
        self.cameras.process.on_start = self._record
        self._start("cameras")
        return self.cameras

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.down()

    def _start_all(self) -> None:
        """What needs nothing starts at once; the gateway and ingest follow Kafka; the model waits for it itself."""
        with ThreadPoolExecutor(len(self._parts), thread_name_prefix="start") as pool:
            kafka = pool.submit(self._start_kafka)
            started: list[Future[None]] = [kafka]
            started += [pool.submit(self._start, name) for name in ("redis", "model")]
            started += [pool.submit(self._start_after, kafka, name) for name in ("gateway", "ingest")]
            try:
                done, _ = wait(started, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            except BaseException:
                self._stop_parts()
                raise

    def _start_kafka(self) -> None:
        def told(done_bytes: int, total_bytes: int) -> None:
            if self._stopping.is_set():
                raise Unavailable("stopped while starting")
            self._tell(
                "kafka", "starting", f"fetching Kafka, {done_bytes / 1e6:.0f} of {total_bytes / 1e6:.0f} MB"
            )

        self._tell("kafka", "starting", "")
        try:
            self.broker.start(told)
            Topics.of(self.settings.kafka).create(self.settings.kafka)
        except BaseException:
            self._tell("kafka", "failed", "")
            raise
        self._tell("kafka", "ready", "")

    def _start_after(self, first: Future[None], name: str) -> None:
        if first.exception() is None:
            self._start(name)

    def _start(self, name: str) -> None:
        if self._stopping.is_set():
            raise Unavailable("stopped while starting")
        self._tell(name, "starting", "")
        try:
            self._parts[name].start()
        except BaseException:
            self._tell(name, "failed", "")
            raise
        self._tell(name, "ready", "")

    def _shut_down(self, failure: str) -> None:
        if self._held is None:
            return
        try:
            with suppress(OSError):  # on a full disk, say
                self._save(state="stopping")
            self._stop_parts()
        finally:
            self._stop_parts()  # what a starting thread had brought up meanwhile
            with suppress(OSError):
                if failure:
                    self._save(state="failed", failure=failure, processes=())
                else:
                    self._file.remove()
            self._held.close()
            self._held = None

    def _stop_parts(self) -> None:
        """Readers before what they read from, each group at once. Every part is stopped, whatever comes in between,
        another Ctrl-C or a part that does not stop; the first such thing is raised at the end.
        """
        self._stopping.set()
        first: BaseException | None = None
        for group in (("cameras", "gateway", "ingest", "model"), ("kafka", "redis")):
            parts = [self._parts[name] for name in group if name in self._parts]
            try:
                with ThreadPoolExecutor(len(parts), thread_name_prefix="stop") as pool:
                    for stopped in [pool.submit(part.stop) for part in parts]:
                        stopped.result()
            except BaseException as error:
                first = first or error
        if first is not None:
            raise first

    def _hold_directory(self) -> None:
        """The lock on the directory ends with this process, however it ends."""
        self.directory.mkdir(parents=True, exist_ok=True)
        held = (self.directory / "lock").open("w")
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            held.close()
            raise AlreadyExists(
                f"a stack already runs in {self.directory}; stop it first: streamo down"
            ) from error
        self._held = held
        self._stopping.clear()

    def _require_checkpoint(self) -> None:
        if fault := fault_of(self.settings.model.path):
            raise Unavailable(f"no model checkpoint to serve: {'; '.join(fault)}")

    def _gateway_serves(self) -> bool:
        gateway = self.settings.gateway
        is_ours = listens(self.gateway.process.pid, gateway.health_port)
        return is_ours and gateway_serves(f"{gateway.host}:{gateway.health_port}")

    def _service(self, name: str, ready: Callable[[], bool]) -> ServicePart:
        return ServicePart(
            ServiceProcess(
                name,
                [sys.executable, "-m", f"services.{name}"],
                self.directory / "logs" / f"{name}.log",
                environment=self.settings.environment(),
                ready=ready,
                restart=True,
            )
        )

    def _record(self, record: ProcessRecord) -> None:
        with self._lock:
            others = tuple(other for other in self._state.processes if other.name != record.name)
            self._save(processes=(*others, record))

    def _tell(self, name: str, state: str, detail: str) -> None:
        with self._lock:
            self._save(parts={**self._state.parts, name: (state, detail)})

    def _save(self, **changes: object) -> None:
        with self._lock:
            self._state = replace(self._state, **changes)  # type: ignore[arg-type]
            self._file.write(self._state)
            if self._on_change is not None:
                self._on_change(self._state)


def _pointed_here(base: Settings, broker: KafkaBroker, redis: RedisServer) -> Settings:
    """`base` with the addresses of this stack. The gateway keeps its port where that is free."""
    wanted = base.gateway.port
    port, health_port = free_ports(2)
    if wanted and is_free(wanted):
        port = wanted
    topics = ("prefix", "partitions", "frames_retention_s", "events_retention_s")
    return base.model_copy(
        update={
            "kafka": broker.settings.model_copy(update={name: getattr(base.kafka, name) for name in topics}),
            "redis": redis.settings.model_copy(update={"timeout_s": base.redis.timeout_s}),
            "gateway": base.gateway.model_copy(
                update={"host": HOST, "port": port, "health_port": health_port}
            ),
        }
    )
