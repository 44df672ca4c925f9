"""The vision encoder as a Ray Serve deployment: frames in, visual tokens out, all callers' frames in one batch."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from opentelemetry import propagate
from ray import serve

from services.shared.service_log import start_logging
from services.shared.settings import Settings
from services.shared.telemetry import Metrics, Spans, Telemetry


@serve.deployment(
    name="Encoder",
    health_check_period_s=1,  # a replica that died is found at the next check
    health_check_timeout_s=15,
    graceful_shutdown_timeout_s=10,
    # Else a line is logged for every frame.
    logging_config={"enable_access_log": False},
)
class Encoder:
    """Stateless. One batch is encoded at a time, in a thread, while the next one gathers."""

    def __init__(self, settings: Settings) -> None:
        # Here, not above: whoever deploys only names this class, and need not load the model's libraries for it.
        import torch

        from models.vlm.model import VisionEncoder

        start_logging()
        model = settings.model
        torch.set_num_threads(model.num_threads)
        self._encoder = VisionEncoder.load(Path(model.path), getattr(torch, model.dtype), model.device)
        self._telemetry = Telemetry("encoder", settings.telemetry)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._encode_batch.set_max_batch_size(settings.encoder.max_batch_frames)  # type: ignore[attr-defined]
        self._encode_batch.set_batch_wait_timeout_s(  # type: ignore[attr-defined]
            settings.encoder.batch_wait_ms / 1000
        )

    async def encode(self, pixels: np.ndarray, carrier: dict[str, str]) -> np.ndarray:
        """Visual tokens float32 [rows * cols, visual_size] of a frame uint8 [height, width, 3] at a budget size.

        `carrier` holds the trace the frame belongs to. ValueError for any other picture; it harms no other call.
        """
        budget = self._encoder.budget
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise ValueError(f"a frame is uint8 [height, width, 3], got {pixels.dtype} {list(pixels.shape)}")
        if pixels.shape[0] * pixels.shape[1] > budget.max_pixels:
            raise ValueError(f"a frame of {pixels.shape[1]}x{pixels.shape[0]} px is more than the budget's")
        budget.grid(pixels.shape[0], pixels.shape[1])
        tokens: np.ndarray = await self._encode_batch(pixels, carrier)
        return tokens

    @serve.batch
    async def _encode_batch(
        self, frames: list[np.ndarray], carriers: list[dict[str, str]]
    ) -> list[np.ndarray]:
        start_us = time.time_ns() // 1000
        tokens = await asyncio.get_running_loop().run_in_executor(self._worker, self._encode, frames)
        end_us = time.time_ns() // 1000
        self._telemetry.record(Metrics.ENCODE_MS, (end_us - start_us) / 1000)
        self._telemetry.record(Metrics.ENCODE_BATCH_FRAMES, len(frames))
        for carrier in carriers:
            self._telemetry.span(Spans.ENCODE_BATCH, start_us, end_us, propagate.extract(carrier))
        return tokens

    def _encode(self, frames: list[np.ndarray]) -> list[np.ndarray]:
        return [tokens.float().cpu().numpy() for tokens in self._encoder.encode(frames)]

    def check_health(self) -> None:
        """Raises where the device has gone; Serve then replaces the replica."""
        self._encoder.check_device()

    def __del__(self) -> None:
        if hasattr(self, "_telemetry"):
            self._telemetry.close()
