"""The baselines do the same work as the engine, so that their times can be compared."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.engine.config import EngineConfig
from models.engine.engine import Engine
from models.engine.round import Decision, RoundInput
from models.vlm.model import LanguageModel
from models.vlm.state import State
from services.shared.settings import ModelSettings
from tests.bench.hugging_face import (
    Chat,
    CroppedCache,
    EvictMany,
    HuggingFaceModel,
    PrefilledWindow,
    ResendWindow,
)
from tests.bench.workload import Workload

WINDOW_ROUNDS = 6


@pytest.fixture(scope="module")
def workload() -> Workload:
    torch.set_num_threads(1)
    return Workload.load(ModelSettings().path)


@pytest.fixture(scope="module")
def hf(workload: Workload) -> HuggingFaceModel:
    return HuggingFaceModel.of(workload.model)


def rounds(workload: Workload, num_rounds: int) -> list[RoundInput]:
    """Every third one responds, so that rounds differ in length."""
    model = workload.model
    answer = tuple(model.dialogue.reply(State.RESPONSE, "a red car arrived"))
    return [
        replace(one, forced_reply=answer) if index % 3 == 2 else one
        for index, one in enumerate(workload.quiet_round(i) for i in range(num_rounds))
    ]


def engine_logits(model: LanguageModel, instruction: str, feed: list[RoundInput]) -> np.ndarray:
    engine = Engine(
        model,
        EngineConfig(
            max_sessions=1,
            max_kv_tokens=8192,
            max_batch_tokens=512,
            window_rounds=WINDOW_ROUNDS,
            max_frame_tokens=len(feed[0].frame),
        ),
    )
    engine.open("s", instruction)
    decided = []
    for one in feed:
        engine.append("s", one)
        while engine.has_work:
            decided += [output.state_logits for output in engine.step() if isinstance(output, Decision)]
    return np.array(decided)


def baseline_logits(chat: Chat, workload: Workload, feed: list[RoundInput]) -> np.ndarray:
    ids = list(workload.model.dialogue.state_token_ids)
    decided = []
    for one in feed:
        decided.append(chat.decide(one)[0, ids].numpy())
        chat.end_round(one.forced_reply or ())
    return np.array(decided)


def make_chat(name: str, workload: Workload, hf: HuggingFaceModel) -> Chat:
    if name == "resend":
        return ResendWindow(hf, workload.instruction, WINDOW_ROUNDS)
    if name == "evict many":
        return EvictMany(hf, workload.instruction, WINDOW_ROUNDS, 3)
    return CroppedCache(hf, workload.instruction, WINDOW_ROUNDS)


@pytest.mark.parametrize("name", ["resend", "evict many", "cropped"])
def test_until_the_window_slides_a_baseline_says_what_the_engine_says(
    workload: Workload, hf: HuggingFaceModel, name: str
) -> None:
    chat = make_chat(name, workload, hf)
    feed = rounds(workload, WINDOW_ROUNDS)
    np.testing.assert_allclose(
        baseline_logits(chat, workload, feed),
        engine_logits(workload.model, workload.instruction, feed),
        atol=2e-4,
        rtol=0,
    )


def test_resending_is_a_fresh_chat_over_the_window(workload: Workload, hf: HuggingFaceModel) -> None:
    feed = rounds(workload, WINDOW_ROUNDS + 4)
    sliding = ResendWindow(hf, workload.instruction, WINDOW_ROUNDS)
    slid = baseline_logits(sliding, workload, feed)
    for last in range(WINDOW_ROUNDS, len(feed)):
        kept = feed[last + 1 - WINDOW_ROUNDS : last + 1]
        fresh = engine_logits(workload.model, workload.instruction, kept)
        np.testing.assert_allclose(slid[last], fresh[-1], atol=2e-4, rtol=0)


def test_after_evicting_many_the_rest_is_a_fresh_chat(workload: Workload, hf: HuggingFaceModel) -> None:
    feed = rounds(workload, WINDOW_ROUNDS + 4)
    chat = EvictMany(hf, workload.instruction, WINDOW_ROUNDS, 3)
    decided = baseline_logits(chat, workload, feed)
    # Round 6 drops 0, 1, 2; round 9 drops 3, 4, 5.
    for last, first in ((6, 3), (7, 3), (8, 3), (9, 6)):
        fresh = engine_logits(workload.model, workload.instruction, feed[first : last + 1])
        np.testing.assert_allclose(decided[last], fresh[-1], atol=2e-4, rtol=0)


def test_a_batch_that_begins_in_mid_cycle_says_what_one_alone_says(
    workload: Workload, hf: HuggingFaceModel
) -> None:
    feed = rounds(workload, WINDOW_ROUNDS)
    prefilled = PrefilledWindow(hf, workload.instruction, feed[:5])
    logits = prefilled.chat(4, 3).decide(feed[4])[:, list(workload.model.dialogue.state_token_ids)]
    expected = engine_logits(workload.model, workload.instruction, feed)[4]
    np.testing.assert_allclose(logits.numpy(), np.tile(expected, (3, 1)), atol=2e-4, rtol=0)


def test_a_cropped_cache_stays_as_long_as_the_window(workload: Workload, hf: HuggingFaceModel) -> None:
    chat = CroppedCache(hf, workload.instruction, WINDOW_ROUNDS)
    lengths = []
    for index in range(3 * WINDOW_ROUNDS):
        one = workload.quiet_round(index)
        chat.decide(one)
        lengths.append(chat.num_tokens)
        chat.end_round(one.forced_reply or ())
    assert set(lengths[WINDOW_ROUNDS - 1 :]) == {workload.window_tokens(WINDOW_ROUNDS)}


@pytest.mark.parametrize("name", ["evict many", "cropped"])
def test_a_reply_decoded_token_by_token_leaves_the_dialogue_where_a_forced_one_does(
    workload: Workload, hf: HuggingFaceModel, name: str
) -> None:
    ids = list(workload.model.dialogue.state_token_ids)
    feed = rounds(workload, 5)
    expected = baseline_logits(make_chat(name, workload, hf), workload, feed)
    spoken = make_chat(name, workload, hf)
    for index, one in enumerate(feed):
        np.testing.assert_allclose(spoken.decide(one)[0, ids].numpy(), expected[index], atol=2e-4, rtol=0)
        reply = one.forced_reply or ()
        for token_id in reply if len(reply) > 1 else ():
            spoken.say(token_id)
        spoken.end_round(reply)
