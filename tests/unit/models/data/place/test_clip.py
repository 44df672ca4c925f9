import itertools

import numpy as np
import pytest
from PIL import Image

from models.data.place.balance import balances, table
from models.data.place.clip import MAX_SPAN_ROUNDS, draw_clip, draw_others
from models.data.place.contact_sheet import main
from models.data.place.instruction import find_query, wordings
from models.data.place.label import label
from models.data.place.query import TASKS
from models.data.place.simulated import make_sample
from models.data.place.split import HELD_OUT_COMBINATIONS, SPLITS
from models.data.place.truth import TRUTH_SIZES, asked_of
from models.vlm.frame_sampler import SamplerConfig
from models.vlm.state import State


def test_sample_is_deterministic_and_differs_between_splits():
    first, again = make_sample(4, "train"), make_sample(4, "train")
    assert first.instruction == again.instruction and first.rounds == again.rounds
    assert np.array_equal(first.frames, again.frames) and np.array_equal(first.truth.seen, again.truth.seen)
    clips = [make_sample(4, split).frames.tobytes() for split in SPLITS]
    assert len(set(clips)) == len(SPLITS)


@pytest.mark.parametrize("task", TASKS)
def test_sample_is_well_formed(task):
    for seed in range(8):
        sample = make_sample(seed, "test", num_frames=12, task=task)
        assert sample.task == task
        find_query(task, sample.instruction)
        assert sample.frames.shape == (12, 112, 140, 3) and sample.frames.dtype == np.uint8
        assert len(sample.rounds) == len(sample.since) == 12 and 0 <= sample.first_live < 12
        truth = sample.truth
        assert truth.sizes == TRUTH_SIZES and len(truth.seen) == len(truth.acts) == 12
        columns = (truth.seen, truth.acts, truth.asked[None])
        for rows, sizes in zip(columns, TRUTH_SIZES[:3], strict=True):
            assert rows.shape[1] == len(sizes) and (rows >= 0).all() and (rows < np.array(sizes)).all()
        assert len(truth.answers) == 12 and (truth.answers < TRUTH_SIZES.answers).all()
        assert all(a.end_ms == b.start_ms for a, b in itertools.pairwise(sample.rounds))


def test_sample_of_another_size_sampler_and_calm():
    assert make_sample(1, "test", 3, budget_hw=(56, 84)).frames.shape == (3, 56, 84, 3)
    clip = draw_clip(2, "test", 20, sampler=SamplerConfig(min_fps=0.5, max_fps=0.5), start_ms=7000)
    assert clip.times_ms == tuple(range(7000, 7000 + 20 * 2000, 2000))
    quiet = draw_clip(2, "test", 200, "narration", calm=float("inf"))
    assert not quiet.golds and not quiet.script.told_acts
    for arguments, field in (((1, "test", 0), "num_frames"), ((1, "test", 5, "poetry"), "task")):
        with pytest.raises(ValueError, match=field):
            draw_clip(*arguments)


def test_frames_are_kept_faster_while_something_moves():
    rates = set()
    for seed in range(12):
        clip = draw_clip(seed, "train", 30, sampler=SamplerConfig(min_fps=0.5, max_fps=2.0), calm=1.5)
        intervals = np.diff(clip.times_ms)
        assert intervals.min() >= 500 and intervals.max() <= 2000
        rates |= {int(interval) for interval in intervals}
        # Looked at as fast as allowed from when it can be seen to its end.
        for act in clip.script.told_acts:
            seen = [time_ms for time_ms in clip.times_ms if act.telling_ms <= time_ms <= act.end_ms]
            assert all(b - a <= 600 for a, b in itertools.pairwise(seen))
    assert {500, 2000} <= rates


def test_what_a_split_shows_and_asks():
    """Balance, hold-outs and reach over many clips of training and test."""
    for split in ("train", "test"):
        clips = [draw_clip(seed, split, 32) for seed in range(90)]
        every = balances(clips)["all"]
        assert {clip.task for clip in clips} == set(TASKS)
        assert 0.65 < every.states[State.SILENCE] / every.rounds < 0.9
        assert every.states[State.STANDBY] / every.rounds > 0.05
        assert 0.08 < every.negatives / every.clips < 0.35
        assert 0.25 < every.late / every.clips < 0.55
        assert every.backward and every.joint
        in_vain = [clip for clip in clips if not clip.golds and clip.task in ("event", "grounding")]
        for_things = sum(bool(clip.query.thing) for clip in in_vain)
        assert 0 < for_things < len(in_vain) / 2
        assert max(clip.times_ms[-1] for clip in clips) > 3_600_000
        for clip in clips:
            assert all(index - since <= MAX_SPAN_ROUNDS for index, since in enumerate(clip.since))
            texts = wordings(clip.query)
            assert (clip.instruction in texts.held_out) == ("instruction" in clip.held_out)
            if split == "train":
                assert not clip.held_out
                told = {(gold.slots.kind, gold.slots.colour) for gold in clip.golds}
                assert not told & HELD_OUT_COMBINATIONS and not clip.query.held_out
        if split == "test":
            assert all(every.held_out[name] > 5 for name in ("layout", "combination", "instruction"))
        assert table(balances(clips)).count("\n") == 2 + len(TASKS)


def test_what_drills_ask_for_happens_more_often():
    for task, times in (("event", 1.5), ("grounding", 1.1)):
        told = {
            drills: [draw_clip(seed, "train", 48, task, drills=drills) for seed in range(160)]
            for drills in (False, True)
        }
        plain, drilled = (sum(len(clip.golds) for clip in told[drills]) for drills in (False, True))
        assert drilled > times * plain, task
        # Some still ask in vain, and nothing is shown or asked that only the test set may show.
        in_vain = sum(not clip.golds for clip in told[True])
        assert 16 <= in_vain <= 64, task
        assert not any(clip.held_out for clip in told[True])
    assert {draw_clip(seed, "train", 6, drills=True).task for seed in range(150)} == set(TASKS)


def test_of_calm_samples_hardly_anything_is_told():
    lively, calm = (
        [make_sample(seed, "train", 48, task="narration", is_calm=is_calm).rounds for seed in range(15)]
        for is_calm in (False, True)
    )
    told = [sum(one.state is State.RESPONSE for rounds in of for one in rounds) for of in (lively, calm)]
    assert 5 < told[1] < told[0] / 4


def test_who_asks_late_in_a_drill_has_not_waited_for_long():
    waited = {
        drills: [draw_clip(seed, "train", 48, drills=drills).first_live for seed in range(150)]
        for drills in (False, True)
    }
    assert max(waited[True]) == 16 < max(waited[False]) == 24


def test_drills_begin_as_often_at_times_of_four_five_and_six_digits():
    begins_s = {
        drills: [draw_clip(seed, "train", 1, drills=drills).times_ms[0] // 1000 for seed in range(300)]
        for drills in (False, True)
    }
    plain, drilled = (
        [sum(len(str(begin_s)) == digits for begin_s in begins_s[drills]) for digits in (4, 5, 6)]
        for drills in (False, True)
    )
    assert all(40 <= number <= 80 for number in drilled)
    assert plain[-1] < 30
    assert sum(begin_s == 0 for begin_s in begins_s[True]) > 10


def test_other_instructions_have_the_states_that_they_would_have_alone():
    states, tasks, num_telling = [], [], 0
    for seed in range(30):
        sample, plain = make_sample(seed, "train", 24, num_others=3), make_sample(seed, "train", 24)
        assert np.array_equal(sample.frames, plain.frames) and sample.rounds == plain.rounds
        clip = draw_clip(seed, "train", 24)
        assert len(sample.others) == 3 and not plain.others
        for other in sample.others:
            query = next(query for task in TASKS if (query := _query_or_none(task, other.instruction)))
            alone = label(clip.script.told_acts, clip.views, clip.times_ms, query, clip.first_live)
            assert other.states.tolist() == [round_.state for round_ in alone]
            assert other.asked.tolist() == list(asked_of(query)) and not query.held_out
            num_telling += any(other.states[clip.first_live + 1 :] != State.SILENCE)
            states += other.states.tolist()
            tasks.append(query.task)
    assert set(tasks) == set(TASKS) and num_telling > 50
    assert all(states.count(state) > 60 for state in State), [states.count(state) for state in State]
    clip = draw_clip(3, "test", 24)
    others = draw_others(clip, "test", 60, np.random.default_rng(0))
    assert any(text in wordings(query).held_out for text, query in others)


def _query_or_none(task, instruction):
    try:
        return find_query(task, instruction)
    except ValueError:
        return None


def test_long_streams_ask_only_what_a_window_can_answer():
    for seed, task in enumerate(("grounding", "grounding", "action", "event", "qa", "grounding")):
        clip = draw_clip(seed, "test", 400, task, calm=(0.6, 8.0)[seed % 2])
        assert len(clip.rounds) == 400 and clip.first_live <= 24
        assert all(index - since <= MAX_SPAN_ROUNDS for index, since in enumerate(clip.since))


def test_clip_begins_where_nothing_has_only_just_begun():
    for seed in range(40):
        clip = draw_clip(seed, "train", 16)
        begin_ms = clip.times_ms[0]
        assert all(not act.start_ms <= begin_ms < act.telling_ms for act in clip.script.told_acts)


def test_contact_sheet_is_a_picture(tmp_path):
    path = tmp_path / "sheet.png"
    main([str(path), "--seed", "5", "--frames", "7"])
    with Image.open(path) as sheet:
        assert sheet.width > 800 and sheet.height > 200
