"""`python -m services.ingest`, where it cannot begin."""

import os
import subprocess
import sys

import pytest

from services.shared.settings import PREFIX

# As where Kafka is away, without the half minute that its client takes to say so.
KAFKA_IS_AWAY = """
from kafka.errors import KafkaTimeoutError
from services.ingest.__main__ import main
from services.shared.topics import Topics

def create(topics, settings):
    raise KafkaTimeoutError(f"Unable to bootstrap from {settings.bootstrap_servers}")

Topics.create = create
raise SystemExit(main())
"""
MAIN = "from services.ingest.__main__ import main; raise SystemExit(main())"


@pytest.mark.parametrize(
    ("program", "setting", "text"),
    [
        (KAFKA_IS_AWAY, ("STREAMO_KAFKA__BOOTSTRAP_SERVERS", "kafka:9092"), "bootstrap from kafka:9092"),
        (MAIN, ("STREAMO_INGEST__NO_SUCH", "1"), "unknown setting STREAMO_INGEST__NO_SUCH"),
    ],
)
def test_a_worker_that_cannot_begin_says_why(program: str, setting: tuple[str, str], text: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, **dict([setting])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert text in ended.stderr
    assert "Traceback" not in ended.stderr
