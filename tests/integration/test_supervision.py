"""What containers rely on: the job that makes the topics, and the sign that ingest's loop runs."""

import os
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path

from kafka.admin import KafkaAdminClient

from services.local.kafka_broker import KafkaBroker
from services.shared.settings import IngestSettings, KafkaSettings, Settings
from services.shared.topics import Topics
from tests.support.ingest_rig import WorkerThread
from tests.support.waiting import poll_until


def topics_job(kafka: KafkaSettings) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMO_")}
    return subprocess.run(
        [sys.executable, "-m", "services.shared.topics"],
        env={**environment, **Settings(kafka=kafka).environment()},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_topics_job_makes_what_is_missing_and_may_run_again(broker: KafkaBroker):
    kafka = KafkaSettings(bootstrap_servers=broker.bootstrap_servers, prefix="job-", partitions=2)
    first, second = topics_job(kafka), topics_job(kafka)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers)
    try:
        assert set(astuple(Topics.of(kafka))) <= set(admin.list_topics())
    finally:
        admin.close()
    other = topics_job(kafka.model_copy(update={"partitions": 3}))
    assert other.returncode == 1
    assert "has 2 partitions" in other.stderr


def test_ingest_touches_its_heartbeat_while_its_loop_runs(kafka_settings: KafkaSettings, tmp_path: Path):
    heartbeat = tmp_path / "alive"
    worker = WorkerThread(
        Settings(kafka=kafka_settings, ingest=IngestSettings(heartbeat_path=str(heartbeat)))
    )
    try:
        poll_until(heartbeat.exists, what="the first beat")
        first_ns = heartbeat.stat().st_mtime_ns
        poll_until(lambda: heartbeat.stat().st_mtime_ns > first_ns, what="another beat")
    finally:
        worker.stop()
