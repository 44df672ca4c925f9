"""Ray with the encoder's and the LLM's deployments, on this machine alone."""

import json
import os
import secrets
import shutil
import stat
import sys
from hashlib import sha256
from pathlib import Path

from services.local.service_process import ServiceProcess
from services.shared.errors import Unavailable
from services.shared.settings import Settings

_START_TIMEOUT_S = 300.0


class RayCluster:
    """A Ray node bound to loopback that asks for a token, and the application on it; no HTTP proxy, no dashboard.

    Ray's own files go to a short path in /tmp, since Unix sockets have short names; `stop` removes them.
    """

    def __init__(self, directory: Path, settings: Settings, *, restart: bool = False) -> None:
        self._directory = directory
        self._ready_path = directory / "ray.json"
        self._token_path = directory / "auth_token"
        self._temp_dir = temp_dir(directory)
        self.process = ServiceProcess(
            "model",
            [
                *(sys.executable, "-m", "services.local.ray_host", "--ready", str(self._ready_path)),
                *("--temp-dir", str(self._temp_dir)),
            ],
            directory / "model.log",
            environment={**settings.environment(), **self.environment()},
            ready=self._ready_path.exists,
            ready_timeout_s=_START_TIMEOUT_S,
            stop_timeout_s=45.0,
            restart=restart,
        )

    @property
    def address(self) -> str:
        """For `ray.init(address=...)` in a process that has `environment()`. Raises Unavailable before it is ready."""
        try:
            return str(json.loads(self._ready_path.read_text())["address"])
        except FileNotFoundError as error:
            raise Unavailable("Ray is not ready") from error

    def environment(self) -> dict[str, str]:
        """What every process that talks to this Ray needs."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self._token_path.resolve()),
            # Despite its name: 0 makes Ray bind to loopback, on every system.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DEDUP_LOGS": "0",
            # A busy machine may be slow to start; the process's own deadline is what ends the wait.
            "RAY_raylet_start_wait_time_s": "180",
            # Else Ray starts as many workers as it has CPUs, whether anybody needs them or not.
            "RAY_prestart_worker_first_driver": "0",
        }

    def start(self) -> None:
        if self.process.is_running:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        if not self._token_path.exists():
            self._token_path.touch(mode=0o600)
            self._token_path.write_text(secrets.token_hex(32))
        self._ready_path.unlink(missing_ok=True)
        _make_private(self._temp_dir)
        self.process.start()

    def stop(self) -> None:
        self.process.stop()
        shutil.rmtree(self._temp_dir, ignore_errors=True)

    def kill(self) -> None:
        """SIGKILL to Ray, the replicas and all."""
        self.process.kill()


def temp_dir(directory: Path) -> Path:
    """Where the Ray of the stack part in `directory` keeps its files."""
    name = sha256(str(directory.resolve()).encode()).hexdigest()[:10]
    return Path("/tmp") / f"streamo-{os.getuid()}-{name}"


def _make_private(directory: Path) -> None:
    """Raises Unavailable where somebody else has put something there: anybody may write to /tmp."""
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise Unavailable(f"{directory} belongs to somebody else; remove it")
    directory.chmod(0o700)
