"""`python -m support.llm_replica`: one LLM replica as a plain process, without Ray; and its handle.

Settings come as environment variables. `--fail-at=NAME:COUNT` kills the process at the COUNT-th time it passes that
step of a commit; `--linger-at=NAME:COUNT` has it wait there for longer than a transaction may usually last. The engine
is the scripted one; with `--real=1` it is the real one and the checkpoint of the settings.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from models.engine.round import Decision, Reply
from models.vlm.frame_size import FrameBudget
from services.llm.committer import FailPoint, no_failpoint
from services.llm.frame_reader import FrameReader
from services.llm.parts import EncoderPort, Parts
from services.llm.replica import Replica
from services.llm.session import DialoguePort, EnginePort
from services.shared.lifecycle import StopSignal
from services.shared.settings import Settings
from services.shared.telemetry import Telemetry
from support.scripted_engine import SIZE, WINDOW_ROUNDS, ScriptedDialogue, ScriptedEncoder, ScriptedEngine

LINGERS = "lingers in a commit"


class ReplicaProcess:
    def __init__(
        self,
        settings: Settings,
        log_path: Path,
        fail_at: str = "",
        linger_at: str = "",
        step_ms: int = 0,
        real: bool = False,
    ) -> None:
        arguments = [f"--fail-at={fail_at}"] if fail_at else []
        arguments += [f"--linger-at={linger_at}"] if linger_at else []
        arguments += [f"--step-ms={step_ms}"] if step_ms else []
        arguments += ["--real=1"] if real else []
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


class _At:
    """Does something the COUNT-th time that a step of a commit is passed."""

    def __init__(self, specification: str, act: Callable[[], None]) -> None:
        self._name, _, count = specification.partition(":")
        self._left = int(count or 1)
        self._act = act

    def __call__(self, name: str) -> None:
        if name == self._name:
            self._left -= 1
            if self._left == 0:
                self._act()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _linger() -> None:
    logging.getLogger(__name__).warning(LINGERS)
    time.sleep(19)  # Kafka looks every 2 s for transactions that are older than 15 s


def scripted_parts(settings: Settings, step_s: float) -> tuple[Parts, FrameReader]:
    class PacedEngine(ScriptedEngine):
        def step(self) -> list[Decision | Reply]:
            time.sleep(step_s)
            return super().step()

    budget = FrameBudget(min_pixels=SIZE * SIZE, max_pixels=4 * SIZE * SIZE)
    engine = PacedEngine() if step_s else ScriptedEngine()
    return _parts(settings, engine, ScriptedEncoder(), ScriptedDialogue(), WINDOW_ROUNDS), FrameReader(budget)


def real_parts(settings: Settings) -> tuple[Parts, FrameReader]:
    """As services.llm.deployment makes them, with the encoder in the same process."""
    import torch

    from models.engine.config import EngineConfig
    from models.engine.engine import Engine
    from models.vlm.model import LanguageModel, VisionEncoder
    from services.llm.encoder_client import EncoderClient

    torch.set_num_threads(1)
    model = LanguageModel.load(settings.model.path)
    vision = VisionEncoder.load(settings.model.path)
    window_rounds = model.config.window_rounds
    config = EngineConfig(
        16, settings.llm.max_kv_tokens, settings.llm.max_batch_tokens, window_rounds=window_rounds
    )

    async def encode(pixels: np.ndarray, carrier: dict[str, str]) -> np.ndarray:
        return vision.encode([pixels])[0].numpy()

    encoder = EncoderClient(encode, settings.encoder.timeout_s)
    parts = _parts(settings, Engine(model, config), encoder, model.dialogue, window_rounds)
    return parts, FrameReader(vision.budget)


def _parts(
    settings: Settings,
    engine: EnginePort,
    encoder: EncoderPort,
    dialogue: DialoguePort,
    window_rounds: int,
) -> Parts:
    return Parts(
        engine,
        encoder,
        Telemetry("llm", settings.telemetry),
        settings.llm,
        dialogue,
        window_rounds,
        lambda: time.time_ns() // 1000,
        time.monotonic,
    )


def main(arguments: list[str]) -> int:
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s.%(msecs)03d %(threadName)s %(name)s %(message)s",
        datefmt="%H:%M:%S",
    )
    logging.getLogger("kafka").setLevel(logging.WARNING)
    logging.getLogger("kafka.coordinator").setLevel(logging.INFO)
    options = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
    settings = Settings.load()
    stop_signal = StopSignal()
    step_s = int(options.get("step-ms", 0)) / 1000
    parts, reader = real_parts(settings) if "real" in options else scripted_parts(settings, step_s)
    failpoint: FailPoint = no_failpoint
    if "fail-at" in options:
        failpoint = _At(options["fail-at"], _die)
    elif "linger-at" in options:
        failpoint = _At(options["linger-at"], _linger)
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
