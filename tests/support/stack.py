"""What end-to-end tests do to a running local stack, and what they read back from Kafka."""

from collections.abc import Iterator
from contextlib import suppress

import psutil
import redis

from services.local.local_stack import LocalStack
from services.local.ray_cluster import temp_dir
from services.shared.settings import KafkaSettings
from services.shared.topics import Topics, partition_of
from streamo.v1.event_pb2 import Event
from streamo.v1.frame_pb2 import FrameRecord
from streamo.v1.state_pb2 import StreamState
from support.promise import StreamRecords
from support.span_collector import SpanCollector
from support.topic_records import topic_records

# Of every simulated camera, and one that they refuse.
USERNAME, PASSWORD, WRONG_PASSWORD = "ann", "canary7c1e53", "canary0f9b42"


def read_stream(settings: KafkaSettings, stream_id: str) -> StreamRecords:
    """Everything committed about a stream, from one look at the ends of its partitions.

    The state is read first: what it speaks of is then surely among the frames and events read after it.
    """
    topics, number = Topics.of(settings), partition_of(stream_id, settings.partitions)
    states = [
        StreamState.FromString(record)
        for key, record in _values(settings, topics.state, number)
        if key == stream_id
    ]
    if not states:
        raise AssertionError(f"no state of stream {stream_id}")
    last = states[-1]
    events = [
        Event.FromString(value) for key, value in _values(settings, topics.events, number) if key == stream_id
    ]
    frames = [
        FrameRecord.FromString(value)
        for key, value in _values(settings, topics.frames, number)
        if key == stream_id
    ]
    return StreamRecords(frames, [event for event in events if event.seq <= last.last_seq], last)


def control_records(settings: KafkaSettings) -> bytes:
    return b"".join(value for _, value in _values(settings, Topics.of(settings).control, 0))


def everything_told(stack: LocalStack, collector: SpanCollector) -> Iterator[tuple[str, bytes]]:
    """Whatever leaves the services but by `control`, each with where it was found: logs, traces, metrics, the other
    topics, Redis, command lines.
    """
    kafka = stack.settings.kafka
    topics = Topics.of(kafka)
    for directory in (stack.directory, temp_dir(stack.directory / "model")):
        for path in directory.rglob("*"):
            is_control = path.parent.name == f"{topics.control}-0"  # Kafka's own file of it
            if path.is_file() and path.suffix in (".log", ".err", ".out") and not is_control:
                yield str(path), path.read_bytes()
    for spans in collector.traces():
        yield from ((f"span {span.name} of {service}", span.SerializeToString()) for service, span in spans)
    for name, metric in collector.metrics().items():
        yield name, metric.SerializeToString()
    for topic in (topics.frames, topics.events, topics.state):
        for number in range(kafka.partitions):
            yield from ((topic, value) for _, value in _values(kafka, topic, number))
    yield from ((topics.quarantine, value) for _, value in _values(kafka, topics.quarantine, 0))
    with redis.Redis.from_url(stack.settings.redis.url) as cache:
        yield from (("Redis", cache.get(key) or b"") for key in cache.scan_iter())
    cameras = stack.cameras.process.pid if stack.cameras is not None else None
    for process in psutil.Process().children(recursive=True):
        if process.pid != cameras:
            with suppress(psutil.Error):
                yield f"process {process.pid}", "\n".join(process.cmdline()).encode()


def _values(settings: KafkaSettings, topic: str, number: int) -> list[tuple[str, bytes]]:
    """Tombstones left out."""
    records = topic_records(settings, topic, number)
    return [(key.decode(), value) for key, value in records if key is not None and value is not None]


def replica_process(stack: LocalStack, deployment: str) -> psutil.Process | None:
    """The process of a deployment's replica; None while there is none."""
    return next(iter(replica_processes(stack, deployment)), None)


def replica_processes(stack: LocalStack, deployment: str) -> list[psutil.Process]:
    """Those of all replicas of a deployment, starting and ending ones too."""
    pid = stack.model.process.pid
    found = []
    for process in psutil.Process(pid).children(recursive=True) if pid is not None else ():
        try:
            if f"ServeReplica:streamo:{deployment}" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found
