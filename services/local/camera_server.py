"""Simulated cameras: one RTSP server in a process of its own."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from services.local.service_process import ServiceProcess


@dataclass(frozen=True)
class SimulatedCamera:
    name: str
    url: str
    seed: int | None
    started_at_us: int
    control_port: int | None


class CameraServer:
    """python -m services.camera ARGUMENTS; it tells one line of JSON for each camera once they can be opened."""

    def __init__(self, directory: Path, arguments: Sequence[str]) -> None:
        self.cameras: list[SimulatedCamera] = []
        self.process = ServiceProcess(
            "cameras",
            [sys.executable, "-m", "services.camera", *arguments],
            directory / "cameras.log",
            ready=self._told,
            ready_timeout_s=30.0,
        )

    def start(self) -> None:
        self.process.log_path.unlink(missing_ok=True)
        self.process.start()

    def stop(self) -> None:
        self.process.stop()

    def _told(self) -> bool:
        """Every line is written once the server listens; one that is only half there has no newline yet."""
        lines = self.process.log_path.read_text().split("\n")[:-1]
        told = [json.loads(line) for line in lines if line.startswith("{")]
        self.cameras = [
            SimulatedCamera(one["name"], one["url"], one["seed"], one["started_at_us"], one["control_port"])
            for one in told
        ]
        return bool(told)
