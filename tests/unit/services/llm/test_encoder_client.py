"""The encoder client keeps asking until its time is over, and tells a bad picture at once."""

import asyncio
import traceback
from collections.abc import Iterator

import numpy as np
import pytest
from opentelemetry.context import Context
from ray.exceptions import RayActorError, RayError, RayTaskError

from services.llm.encoder_client import EncoderClient
from services.shared.errors import Unavailable

PIXELS = np.zeros((28, 28, 3), dtype=np.uint8)


class Encoder:
    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.num_calls = 0

    async def __call__(self, pixels: np.ndarray, carrier: dict[str, str]) -> np.ndarray:
        self.num_calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return np.ones((1, 4), dtype=np.float32)


@pytest.fixture
def clients() -> Iterator[list[EncoderClient]]:
    clients: list[EncoderClient] = []
    yield clients
    for client in clients:
        client.close()


def ask(clients: list[EncoderClient], encoder: Encoder, timeout_s: float = 5) -> object:
    clients.append(EncoderClient(encoder, timeout_s))
    return clients[-1].submit(PIXELS, Context()).result(10)


def as_ray_raises(error: Exception) -> Exception:
    """What a caller gets for an error of a deployment's method, after its way between the processes."""
    told = RayTaskError("encode", "".join(traceback.format_exception(error)), error).to_bytes()
    return RayError.from_bytes(told).as_instanceof_cause()


def test_tokens_come_back(clients):
    tokens = ask(clients, Encoder())
    assert tuple(tokens.shape) == (1, 4)


def test_a_failed_call_is_tried_again(clients):
    encoder = Encoder(ConnectionError("gone"), RuntimeError("restarting"))
    ask(clients, encoder)
    assert encoder.num_calls == 3


def test_a_bad_picture_is_not_tried_again(clients):
    encoder = Encoder(ValueError("bad size"))
    with pytest.raises(ValueError, match="bad size"):
        ask(clients, encoder)
    assert encoder.num_calls == 1


def test_a_bad_picture_is_not_tried_again_when_the_encoder_is_another_process(clients):
    encoder = Encoder(as_ray_raises(ValueError("bad size")))
    with pytest.raises(ValueError, match="bad size"):
        ask(clients, encoder)
    assert encoder.num_calls == 1


def test_what_else_fails_in_another_process_is_tried_again(clients):
    encoder = Encoder(as_ray_raises(RuntimeError("CUDA error")), RayActorError())
    ask(clients, encoder)
    assert encoder.num_calls == 3


def test_an_encoder_that_stays_away_is_unavailable(clients):
    encoder = Encoder(*[ConnectionError("gone")] * 100)
    with pytest.raises(Unavailable, match="encoder"):
        ask(clients, encoder, timeout_s=0.5)


def test_the_time_of_a_call_begins_when_its_turn_comes(clients):
    """However many wait, an encoder that is well fails none."""

    async def encode(pixels: np.ndarray, carrier: dict[str, str]) -> np.ndarray:
        await asyncio.sleep(0.4)
        return np.ones((1, 4), dtype=np.float32)

    clients.append(EncoderClient(encode, timeout_s=2, max_calls=1))
    calls = [clients[-1].submit(PIXELS, Context()) for _ in range(8)]
    assert [tuple(call.result(10).shape) for call in calls] == [(1, 4)] * 8


def test_calls_that_wait_for_an_encoder_that_stays_away_end_too(clients):
    async def encode(pixels: np.ndarray, carrier: dict[str, str]) -> np.ndarray:
        await asyncio.sleep(60)
        raise AssertionError("it was given up before")

    clients.append(EncoderClient(encode, timeout_s=0.1, max_calls=1))
    calls = [clients[-1].submit(PIXELS, Context()) for _ in range(4)]
    for call in calls:
        with pytest.raises(Unavailable):
            call.result(10)
