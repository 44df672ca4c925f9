"""What every stream of a replica works with."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from opentelemetry.context import Context

from services.llm.session import DialoguePort, EnginePort
from services.shared.settings import LlmSettings
from services.shared.telemetry import Telemetry

if TYPE_CHECKING:
    import torch


class EncoderPort(Protocol):
    def submit(self, pixels: np.ndarray, context: Context) -> Future[torch.Tensor]:
        """Visual tokens [rows * cols, visual_size]; ValueError for a picture that cannot be encoded. Thread-safe."""
        ...


@dataclass(frozen=True)
class Parts:
    engine: EnginePort
    encoder: EncoderPort
    telemetry: Telemetry
    settings: LlmSettings
    dialogue: DialoguePort
    window_rounds: int
    wall_us: Callable[[], int]
    monotonic_s: Callable[[], float]
