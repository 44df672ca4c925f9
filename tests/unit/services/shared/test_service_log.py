"""What a service's process writes of itself, in a process of its own: logging is set up once for good."""

import subprocess
import sys

SCRIPT = """
import logging
from services.shared.service_log import start_logging

start_logging()
logging.getLogger("services.llm.replica").info("partition taken over")
logging.getLogger("services.llm.replica").critical("the replica cannot go on")
logging.getLogger("kafka.client").debug("a record with a password")
logging.getLogger("kafka.client").warning("refused")
logging.getLogger("transformers").info("loading")
"""


def test_a_line_says_when_how_grave_and_who():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True
    )
    lines = [line.split(" ", 2)[2] for line in done.stderr.splitlines()]
    assert lines == [
        "INFO services.llm.replica: partition taken over",
        "CRITICAL services.llm.replica: the replica cannot go on",
        "WARNING kafka.client: refused",
    ]
