import numpy as np
import pytest
from PIL import Image

from models.data.instructions import TASKS, find_query
from models.data.scene import SPLITS, EndlessScene
from models.data.simulated import TRUTH_SIZES, keep_times, main, make_sample, truth_of
from models.vlm.state import State


def test_sample_is_deterministic_and_differs_between_splits():
    first, again = make_sample(4, "train"), make_sample(4, "train")
    assert first.instruction == again.instruction and first.rounds == again.rounds
    assert np.array_equal(first.frames, again.frames) and np.array_equal(first.truth, again.truth)
    clips = [make_sample(4, split).frames.tobytes() for split in SPLITS]
    assert len(set(clips)) == len(SPLITS)


@pytest.mark.parametrize("task", TASKS)
def test_sample_is_well_formed(task):
    for seed in range(10):
        sample = make_sample(seed, "test", num_frames=12, task=task)
        assert sample.task == task
        find_query(task, sample.instruction)
        assert sample.frames.shape == (12, 84, 112, 3) and sample.frames.dtype == np.uint8
        assert len(sample.rounds) == 12
        assert sample.truth.shape == (12, len(sample.truth_sizes)) and sample.truth_sizes == TRUTH_SIZES
        assert (sample.truth >= 0).all() and (sample.truth < np.array(TRUTH_SIZES)).all()
        for turn in sample.rounds[1:]:
            assert 500 <= turn.end_ms - turn.start_ms <= 1100


def test_sample_of_another_size():
    assert make_sample(1, "test", 3, budget_hw=(112, 112)).frames.shape == (3, 112, 112, 3)
    with pytest.raises(ValueError, match="num_frames"):
        make_sample(1, "test", 0)


def test_tasks_are_balanced_and_most_clips_tell_something():
    samples = [make_sample(seed, "validation") for seed in range(120)]
    assert {sample.task for sample in samples} == set(TASKS)
    telling = [any(r.state == State.RESPONSE for r in sample.rounds) for sample in samples]
    assert 0.75 < np.mean(telling) < 1
    silent = np.mean([r.state == State.SILENCE for sample in samples for r in sample.rounds])
    assert 0.6 < silent < 0.85


def test_every_truth_class_that_can_be_seen_occurs():
    script = EndlessScene(2).script(1_800_000)
    truth = np.array([truth_of(script.view(t)) for t in range(0, 1_800_000, 300)])
    for column, size in enumerate(TRUTH_SIZES):
        if size != 13:
            assert set(truth[:, column]) == set(range(size))


def test_frames_are_kept_faster_while_something_moves():
    script = EndlessScene(9).segment(0)
    act = script.acts[0]
    times = keep_times(script, 0, 40)
    before = np.diff([t for t in times if t <= act.start_ms])
    assert (before == 1000).all() and len(before)
    moving = [t for t in times if act.telling_ms <= t <= act.end_ms]
    assert (np.diff(moving) <= 600).all()


def test_preview_writes_a_picture(tmp_path):
    path = tmp_path / "sheet.png"
    main(["--preview", str(path), "--seed", "5", "--frames", "7"])
    with Image.open(path) as sheet:
        assert sheet.width > 600 and sheet.height > 300
