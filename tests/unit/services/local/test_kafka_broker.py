from services.local.kafka_broker import _cluster_id


def test_no_cluster_id_looks_like_an_option() -> None:
    """One in 64 would, and Kafka's format tool then refuses it."""
    made = {_cluster_id() for _ in range(2000)}
    assert len(made) == 2000
    assert all(len(cluster_id) == 22 and not cluster_id.startswith("-") for cluster_id in made)
