"""`python -m support.llm_replica`: one LLM replica as a plain process, with the scripted engine; and its handle.

Settings come as environment variables. FAIL_AT in the argument list, `--fail-at=NAME:COUNT`, kills the process at the
COUNT-th time it passes that step of a commit.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from services.shared.settings import Settings


class ReplicaProcess:
    def __init__(self, settings: Settings, log_path: Path, fail_at: str = "", step_ms: int = 0) -> None:
        arguments = [f"--fail-at={fail_at}"] if fail_at else []
        arguments += [f"--step-ms={step_ms}"] if step_ms else []
        tests = Path(__file__).parents[1]
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("STREAMO_")},
            **settings.environment(),
            "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}",
            "OMP_NUM_THREADS": "1",
        }
        self.log_path = log_path
        with log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "support.llm_replica", *arguments],
                env=environment,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self, timeout_s: float = 20) -> int:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")


class _FailAt:
    def __init__(self, specification: str) -> None:
        self._name, _, count = specification.partition(":")
        self._left = int(count or 1)

    def __call__(self, name: str) -> None:
        if name == self._name:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def main(arguments: list[str]) -> int:
    from models.vlm.frame_size import FrameBudget
    from services.llm.committer import no_failpoint
    from services.llm.frame_reader import FrameReader
    from services.llm.parts import Parts
    from services.llm.replica import Replica
    from services.shared.lifecycle import StopSignal
    from services.shared.telemetry import Telemetry
    from support.scripted_engine import SIZE, STATE_TOKEN_IDS, WINDOW_ROUNDS, ScriptedEncoder, ScriptedEngine

    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s.%(msecs)03d %(threadName)s %(name)s %(message)s",
        datefmt="%H:%M:%S",
    )
    logging.getLogger("kafka").setLevel(logging.WARNING)
    logging.getLogger("kafka.coordinator").setLevel(logging.INFO)
    options = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
    step_s = int(options.get("step-ms", 0)) / 1000

    class PacedEngine(ScriptedEngine):
        def step(self):  # type: ignore[no-untyped-def]
            time.sleep(step_s)
            return super().step()

    settings = Settings.load()
    stop_signal = StopSignal()
    parts = Parts(
        PacedEngine() if step_s else ScriptedEngine(),
        ScriptedEncoder(),
        Telemetry("llm", settings.telemetry),
        settings.llm,
        STATE_TOKEN_IDS,
        WINDOW_ROUNDS,
        lambda: time.time_ns() // 1000,
        time.monotonic,
    )
    failpoint = _FailAt(options["fail-at"]) if "fail-at" in options else no_failpoint
    reader = FrameReader(FrameBudget(min_pixels=SIZE * SIZE, max_pixels=4 * SIZE * SIZE))
    replica = Replica(settings, parts, reader, failpoint=failpoint)
    thread = threading.Thread(target=replica.run, name="loop")
    thread.start()
    while thread.is_alive() and not stop_signal.wait(0.1):
        pass
    replica.stop()
    thread.join(10)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
