"""A child process under supervision: started, found ready, restarted when it dies, stopped by its id."""

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from services.local.process_record import ProcessRecord, kill_all, tree_of
from services.shared.errors import Unavailable
from services.shared.settings import PREFIX

_LOG = logging.getLogger(__name__)

# Each look takes some of the time that what starts needs itself.
_POLL_S = 0.2
_BACKOFF_MIN_S = 0.5
_BACKOFF_MAX_S = 30.0
# A process that lived this long is taken to have been well: its next restart is quick again.
_HEALTHY_S = 60.0
_MAX_LOG_BYTES = 16 * 1024 * 1024
_TOLD_LINES = 15


class ServiceProcess:
    """One process, in a session of its own, with its output in `log_path`.

    `start` and `stop` block and may be called again and again; `stop` may come from another thread while `start`
    waits, which then raises Unavailable. A `command` that is a function is asked at each start. With `restart` a
    process that ends on its own is started again after a back-off. `on_start` is called with each new process's
    record, in the thread that started it; `num_restarts` counts those for which it has been.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str] | Callable[[], Sequence[str]],
        log_path: Path,
        *,
        ready: Callable[[], bool],
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        ready_timeout_s: float = 60.0,
        stop_timeout_s: float = 10.0,
        restart: bool = False,
        on_start: Callable[[ProcessRecord], None] | None = None,
    ) -> None:
        self.name = name
        self.log_path = log_path
        self.num_restarts = 0
        self.on_start = on_start
        self._command = command if callable(command) else lambda: command
        self._environment = dict(environment or {})
        self._directory = directory
        self._ready = ready
        self._ready_timeout_s = ready_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._restart = restart
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._supervisor: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        """None where no process is running."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def is_running(self) -> bool:
        return self.pid is not None

    def start(self) -> None:
        """Returns once the process is ready. Raises Unavailable, with the end of its log, where it never is."""
        if self.is_running:
            return
        self._join_supervisor()
        self._stopping.clear()
        try:
            self._spawn()
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise
        if self._restart:
            self._supervisor = threading.Thread(
                target=self._supervise, name=f"supervise-{self.name}", daemon=True
            )
            self._supervisor.start()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to whatever of its tree is left after `stop_timeout_s`."""
        self._stopping.set()
        process = self._process
        if process is not None and process.poll() is None:
            tree = tree_of(process.pid)
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(self._stop_timeout_s)
            except subprocess.TimeoutExpired:
                pass
            kill_all(tree)
            process.wait(self._stop_timeout_s)
        self._join_supervisor()

    def kill(self) -> None:
        """SIGKILL to the process and all its descendants; `start` brings it back, nothing else does."""
        self._stopping.set()
        process = self._process
        if process is not None and process.poll() is None:
            kill_all(tree_of(process.pid))
            process.wait(self._stop_timeout_s)
        self._join_supervisor()

    def log_tail(self, num_lines: int = _TOLD_LINES) -> str:
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(max(0, self.log_path.stat().st_size - 64 * 1024))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-num_lines:])

    def _spawn(self) -> None:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        if self.log_path.exists() and self.log_path.stat().st_size > _MAX_LOG_BYTES:
            os.replace(self.log_path, self.log_path.with_suffix(".log.1"))
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                list(self._command()),
                cwd=self._directory,
                env=child_environment(self._environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            if self.on_start is not None:
                self.on_start(ProcessRecord.of(self.name, self._process.pid))
        except BaseException:
            # Nobody could find and end a process that is not recorded.
            kill_all(tree_of(self._process.pid))
            self._process.wait(self._stop_timeout_s)
            raise

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline_s = time.monotonic() + self._ready_timeout_s
        while not self._ready():
            code = self._process.poll()
            if code is not None:
                raise Unavailable(f"{self.name} ended with code {code} while starting. {self._last_words()}")
            if time.monotonic() > deadline_s:
                raise Unavailable(
                    f"{self.name} was not ready within {self._ready_timeout_s:g} s. {self._last_words()}"
                )
            time.sleep(_POLL_S)

    def _note(self, text: str) -> None:
        """In the process's own log, where people look for why it does not run."""
        try:
            with self.log_path.open("a") as log:
                log.write(text + "\n")
        except OSError:
            _LOG.warning("%s", text)

    def _last_words(self) -> str:
        return f"The end of {self.log_path}:\n{self.log_tail()}"

    def _supervise(self) -> None:
        backoff_s = _BACKOFF_MIN_S
        while True:
            assert self._process is not None
            started_s = time.monotonic()
            self._process.wait()
            if time.monotonic() - started_s > _HEALTHY_S:
                backoff_s = _BACKOFF_MIN_S
            if self._stopping.wait(backoff_s):
                return
            backoff_s = min(2 * backoff_s, _BACKOFF_MAX_S)
            try:
                self._spawn()
            except Exception as error:  # a full disk, for one, may have room again
                self._note(
                    f"{self.name} could not be started again, next try in {backoff_s:g} s: "
                    f"{type(error).__name__}: {error}"
                )
                continue
            self.num_restarts += 1
            if self._stopping.is_set():
                self._process.kill()
                self._process.wait()
                return

    def _join_supervisor(self) -> None:
        if self._supervisor is not None:
            self._supervisor.join(self._stop_timeout_s)
            self._supervisor = None


def child_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `settings` in place of any STREAMO_ variable, and one OpenMP thread."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return {**inherited, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **settings}
