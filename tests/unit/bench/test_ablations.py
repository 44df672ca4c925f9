"""The ablations over a model of hardly any size: every arm's way, not what comes of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.data.place import simulated
from models.evaluation.stream_plan import StreamPlan
from models.training.dataset import ClipPlan
from models.training.recipes import ScratchRecipe, tiny
from models.training.run import Simulator
from models.training.warm_up import WarmUp
from models.vlm.frame_size import FrameBudget
from models.vlm.state import State
from tests.bench import ablation_report
from tests.bench.ablation_arms import ARMS, ArmSamples, without_standby
from tests.bench.ablations import Ablations, Plan
from tests.support.least_architecture import LEAST_ARCHITECTURE

STREAMS = StreamPlan(lively_streams=1, lively_rounds=6, quiet_streams=0, tasks=("event", "qa"))
BY_NAME = {arm.name: arm for arm in ARMS}


@pytest.fixture(scope="module")
def recipe() -> ScratchRecipe:
    """The embedded model's recipe, but for the sizes and the lengths."""
    return replace(
        tiny(),
        architecture=LEAST_ARCHITECTURE,
        budget=FrameBudget(min_pixels=28 * 28, max_pixels=140 * 112),
        vocab_size=400,
        batch_size=2,
        clips=ClipPlan(num_rounds=(4, 6), max_dropped=2, overlap_rounds=1, full_rounds=4),
        warm_up=replace(
            WarmUp(), max_steps=1, clips_per_batch=1, clip_rounds=2, frames_per_clip=1, warmup_steps=1
        ),
        num_validation_samples=1,
    )


def test_arms_differ_in_what_their_names_say(recipe: ScratchRecipe) -> None:
    changed = {arm.name: arm.change(recipe) for arm in ARMS}
    reference = changed["reference"]
    assert (reference.loss.gamma, reference.loss.balance) == (2.0, "frequency")
    assert (changed["cross-entropy"].loss.gamma, changed["cross-entropy"].loss.balance) == (0.0, None)
    assert changed["class-balanced"].loss == replace(reference.loss, balance="class_balanced")
    assert changed["respond-only"] == reference
    assert changed["whole-clips"] == replace(reference, clips=replace(reference.clips, joined_late=0.0))
    for arm in ARMS:
        assert replace(changed[arm.name], loss=reference.loss, clips=reference.clips) == reference


def test_samples_without_standby_show_and_tell_the_same() -> None:
    plain = ArmSamples(simulated.make_sample, 0)
    respond_only = ArmSamples(simulated.make_sample, 0, is_respond_only=True)
    (seed,) = [s for s in range(40) if State.STANDBY in {one.state for one in plain(s, "train", 10).rounds}][
        :1
    ]
    with_it, without = plain(seed, "train", 10), respond_only(seed, "train", 10)
    assert (with_it.frames == without.frames).all() and with_it.since == without.since
    for one, other in zip(with_it.rounds, without.rounds, strict=True):
        assert (one.text, one.end_ms) == (other.text, other.end_ms)
        assert other.state is (State.SILENCE if one.state is State.STANDBY else one.state)
    assert without_standby(without) == without
    # Another seed is other clips to learn from, and the same ones to be measured on.
    other_seed = ArmSamples(simulated.make_sample, 1)
    assert (other_seed(seed, "train", 10).frames != with_it.frames).any()
    assert other_seed(seed, "validation", 10).rounds == plain(seed, "validation", 10).rounds


def test_arms_are_trained_scored_and_reported_and_nothing_is_done_twice(
    tmp_path: Path, recipe: ScratchRecipe
) -> None:
    torch.set_num_threads(1)
    arms = [BY_NAME["reference"], BY_NAME["class-balanced"]]
    ablations = Ablations(tmp_path, recipe, Simulator(), arms)
    ablations.warm(None)
    plan = ablations.plan(2, 15.0, [0, 1], STREAMS)
    assert plan == Plan(2, (0, 1), STREAMS)
    told: list[None] = []
    results = ablations.run(plan, lambda: told.append(None))

    assert len(told) == 4
    reference, balanced = results["arms"]
    assert (
        set(reference["scores"]) == {"event", "qa", "all"}
        and "timed_qa_accuracy" in reference["scores"]["qa"]
    )
    assert all(len(values) == 2 for values in balanced["scores"]["all"].values())
    assert balanced["differences"]["all"].keys() == balanced["scores"]["all"].keys()
    learnt = [w for w, n in zip(balanced["state_weights"], balanced["state_counts"], strict=True) if n]
    assert sum(learnt) == pytest.approx(len(learnt))
    histories = [
        json.loads((tmp_path / f"reference-{seed}/run/checkpoint-2/trainer_state.json").read_text())[
            "log_history"
        ]
        for seed in (0, 1)
    ]
    losses = [[entry["loss"] for entry in history if "loss" in entry] for history in histories]
    assert len(losses[0]) == len(losses[1]) == 2 and losses[0] != losses[1]

    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("checkpoint-*/*")}
    again = Ablations(tmp_path, recipe, Simulator(), arms)
    again.warm(None)
    repeated = again.run(again.plan(None, 1.0, [0, 1], STREAMS))
    assert repeated["arms"] == results["arms"]
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("checkpoint-*/*")}
    with pytest.raises(ValueError, match=r"holds other ablations \(steps differ\)"):
        again.plan(3, 15.0, [0, 1], STREAMS)
    with pytest.raises(ValueError, match="no tower was warmed up there"):
        Ablations(tmp_path / "other", recipe).warm(tmp_path)
    with pytest.raises(ValueError, match=r"recipe differ"):
        Ablations(tmp_path, replace(recipe, learning_rate=1.0)).plan(2, 15.0, [0, 1], STREAMS)

    kept = json.loads(json.dumps(results))
    page = ablation_report.write(kept)
    assert "**Short runs**: 2 steps" in page and "| score | reference | class-balanced |" in page
    assert max(map(len, page.splitlines())) < 400
    ablation_report.draw(kept, tmp_path / "ablations.png")
    assert (tmp_path / "ablations.png").stat().st_size > 0
