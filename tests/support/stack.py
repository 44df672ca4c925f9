"""What end-to-end tests do to a running local stack, and what they read back from Kafka."""

import psutil
from kafka import TopicPartition

from services.local.local_stack import LocalStack
from services.shared.kafka import reader
from services.shared.settings import KafkaSettings
from services.shared.topics import Topics, partition_of
from streamo.v1.event_pb2 import Event
from streamo.v1.frame_pb2 import FrameRecord
from streamo.v1.state_pb2 import StreamState
from support.promise import StreamRecords


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


def _values(settings: KafkaSettings, topic: str, number: int) -> list[tuple[str, bytes]]:
    partition = TopicPartition(topic, number)
    found = []
    with reader(settings, [partition]) as consumer:
        consumer.seek_to_beginning(partition)
        end = consumer.end_offsets([partition])[partition]
        while consumer.position(partition) < end:
            for record in consumer.poll(timeout_ms=500).get(partition, []):
                if record.value is not None:
                    found.append((record.key.decode(), record.value))
    return found


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
