from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2

from services.shared.settings import KafkaSettings
from services.shared.topics import Topics, partition_of


def test_names_carry_the_prefix():
    assert Topics.of(KafkaSettings(prefix="test-")).frames == "test-frames"


@given(st.text(min_size=1, max_size=64), st.integers(1, 1000))
def test_the_partition_is_the_one_that_any_kafka_client_picks_for_the_key(stream_id, num_partitions):
    expected = (murmur2(stream_id.encode()) & 0x7FFFFFFF) % num_partitions
    assert partition_of(stream_id, num_partitions) == expected
    assert 0 <= partition_of(stream_id, num_partitions) < num_partitions


def test_known_partitions_stay_where_they_are():
    """Streams must not move when the client library changes: these were read off Apache Kafka's rule."""
    assert [partition_of(name, 8) for name in ("cam0", "cam1", "cam2", "cam7")] == [3, 7, 2, 1]
