"""How far a recording was read, by what its partition holds."""

import time
from collections.abc import Iterator

import pytest
from kafka import TopicPartition
from support.llm_bench import Bench

from services.ingest.frames_tail import Tail, find_tail
from services.shared.control_log import AddedStream
from services.shared.kafka import reader
from services.shared.settings import KafkaSettings
from services.shared.topics import partition_of
from streamo.v1.stream_pb2 import Stream


@pytest.fixture
def bench(kafka_settings: KafkaSettings) -> Iterator[Bench]:
    made = Bench(kafka_settings)
    yield made
    made.close()


def test_a_record_that_does_not_parse_is_passed_over(bench: Bench) -> None:
    version = bench.add_stream("gate")
    epoch = bench.begin_epoch("gate")
    bench.send_frame("gate", epoch, 0)
    bench.send_frame("gate", epoch, 1)
    bench.send_raw("gate", b"\xff\xff")
    bench.flush()
    added = AddedStream(Stream(stream_id="gate", added_at_us=time.time_ns() // 1000), version)
    partition = TopicPartition(bench.topics.frames, partition_of("gate", bench.settings.partitions))
    with reader(bench.settings, [partition]) as consumer:
        end = consumer.end_offsets([partition])[partition]
    assert find_tail(bench.settings, added, end) == Tail(1500)
    assert find_tail(bench.settings, added, end - 2) == Tail(500)
