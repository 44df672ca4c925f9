import hashlib
import json

import av
import numpy as np
import pytest

from models.data.finding import Finding
from models.data.place.clip import draw_clip
from models.data.place.data_set import DataSetConfig, raw_sample, write_data_set, write_video
from models.data.place.label import label
from models.data.place.picture import render
from models.data.place.query import TASKS
from models.data.place.script import Script
from models.data.raw_sample import RawSample
from models.data.sample import SEPARATOR
from models.data.sessions import SessionFile
from models.data.span import read_span
from models.vlm.state import State

SMALL = {"num_frames": 6, "width": 160, "height": 128}


def test_same_settings_give_the_same_files_and_other_seeds_others(tmp_path):
    manifests = [
        write_data_set(DataSetConfig("train", 2, seed, **SMALL), tmp_path / name)
        for seed, name in ((3, "a"), (3, "b"), (4, "c"))
    ]
    assert manifests[0] == manifests[1]
    assert set(manifests[0]["files"]) == {
        "raw.json",
        "truth.jsonl",
        "videos/train-000003.mp4",
        "videos/train-000004.mp4",
    }
    shared = "videos/train-000004.mp4"
    # The same seed as another task's turn: the same place.
    assert manifests[0]["files"][shared]["bytes"] > 1000
    assert manifests[0]["files"]["raw.json"] != manifests[2]["files"]["raw.json"]
    for name, entry in manifests[0]["files"].items():
        assert hashlib.sha256((tmp_path / "a" / name).read_bytes()).hexdigest() == entry["sha256"]
    with pytest.raises(ValueError, match="not empty"):
        write_data_set(DataSetConfig("train", 1), tmp_path / "a")


def test_video_shows_the_clip(tmp_path):
    write_data_set(DataSetConfig("test", 1, 8, fps=5, **SMALL), tmp_path)
    clip = draw_clip(8, "test", 6, TASKS[0], start_ms=0)
    with av.open(str(tmp_path / "videos" / "test-000008.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    num_shown = (clip.times_ms[-1] - clip.times_ms[0]) // 200 + 1
    assert len(frames) == num_shown + 10  # two seconds more
    assert any(act.start_ms < clip.times_ms[-1] and act.end_ms > 1000 for act in clip.script.told_acts)
    for index, frame in enumerate(frames[:num_shown]):
        drawn = render(clip.script, index * 200, 128, 160)
        assert num_different(frame, drawn) < 40  # compression, and nothing that is somewhere else
    still = frames[num_shown:]
    assert all(num_different(frame, still[0]) < 10 for frame in still)


def test_what_is_told_last_has_a_frame_at_one_a_second_too(tmp_path):
    write_data_set(DataSetConfig("train", 10, num_frames=12, width=160, height=128), tmp_path)
    raw = [RawSample.parse(element) for element in json.loads((tmp_path / "raw.json").read_text())]
    samples = SessionFile(tmp_path / "raw.json", None, fps=1.0)
    findings: list[Finding] = []
    told = [
        sum(turn.state == State.RESPONSE for turn in session.rounds)
        for index in range(len(samples))
        for session in samples.sessions(index, findings.append)
    ]
    assert not findings
    assert [number > 0 for number in told] == [bool(sample.response) for sample in raw]


def test_truth_is_enough_to_label_again(tmp_path):
    write_data_set(DataSetConfig("test", 5, num_frames=30, with_videos=False), tmp_path)
    lines = (tmp_path / "truth.jsonl").read_text().splitlines()
    samples = [RawSample.parse(element) for element in json.loads((tmp_path / "raw.json").read_text())]
    assert [sample.task_type for sample in samples] == list(TASKS)
    for index, (line, sample) in enumerate(zip(lines, samples, strict=True)):
        truth = json.loads(line)
        clip = draw_clip(index, "test", 30, TASKS[index], start_ms=0)
        script = Script.from_json(json.dumps(truth["script"]))
        assert script == clip.script and tuple(truth["times_ms"]) == clip.times_ms
        views = [script.view(time_ms) for time_ms in truth["times_ms"]]
        rounds = label(script.told_acts, views, truth["times_ms"], clip.query, truth["first_live"])
        assert rounds == clip.rounds
        assert sample.question[0].content == clip.instruction


def test_raw_times_are_decimal_seconds_that_are_never_early():
    num_spans = 0
    for seed in range(30):
        clip = draw_clip(seed, "train", 30, start_ms=0)
        sample = raw_sample(clip, "x")
        assert len(sample.response) == len(clip.golds)
        assert (
            sample.question[0].time
            == f"{-(-clip.times_ms[clip.first_live] // 100) / 10 if clip.first_live else 0:.1f}"
        )
        for response, gold in zip(sample.response, clip.golds, strict=True):
            frame = clip.times_ms.index(gold.frame_ms)
            assert clip.rounds[frame].state == State.RESPONSE and response.content in clip.rounds[frame].text
            if response.time is None:
                num_spans += 1
                assert float(response.st_time) < float(response.end_time) <= gold.frame_ms / 1000 + 0.1
                assert float(response.st_time) * 1000 >= gold.open_ms
                assert float(response.end_time) * 1000 >= gold.end_ms
            else:
                assert float(response.time) * 1000 >= gold.frame_ms
    assert num_spans > 5


def test_no_span_is_told_before_it_has_ended_at_any_frame_rate(tmp_path):
    clips = [draw_clip(seed, "train", 30, "grounding", start_ms=0) for seed in range(20)]
    write_video(max(clips, key=lambda clip: clip.times_ms[-1]), tmp_path / "v.mp4", 10, 112, 144)
    elements = [raw_sample(clip, "x").to_element() | {"video_path": "v.mp4"} for clip in clips]
    (tmp_path / "raw.json").write_text(json.dumps(elements))
    num_told = 0
    for fps in (0.5, 1.0, 2.0, 4.0):
        samples = SessionFile(tmp_path / "raw.json", None, fps)
        for index in range(len(samples)):
            for session in samples.sessions(index):
                for turn in session.rounds:
                    spans = [read_span(part) for part in turn.text.split(SEPARATOR) if part]
                    num_told += len(spans)
                    assert all(end_ms <= turn.end_ms for _, end_ms in spans)
    assert num_told > 20


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"split": "holdout", "num_samples": 1}, "split"),
        ({"split": "test", "num_samples": 0}, "num_samples"),
        ({"split": "test", "num_samples": 1, "num_frames": 0}, "num_frames"),
        ({"split": "test", "num_samples": 1, "fps": 0}, "fps"),
        ({"split": "test", "num_samples": 1, "width": 280}, "size"),
    ],
)
def test_caller_mistakes_are_told(arguments, field):
    with pytest.raises(ValueError, match=field):
        DataSetConfig(**arguments)


def num_different(picture: np.ndarray, other: np.ndarray) -> int:
    """Pixels of clearly another colour."""
    return int((np.abs(picture.astype(int) - other).max(axis=2) > 80).sum())
