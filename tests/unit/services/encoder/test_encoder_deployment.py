"""The encoder as Serve calls it, without Ray: the class that is deployed, on the checkpoint that is shipped."""

import asyncio
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
from ray import serve

from models.vlm.model import VisionEncoder
from services.encoder.deployment import Encoder
from services.shared.settings import EncoderSettings, Settings


@dataclass
class Run:
    encoder: Encoder
    good: list[np.ndarray]
    answers: list[np.ndarray]  # to the good ones
    refusals: list[BaseException]  # of the bad ones
    batches: list[int]  # sizes


@pytest.fixture(scope="module")
def run() -> Run:
    """Eight good pictures and four bad ones among them, all at once."""
    replica = SimpleNamespace(_deployment_config=SimpleNamespace(max_ongoing_requests=64))
    batches = []
    encode = VisionEncoder.encode

    def count(encoder: VisionEncoder, frames: list[np.ndarray]) -> object:
        batches.append(len(frames))
        return encode(encoder, frames)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serve, "get_replica_context", lambda: replica)
        patch.setattr(VisionEncoder, "encode", count)
        encoder = Encoder.func_or_class(
            Settings(encoder=EncoderSettings(max_batch_frames=3, batch_wait_ms=50))
        )
        random = np.random.default_rng(0)
        good = [random.integers(0, 256, (56, 28 * (1 + i % 2), 3), dtype=np.uint8) for i in range(8)]
        bad = [good[0][:, :, 0], good[0].astype(np.float32), good[0][:55], np.zeros((140, 140, 3), np.uint8)]

        async def ask() -> list[np.ndarray | BaseException]:
            pictures = [*good[:4], *bad, *good[4:]]
            return await asyncio.gather(
                *(encoder.encode(one, {}) for one in pictures), return_exceptions=True
            )

        told = asyncio.run(ask())
        # Serve keeps the queue with the class; with it nobody after us in this process could deploy that.
        Encoder.func_or_class._encode_batch.set_max_batch_size.__self__._queue = None
    return Run(encoder, good, [*told[:4], *told[8:]], told[4:8], batches)


def test_a_bad_picture_is_refused_and_harms_no_other(run: Run) -> None:
    assert [type(refusal) for refusal in run.refusals] == [ValueError] * 4
    for picture, answer in zip(run.good, run.answers, strict=True):
        (alone,) = run.encoder._encode([picture])
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, alone, atol=1e-5)


def test_calls_share_batches_of_no_more_frames_than_allowed(run: Run) -> None:
    assert run.batches == [3, 3, 2]


def test_a_device_that_no_longer_answers_is_bad_health(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.encoder.check_health()

    def fail(encoder: VisionEncoder) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(VisionEncoder, "check_device", fail)
    with pytest.raises(RuntimeError, match="CUDA"):
        run.encoder.check_health()
