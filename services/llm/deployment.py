"""The LLM replica as a Ray Serve deployment: Serve starts it, watches it and ends it; the work comes from Kafka."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from ray import serve

from services.shared.errors import Unavailable
from services.shared.service_log import start_logging
from services.shared.settings import Settings
from services.shared.telemetry import Telemetry

_MAX_HEARTBEAT_AGE_S = 30.0
_STOP_TIMEOUT_S = 10.0


@serve.deployment(
    name="LLM",
    max_ongoing_requests=4,
    health_check_period_s=1,  # a replica that died is found at the next check
    health_check_timeout_s=15,
    graceful_shutdown_wait_loop_s=0.5,
    graceful_shutdown_timeout_s=30,
)
class LLM:
    """One engine, one member of the consumer group. Serve routes nothing to it."""

    def __init__(self, settings: Settings, encoder: Any) -> None:
        # Here, not above: whoever deploys only names this class, and need not load the model's libraries for it.
        import torch

        from models.engine.attention import attention_backend
        from models.engine.config import EngineConfig
        from models.engine.engine import Engine
        from models.vlm.frame_size import FrameBudget
        from models.vlm.model import LanguageModel
        from services.llm.encoder_client import EncoderClient
        from services.llm.frame_reader import FrameReader
        from services.llm.parts import Parts
        from services.llm.replica import Replica

        start_logging()
        model = settings.model
        torch.set_num_threads(model.num_threads)
        language_model = LanguageModel.load(Path(model.path), getattr(torch, model.dtype), model.device)
        budget = FrameBudget.load(model.path)
        window_rounds = settings.llm.window_rounds or language_model.config.window_rounds
        engine = Engine(
            language_model,
            EngineConfig(
                max_sessions=settings.llm.max_sessions,
                max_kv_tokens=settings.llm.max_kv_tokens,
                max_batch_tokens=settings.llm.max_batch_tokens,
                window_rounds=window_rounds,
                max_window_tokens=settings.llm.max_window_tokens or None,
                max_frame_tokens=budget.max_pixels // budget.unit**2,
            ),
            attention_backend(settings.llm.attention, language_model.device, language_model),
        )

        async def encode(pixels: np.ndarray, carrier: dict[str, str]) -> np.ndarray:
            tokens: np.ndarray = await encoder.encode.remote(pixels, carrier)
            return tokens

        self._telemetry = Telemetry("llm", settings.telemetry)
        self._encoder = EncoderClient(encode, settings.encoder.timeout_s)
        parts = Parts(
            engine,
            self._encoder,
            self._telemetry,
            settings.llm,
            language_model.dialogue,
            window_rounds,
            lambda: time.time_ns() // 1000,
            time.monotonic,
        )
        self._replica = Replica(settings, parts, FrameReader(budget))
        self._thread = threading.Thread(target=self._replica.run, name="llm-replica", daemon=True)
        self._thread.start()

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What ServePolicy goes by. Serve asks every few seconds where the number of replicas is not fixed."""
        return self._replica.load.metrics()

    def check_health(self) -> None:
        """Raises Unavailable where the loop stands still or has ended; Serve then replaces the replica."""
        if self._replica.failure is not None:
            raise Unavailable(f"the replica failed: {self._replica.failure!r}")
        if self._replica.heartbeat_age_s > _MAX_HEARTBEAT_AGE_S:
            raise Unavailable(f"the replica's loop stands still for {self._replica.heartbeat_age_s:.0f} s")

    def __del__(self) -> None:
        if hasattr(self, "_replica"):
            self._replica.stop(_STOP_TIMEOUT_S)
            self._encoder.close()
            self._telemetry.close()
